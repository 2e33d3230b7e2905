"""Training by two processes: gradients are those of one process, and one that fails ends the other.

nnU-Net's own set-up under DDP wants CUDA; here trainers are made as for one process and wrapped by hand, with
the options that nnU-Net gives.
"""

import json
import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_mamba import create_network
from nnunet_mamba.trainers import nnUNetTrainerMMUNet
from nnunet_mamba.trainers.nan_guard import NonFiniteLossError, check_finite_loss
from nnunet_mamba.trainers.recipe_trainer import compute_deep_supervision_weights

PLANNED = {"features_per_stage": [2, 4, 4], "kernel_sizes": [3, 3, 3], "strides": [1, 2, 2]}
OWN = {"features_per_stage": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "depths_decoder": [1, 1, 1, 1]}
CASES = {  # network -> its sizes, and the patch; whether nnU-Net's rule for the coarsest scale holds
    "mm_unet": (PLANNED, (8, 8), False),
    "umamba_enc": (PLANNED, (8, 8), True),
    "mamba_multi": (PLANNED, (8, 8, 8), True),
    "vm_unet": (OWN, (32, 32), True),
}
NETWORKS = [name + twin for name in CASES for twin in ("", "_nossm")]


def network_and_batch(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """In double precision, the same in every process; no paths are dropped, for that is random."""
    sizes, patch, _ = CASES[name.removesuffix("_nossm")]
    sizes = {key: [(size,) * len(patch) if key in ("strides", "kernel_sizes") else size for size in value]
             for key, value in sizes.items()}  # fmt: skip
    torch.manual_seed(0)
    network = create_network(
        name, input_channels=1, num_classes=2, patch_size=patch, deep_supervision=True, **sizes
    ).double()
    for module in network.modules():
        if type(module).__name__ == "DropPath":
            module.eval()
    return network, torch.randn(4, 1, *patch).double(), torch.randint(0, 2, (4, *patch))


def loss_of(name: str, logits: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, a mean over the batch, by the trainers' weights of scales."""
    logits = logits if isinstance(logits, (list, tuple)) else [logits]
    drops = CASES[name.removesuffix("_nossm")][2]
    weights = compute_deep_supervision_weights(len(logits), drop_coarsest=drops)
    losses = []
    for one in logits:
        target = labels[
            (slice(None), *(slice(None, None, labels.shape[2] // one.shape[2]),) * (labels.ndim - 1))
        ]
        losses.append(nn.functional.cross_entropy(one, target))
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def join(rank: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def compare(rank: int, port: int, out: str) -> None:
    """Write, for each network, by how much the gradients of two processes and of one differ at most."""
    join(rank, port)
    difference = {}
    for name in NETWORKS:
        network, data, labels = network_and_batch(name)
        assert not [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        before = [type(module) for module in network.modules()]
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        assert [type(module) for module in network.modules()] == before
        loss_of(name, network(data), labels).backward()
        alone = gradients(network)
        network.zero_grad()
        together = DistributedDataParallel(network)
        half = slice(2 * rank, 2 * rank + 2)
        for _ in range(2):  # DDP notices only in the second step that a gradient was missing in the first
            network.zero_grad()
            loss_of(name, together(data[half]), labels[half]).backward()
        shared = gradients(network)
        difference[name] = max(float((shared[key] - alone[key]).abs().max()) for key in alone)
        assert any(gradient.abs().max() > 0 for gradient in alone.values())
    Path(out, f"rank_{rank}.json").write_text(json.dumps(difference))
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    mp.spawn(compare, args=(free_port(), str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        difference = json.loads((tmp_path / f"rank_{rank}.json").read_text())
        assert list(difference) == NETWORKS
        assert max(difference.values()) < 1e-12, difference


def fail_on_one(rank: int, port: int) -> None:
    """A step of training in which the data of rank 1 are broken."""
    join(rank, port)
    network = DistributedDataParallel(nn.Linear(2, 1))
    loss = nn.MSELoss()
    loss.register_forward_hook(check_finite_loss)
    data = torch.full((2, 2), torch.nan if rank else 1.0)
    loss(network(data), torch.zeros(2, 1)).backward()
    raise AssertionError("rank 0 waits for the gradients of rank 1 until it is ended")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_ends_the_run_of_all():
    """As nnU-Net spawns them: rank 0, which waits in backward, is ended, and does not hang."""
    start = time.monotonic()
    with pytest.raises(Exception, match=f"{NonFiniteLossError.__name__}|Connection|closed by peer"):
        mp.spawn(fail_on_one, args=(free_port(),), nprocs=2)
    assert time.monotonic() - start < 120


def test_what_a_trainer_tells_is_told_once(make_trainer, capsys):
    trainer = make_trainer(nnUNetTrainerMMUNet)
    before = Path(trainer.log_file).read_text()
    capsys.readouterr()
    trainer.local_rank = 1
    trainer.log_message("Selective scan on cuda: backend triton")
    assert (capsys.readouterr().out, Path(trainer.log_file).read_text()) == ("", before)
    trainer.local_rank = 0
    trainer.log_message("Selective scan on cuda: backend triton")
    assert capsys.readouterr().out.count("backend triton") == 1
    assert Path(trainer.log_file).read_text().count("backend triton") == 1
