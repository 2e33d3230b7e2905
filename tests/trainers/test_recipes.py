"""Recipes in nnU-Net's hands: optimisers, batches, losses, frozen parameters."""

import copy
import math

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_mamba import trainers
from nnunet_mamba.trainers import recipes
from nnunet_mamba.trainers.mamba import SSM_STATE, MambaTrainer
from nnunet_mamba.trainers.papers import PAPERS
from nnunet_mamba.trainers.recipes import CrossEntropyAndSquaredDice, freeze_parameters


class nnUNetTrainerTiny(MambaTrainer):
    """A network of the plans under whatever recipe a test needs."""

    network_name = "mm_unet"
    n_supervised_scales = 3


def under(recipe: recipes.Recipe) -> type[MambaTrainer]:
    return type("nnUNetTrainerTinyPaper", (nnUNetTrainerTiny,), {"recipe": recipe})


def options(optimizer: torch.optim.Optimizer) -> dict:
    (group,) = optimizer.param_groups
    return {name: value for name, value in group.items() if name != "params"}


@pytest.mark.parametrize("epoch", [0, 1, 500, 999])
def test_the_default_recipe_is_nnunets_to_the_last_option(initialised, epoch):
    ours, theirs = initialised(trainers.nnUNetTrainerUMambaBot), initialised(nnUNetTrainer)
    for trainer in (ours, theirs):
        trainer.lr_scheduler.step(epoch)
    ours_options, theirs_options = options(ours.optimizer), options(theirs.optimizer)
    assert ours_options.pop("lr") == pytest.approx(theirs_options.pop("lr"), rel=1e-12)
    theirs_options.pop("initial_lr", None)
    assert type(ours.optimizer) is type(theirs.optimizer) and ours_options == theirs_options


@pytest.mark.parametrize(
    ("recipe", "optimizer", "expected"),
    [
        (recipes.TAMING, torch.optim.RAdam, {"lr": 3e-4, "weight_decay": 3e-5}),
        (recipes.VM_UNET, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2, "eps": 1e-8}),
        (
            recipes.MAMBA_UNET,
            torch.optim.SGD,
            {"lr": 1e-2, "weight_decay": 1e-4, "momentum": 0.9, "nesterov": False},
        ),
        (recipes.SWIN_UMAMBA, torch.optim.AdamW, {"lr": 1e-4, "weight_decay": 5e-2, "eps": 1e-5}),
        (recipes.LIGHTM_UNET, torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-5, "eps": 1e-5}),
        (recipes.SEGMAMBA_V2, torch.optim.SGD, {"lr": 1e-2, "weight_decay": 3e-5, "momentum": 0.99}),
        (recipes.NNMAMBA, torch.optim.SGD, {"lr": 1e-4, "weight_decay": 3e-5, "momentum": 0.99}),
        (recipes.SEG_RES_NET, torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-5, "eps": 1e-5}),
        (recipes.SWIN_UNETR, torch.optim.AdamW, {"lr": 8e-4, "weight_decay": 1e-2, "eps": 1e-5}),
        (recipes.UNETR, torch.optim.AdamW, {"lr": 1e-4, "weight_decay": 1e-2, "eps": 1e-5}),
        (recipes.MEDNEXT, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 3e-5, "eps": 1e-4}),
        (recipes.MM_UNET, torch.optim.SGD, {"lr": 1e-3, "weight_decay": 3e-5, "momentum": 0.99}),
    ],
)
def test_optimisers_are_those_of_the_papers(initialised, recipe, optimizer, expected):
    made = initialised(under(recipe)).optimizer
    assert type(made) is optimizer
    assert expected.items() <= options(made).items()


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("MambaUniPaper", 300),
        ("MambaUniPaperCosine", 1000),
        ("MambaBiPaperCosine", 300),
        ("MambaMultiPaperOneCycle", 300),
        ("VMUNetPaper", 300),
        ("MambaUNetPaper", 40),
        ("SwinUMambaDPaper", None),
        ("LightMUNetPaper", 100),
        ("SegMambaV2Paper", None),
    ],
)
def test_lengths_of_the_papers(name, epochs):
    assert getattr(trainers, f"nnUNetTrainer{name}").recipe.settings.get("num_epochs") == epochs


@pytest.mark.parametrize(
    ("name", "last", "expected"),
    [
        ("MambaUniPaper", 299, 1e-6),
        ("MambaUniPaperCosine", 999, 3e-4),
        ("MambaBiPaper", 299, 1e-6),
        ("MambaBiPaperCosine", 299, 5.07e-6),
        ("MambaMultiPaper", 299, 1e-6),
        ("MambaMultiPaperOneCycle", 299, 1.2e-13),
        ("VMUNetPaper", 299, 9.99e-4),
        ("VMUNetPaperFullCosine", 299, 1.003e-5),
        ("MambaUNetPaper", 39, 1e-2 * (1 / 40) ** 0.9),
        ("SwinUMambaPaper", 999, 1e-6),
        ("SwinUMambaDPaper", 999, 1e-6),
        ("LightMUNetPaper", 99, 1e-4 * (1 / 100) ** 0.9),
        ("MMUNet_demo", 19, 1e-1 * (1 / 20) ** 0.9),
    ],
)
def test_the_last_epochs_rate_is_what_the_trainer_promises(name, last, expected):
    trainer = getattr(trainers, f"nnUNetTrainer{name}")
    settings = {"num_epochs": 1000, **trainer.attributes()}
    assert settings["num_epochs"] == last + 1
    rate = trainer.recipe.schedule.values(last, last + 1, settings["initial_lr"])["lr"]
    assert rate == pytest.approx(expected, rel=0.01)


def test_batches_and_the_weight_of_the_loss_are_those_of_the_papers():
    for recipe, batch_size, weight in ((recipes.VM_UNET, 32, 1), (recipes.MAMBA_UNET, 24, 0.5)):
        assert (recipe.batch_size, recipe.loss().weight) == (batch_size, weight)


def test_the_batch_size_is_the_papers_and_the_callers_plans_stay(make_trainer, make_plans):
    plans = make_plans()
    trainer = make_trainer(under(recipes.VM_UNET), plans, "2d")
    assert trainer.configuration_manager.batch_size == 32
    assert trainer.my_init_kwargs["plans"]["configurations"]["2d"]["batch_size"] == 32
    assert [plans["configurations"][name]["batch_size"] for name in ("2d", "3d_fullres")] == [2, 2]


@pytest.mark.parametrize("autocast", [True, False])
def test_a_recipe_in_float32_computes_in_it_under_autocast(initialised, make_plans, make_batch, autocast):
    trainer_class = under(recipes.replace(recipes.NNUNET, autocast=autocast))
    trainer = initialised(trainer_class, make_plans(patch=(8, 8)), "2d")
    with torch.autocast("cpu", torch.bfloat16):
        logits = trainer.network(make_batch(trainer)["data"])
    assert {y.dtype for y in logits} == {torch.bfloat16 if autocast else torch.float32}


def test_poly_at_every_iteration(initialised, make_plans, make_batch):
    trainer = initialised(under(recipes.MAMBA_UNET), make_plans(patch=(8, 8)), "2d")
    trainer.current_epoch = 20
    trainer.on_train_epoch_start()
    rates = []
    for _ in range(3):
        trainer.train_step(make_batch(trainer))
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2 * (1 - i / 10000) ** 0.9 for i in (5000, 5001, 5002)], rel=1e-12)


@pytest.mark.parametrize(("kind", "named"), [("regions", "regions"), ("ignore", "an ignore label")])
def test_the_papers_loss_refuses_what_it_does_not_know(make_trainer, kind, named):
    trainer = make_trainer(under(recipes.VM_UNET), kind=kind)
    with pytest.raises(ValueError, match=f"has {named}.* Train with nnUNetTrainerTiny,"):
        trainer._build_loss()


def test_the_encoder_is_held_for_ten_epochs_and_trained_after(initialised, make_batch):
    trainer = initialised(under(recipes.SWIN_UMAMBA))
    encoder = {name for name, _ in trainer.network.named_parameters() if name.startswith("encoder.")}

    def changed(epoch: int) -> set[str]:
        trainer.current_epoch = epoch
        before = {name: value.clone() for name, value in trainer.network.named_parameters()}
        trainer.train_step(make_batch(trainer))
        return {n for n, value in trainer.network.named_parameters() if not torch.equal(before[n], value)}

    for epoch in (0, 9):
        now = changed(epoch)
        assert now and not now & encoder
    assert encoder <= changed(10)


@pytest.mark.parametrize(
    ("name", "configuration", "spared"),
    [
        ("MMUNet", "3d_fullres", {"A_log", "D"}),
        ("MambaUniPaper", "3d_fullres", {"A_log", "D"}),
        ("MambaUNet", "2d", {"A_logs", "Ds"}),
        ("UMamba2", "3d_fullres", {"A_log", "D", "dt_bias"}),
    ],
)
def test_no_decay_spares_the_state_space_alone(initialised, name, configuration, spared):
    trainer = initialised(getattr(trainers, f"nnUNetTrainer{name}_NoDecaySSM"), configuration=configuration)
    others, state = trainer.optimizer.param_groups
    assert (others["weight_decay"], state["weight_decay"]) == (3e-5, 0)
    names = {id(p): n.rsplit(".", 1)[-1] for n, p in trainer.network.named_parameters()}
    assert {names[id(p)] for p in state["params"]} == spared
    assert not {names[id(p)] for p in others["params"]} & set(SSM_STATE)
    assert len(others["params"]) + len(state["params"]) == len(names)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.__name__)
def test_a_paper_trainer_differs_from_its_default_in_the_recipe_alone(paper):
    (default,) = paper.__bases__
    assert default.__name__ == paper.__name__.split("Paper")[0]
    assert paper.recipe != default.recipe
    assert {name for name in vars(paper) if not name.startswith("__")} == {"recipe"}


def test_a_run_resumed_in_the_middle_has_the_rate_of_an_unbroken_one(initialised, tmp_path):
    trainer_class = under(recipes.TAMING_ONE_CYCLE)
    first, unbroken = initialised(trainer_class), initialised(trainer_class)
    for epoch in range(8):
        unbroken.lr_scheduler.step(epoch)
    first.current_epoch = 6
    first.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    second = initialised(trainer_class)
    second.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    second.on_train_epoch_start()
    assert options(second.optimizer) == options(unbroken.optimizer)


# the papers' loss, against numbers worked out by hand


def test_a_perfect_answer_costs_nothing():
    target = torch.randint(0, 3, (2, 1, 4, 5)).float()
    logits = 50 * torch.nn.functional.one_hot(target[:, 0].long(), 3).movedim(-1, 1).float()
    assert CrossEntropyAndSquaredDice()(logits, target).item() == pytest.approx(0, abs=1e-5)


def test_an_undecided_answer_by_hand():
    """Two classes, p = 1/2 everywhere; 8 voxels of which 2 are foreground.

    Dice of the background: 2 * 3 / (2 + 6) = 3/4, of the foreground: 2 * 1 / (2 + 2) = 1/2.
    """
    target = torch.zeros(2, 1, 2, 2)
    target[0, 0, 0] = 1
    expected = math.log(2) + 1 - (3 / 4 + 1 / 2) / 2
    for weight in (1.0, 0.5):
        value = CrossEntropyAndSquaredDice(weight)(torch.zeros(2, 2, 2, 2), target)
        assert value.item() == pytest.approx(weight * expected, rel=1e-5)


def test_a_class_that_is_absent_and_not_predicted_is_perfect():
    target = torch.zeros(1, 1, 2, 2)
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0] = 100
    assert CrossEntropyAndSquaredDice()(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_logits_give_a_float32_loss():
    loss = CrossEntropyAndSquaredDice()(torch.zeros(1, 2, 300, 300).half(), torch.ones(1, 1, 300, 300))
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


# frozen parameters stay exactly as they are, and nothing else notices


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    (100 * net(torch.ones(3, 4)).square().mean()).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)


def test_holding_equals_switching_the_gradient_off_and_on():
    """Weights, clipped norm, moments and step counts: the same as with requires_grad."""
    ours, theirs = network(), network()
    epoch = 0
    a, b = adamw(ours), adamw(theirs)
    freeze_parameters(ours[0].parameters(), a, lambda: epoch < 2)
    before = copy.deepcopy(ours[0].state_dict())
    for epoch in range(4):
        theirs[0].requires_grad_(epoch >= 2)
        step(ours, a)
        step(theirs, b)
        held = all(torch.equal(before[name], value) for name, value in ours[0].state_dict().items())
        assert held == (epoch < 2)
        for x, y in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_ddp_trains_with_a_held_part_and_no_option(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        bare, epoch = network(), 0
        optimizer = adamw(bare)
        freeze_parameters(bare[0].parameters(), optimizer, lambda: epoch < 2)
        wrapped = nn.parallel.DistributedDataParallel(bare)
        before = bare[0].weight.clone()
        for epoch in range(3):
            step(wrapped, optimizer)
            assert torch.equal(bare[0].weight, before) == (epoch < 2)
    finally:
        torch.distributed.destroy_process_group()


def test_letting_go_compiles_nothing_anew():
    from torch._dynamo.testing import CompileCounterWithBackend

    bare, epoch = network(), 0
    optimizer, counter = adamw(bare), CompileCounterWithBackend("aot_eager")
    freeze_parameters(bare[0].parameters(), optimizer, lambda: epoch < 2)
    compiled = torch.compile(bare, backend=counter)
    before = bare[0].weight.clone()
    for epoch in range(4):
        step(compiled, optimizer)
        assert torch.equal(bare[0].weight, before) == (epoch < 2)
    assert counter.frame_count == 1
