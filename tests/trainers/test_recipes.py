"""Recipes in nnU-Net's hands: optimisers, batches, losses, and what is held still."""

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba import trainers
from nnunet_mamba.blocks.vss import DropPath
from nnunet_mamba.networks.family import FAMILY
from nnunet_mamba.trainers import recipes
from nnunet_mamba.trainers.base import SSM_STATE, MambaTrainer
from nnunet_mamba.trainers.family import FIXED
from nnunet_mamba.trainers.papers import PAPERS


class nnUNetTrainerTiny(MambaTrainer):
    """A network of the plans under whatever recipe a test needs."""

    network_name = "mm_unet"
    n_supervised_scales = 3


def under(recipe: recipes.Recipe) -> type[MambaTrainer]:
    return type("nnUNetTrainerTinyPaper", (nnUNetTrainerTiny,), {"recipe": recipe})


@pytest.fixture
def initialised(make_trainer):
    """A function: a trainer with its network, optimizer and loss."""

    def make(trainer_class, *args, **kwargs):
        trainer = make_trainer(trainer_class, *args, **kwargs)
        trainer.initialize()
        return trainer

    return make


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


# every trainer


VSS = {"features_per_stage": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}
SINGLE = {  # sizes to try them at
    "nnUNetTrainerVMUNetPaper": VSS,
    "nnUNetTrainerMambaUNetPaper": VSS,
    "nnUNetTrainerSegMamba": {"features_per_stage": [4, 4, 8, 8], "depths": [1, 1, 1, 2]},
}


def test_every_name_of_the_family_has_a_trainer_and_every_trainer_a_source():
    full = [t for t in map(trainers.__dict__.get, trainers.__all__) if issubclass(t, MambaTrainer)]
    assert {t.network_name for t in full} >= set(FAMILY) - {"nnunet"}
    assert [t.__name__ for t in full if "arXiv:" not in (t.__doc__ or "")] == []


@pytest.mark.parametrize("name", ["UMambaEnc", "MambaUni", "MambaBi", "MambaMulti"])
def test_plan_sized_trainers_take_a_step(initialised, make_batch, name):
    trainer = initialised(getattr(trainers, f"nnUNetTrainer{name}_5epochs"))
    assert torch.isfinite(torch.as_tensor(trainer.train_step(make_batch(trainer))["loss"]))


@pytest.mark.parametrize("name", SINGLE)
def test_networks_of_one_output_train_without_deep_supervision(
    initialised, make_plans, make_single_batch, name
):
    trainer_class = getattr(trainers, name)
    ndim = FAMILY[trainer_class.network_name].ndim
    recipe = recipes.replace(trainer_class.recipe, batch_size=1)
    small = type(name, (trainer_class,), {"recipe": recipe, "overrides": SINGLE[name]})
    plans = make_plans(patch=(40, 33, 24)[:ndim])
    trainer = initialised(small, plans, "2d" if ndim == 2 else "3d_fullres")
    assert not trainer.enable_deep_supervision and trainer._get_deep_supervision_scales() is None
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.train_step(make_single_batch(trainer))
    assert [n for n, p in trainer.network.named_parameters() if p.grad is None] == []
    trainer.network.eval()
    with torch.no_grad():
        trainer.validation_step(make_single_batch(trainer))


@pytest.mark.parametrize(
    ("name", "strides", "n_held"),
    [
        ("SwinUMambaPaper", (1, 2, 4, 8), 22_136_736 - 18_720),  # the authors' encoder - patch embedding
        ("SwinUMambaDPaper", (1, 4, 8, 16), 22_119_840 - 1_824),
    ],
)
def test_swin_umamba_supervises_its_own_scales_and_holds_its_encoder(
    initialised, make_plans, make_batch, name, strides, n_held
):
    trainer = initialised(getattr(trainers, f"nnUNetTrainer{name}"), make_plans(patch=(40, 33)), "2d")
    assert trainer._get_deep_supervision_scales() == [[1 / s, 1 / s] for s in strides]
    for block in trainer.network.modules():
        if isinstance(block, DropPath):
            block.rate = 0.0  # a block that is left out for a step has no gradient either
    before = {n: p.clone() for n, p in trainer.network.named_parameters()}
    trainer.train_step(make_batch(trainer))
    after = dict(trainer.network.named_parameters())
    held = [n for n in before if torch.equal(before[n], after[n])]
    assert sum(before[n].numel() for n in held) == n_held
    assert all(n.startswith("encoder.") for n in held)


@pytest.mark.parametrize("trainer_class", FIXED, ids=lambda t: t.network_name)
def test_a_configuration_of_the_wrong_dimension_is_an_error_that_names_the_right_one(
    make_trainer, trainer_class
):
    ndim = FAMILY[trainer_class.network_name].ndim
    trainer = make_trainer(trainer_class, configuration="3d_fullres" if ndim == 2 else "2d")
    right = "2d" if ndim == 2 else "3d_fullres"
    with pytest.raises(ValueError, match=f"works in {ndim}D.* configuration {right}"):
        trainer.initialize()
