"""The mixer: its names, its arithmetic written out, its directions."""

import math

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from nnunet_mamba.blocks.mamba import Mamba, stack_token_indices
from nnunet_mamba.blocks.mixers import VoxelMixer
from nnunet_mamba.ops import selective_scan
from nnunet_mamba.scan_order import scan_order


def test_parameter_names_and_shapes_are_mamba_ssms():
    mamba = Mamba(20, scan_order("uni", 3))
    shapes = {name: tuple(parameter.shape) for name, parameter in mamba.named_parameters()}
    assert shapes == {
        "A_log": (40, 16),
        "D": (40,),
        "in_proj.weight": (80, 20),
        "conv1d.weight": (40, 1, 4),
        "conv1d.bias": (40,),
        "x_proj.weight": (2 + 32, 40),
        "dt_proj.weight": (40, 2),
        "dt_proj.bias": (40,),
        "out_proj.weight": (20, 40),
    }


def written_out(mamba: Mamba, tokens: torch.Tensor) -> torch.Tensor:
    """Mamba's block as its paper has it, in plain torch."""
    x, z = F.linear(tokens, mamba.in_proj.weight).chunk(2, -1)
    padded = F.pad(x.transpose(1, 2), (3, 0))
    x = F.silu(F.conv1d(padded, mamba.conv1d.weight, mamba.conv1d.bias, groups=x.shape[-1]))
    dt, B, C = F.linear(x.transpose(1, 2), mamba.x_proj.weight).split([mamba.dt_proj.in_features, 16, 16], -1)
    delta = F.softplus(mamba.dt_proj(dt)).transpose(1, 2)
    y = selective_scan(
        x, delta, -torch.exp(mamba.A_log), B.transpose(1, 2), C.transpose(1, 2), mamba.D, backend="reference"
    )
    return F.linear(y.transpose(1, 2) * F.silu(z), mamba.out_proj.weight)


def test_one_direction_is_the_papers_block():
    torch.manual_seed(0)
    mamba, tokens = Mamba(12, scan_order("uni", 3)).double(), torch.randn(2, 30, 12, dtype=torch.float64)
    torch.testing.assert_close(mamba(tokens, (2, 3, 5)), written_out(mamba, tokens))


def test_the_reverse_direction_is_the_flipped_sequence():
    torch.manual_seed(0)
    forwards, tokens = Mamba(8, scan_order("DHW", 3)).double(), torch.randn(1, 24, 8, dtype=torch.float64)
    backwards = Mamba(8, scan_order("-DHW", 3)).double()
    backwards.load_state_dict(forwards.state_dict())
    torch.testing.assert_close(backwards(tokens, (2, 3, 4)), forwards(tokens.flip(1), (2, 3, 4)).flip(1))


def test_a_permuted_direction_is_the_permuted_volume():
    torch.manual_seed(0)
    grid = (2, 3, 4)
    plain, permuted = VoxelMixer(8, 3, order="DHW").double(), VoxelMixer(8, 3, order="WDH").double()
    permuted.load_state_dict(plain.state_dict())
    x = torch.randn(1, 8, *grid, dtype=torch.float64)
    turned = plain(x.permute(0, 1, 4, 2, 3))
    torch.testing.assert_close(permuted(x), turned.permute(0, 1, 3, 4, 2))


def test_two_directions_share_projections_and_add_up():
    """With the second direction's output silenced, what remains is the first; and the other way round."""
    torch.manual_seed(0)
    both = Mamba(8, scan_order("bi", 2)).double()
    first, second = Mamba(8, scan_order("HW", 2)).double(), Mamba(8, scan_order("-HW", 2)).double()
    own = {key: value for key, value in both.state_dict().items() if not key.startswith("further")}
    first.load_state_dict(own)
    other = {
        key.removeprefix("further.0."): value for key, value in both.state_dict().items() if "further" in key
    }
    second.load_state_dict(own | other)
    tokens = torch.randn(2, 15, 8, dtype=torch.float64)
    torch.testing.assert_close(both(tokens, (3, 5)), first(tokens, (3, 5)) + second(tokens, (3, 5)))


def test_directions_that_share_all_weights_add_up_to_blocks_of_one_direction_each():
    torch.manual_seed(0)
    grid, tokens = (2, 3, 4), torch.randn(2, 24, 8, dtype=torch.float64)
    shared = Mamba(8, scan_order("DHW,-HDW,WHD", 3), shared=True).double()
    total = 0
    for word in ("DHW", "-HDW", "WHD"):
        alone = Mamba(8, scan_order(word, 3)).double()
        alone.load_state_dict(shared.state_dict())
        total = total + alone(tokens, grid)
    torch.testing.assert_close(shared(tokens, grid), total)


def test_initial_steps_are_log_uniform_between_a_thousandth_and_a_tenth():
    torch.manual_seed(0)
    steps = F.softplus(Mamba(512, scan_order("uni", 2)).dt_proj.bias).log10()
    assert steps.min() >= -3.001 and steps.max() <= -0.999
    assert abs(steps.mean() + 2) < 0.1
    assert abs(steps.std() - 2 / math.sqrt(12)) < 0.05


def test_the_mixer_normalises_and_has_no_residual():
    mixer, x = VoxelMixer(6, 2), torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(mixer(x), mixer(5 * x + 3), rtol=1e-3, atol=1e-4)
    assert torch.equal(mixer(torch.zeros_like(x)), torch.zeros_like(x))
    assert mixer(x).is_contiguous()


def test_token_indices_are_made_once_for_a_grid_and_never_of_fake_tensors():
    directions, cpu = scan_order("zigzag,windows", 2), torch.device("cpu")
    with torch.inference_mode():  # a prediction comes first
        indices = stack_token_indices(directions, (5, 6), cpu)
    assert stack_token_indices(directions, (5, 6), cpu) is indices
    assert not indices.is_inference()
    assert stack_token_indices(directions, (6, 5), cpu) is not indices
    with FakeTensorMode():
        assert isinstance(stack_token_indices(directions, (7, 7), cpu), FakeTensor)
    assert not isinstance(stack_token_indices(directions, (7, 7), cpu), FakeTensor)
    assert stack_token_indices(scan_order("bi", 2), (5, 6), cpu) is None
