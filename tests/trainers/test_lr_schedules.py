"""Learning rates, against numbers worked out by hand and torch's own schedulers."""

import pytest
import torch

from nnunet_mamba.trainers import recipes
from nnunet_mamba.trainers.lr_schedules import Cosine, OneCycle, Poly, Scheduler


def rate(recipe: recipes.Recipe, epoch: float) -> float:
    n_epochs = recipe.settings.get("num_epochs", 1000)
    return recipe.schedule.values(epoch, n_epochs, recipe.settings["initial_lr"])["lr"]


@pytest.mark.parametrize(
    ("recipe", "epoch", "expected"),
    [
        (recipes.TAMING, 0, 3e-4),
        (recipes.TAMING, 150, 1.5e-4),
        (recipes.TAMING, 299, 1e-6),
        (recipes.TAMING_COSINE_1000, 0, 3e-4),
        (recipes.TAMING_COSINE_1000, 50, 1.525e-4),  # (3e-4 + 5e-6) / 2
        (recipes.TAMING_COSINE_1000, 100, 5e-6),
        (recipes.TAMING_COSINE_1000, 200, 3e-4),
        (recipes.TAMING_COSINE_1000, 999, 3e-4),  # the run ends at its largest rate
        (recipes.TAMING_COSINE, 299, 5.07e-6),
        (recipes.TAMING_ONE_CYCLE, 0, 1.2e-5),
        (recipes.TAMING_ONE_CYCLE, 29, 3e-4),
        (recipes.TAMING_ONE_CYCLE, 100, 2.5e-4),
        (recipes.TAMING_ONE_CYCLE, 200, 8.9e-5),
        (recipes.VM_UNET, 50, 1e-5),
        (recipes.VM_UNET, 100, 1e-3),
        (recipes.VM_UNET, 299, 9.99e-4),
        (recipes.VM_UNET_FULL_COSINE, 150, 5.05e-4),
        (recipes.VM_UNET_FULL_COSINE, 300, 1e-5),
        (recipes.MAMBA_UNET, 0, 1e-2),
        (recipes.MAMBA_UNET, 20, 1e-2 * 0.5**0.9),
        (recipes.SWIN_UMAMBA, 500, 5.05e-5),  # (1e-4 + 1e-6) / 2
        (recipes.SWIN_UMAMBA, 1000, 1e-6),
        (recipes.UNETR, 250, 7.5e-5),
        (recipes.SWIN_UNETR, 500, 4.005e-4),  # (8e-4 + 1e-6) / 2
        (recipes.SWIN_UNETR, 1000, 1e-6),
        (recipes.SEG_RES_NET, 500, 1e-4 * 0.5**0.9),
        (recipes.MEDNEXT, 500, 1e-3 * 0.5**0.9),
        (recipes.MM_UNET, 500, 1e-3 * 0.5**0.9),
    ],
)
def test_rates_by_hand(recipe, epoch, expected):
    assert rate(recipe, epoch) == pytest.approx(expected, rel=0.01)


def test_one_cycle_ends_at_almost_nothing():
    assert rate(recipes.TAMING_ONE_CYCLE, 299) == pytest.approx(1.2e-13)


def test_one_cycle_moves_beta1_the_other_way():
    betas = [OneCycle().values(epoch, 300, 3e-4)["beta1"] for epoch in (0, 29, 299)]
    assert betas == pytest.approx([0.95, 0.85, 0.95])


@pytest.mark.parametrize("n_epochs", [5, 10, 50])
def test_one_cycle_is_defined_in_short_runs(n_epochs):
    rates = [OneCycle().values(epoch, n_epochs, 1.0)["lr"] for epoch in range(n_epochs)]
    assert max(rates) <= 1 and min(rates) > 0 and rates[-1] == pytest.approx(4e-10)


def optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.RAdam([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_one_cycle_equals_torchs():
    ours, theirs = optimizer(3e-4), optimizer(3e-4)
    scheduler = Scheduler(ours, OneCycle(), 3e-4, 300)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 3e-4, total_steps=300, pct_start=0.1, anneal_strategy="cos", final_div_factor=1e8
    )
    for epoch in range(300):
        scheduler.step(epoch)
        (a,), (b,) = ours.param_groups, theirs.param_groups
        assert (a["lr"], *a["betas"]) == pytest.approx((b["lr"], *b["betas"]), rel=1e-9, abs=1e-18)
        theirs.step()
        if epoch < 299:
            reference.step()


def test_the_cosine_turns_as_torchs_does():
    theirs = optimizer(1e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 50, 1e-5)
    for epoch in range(120):
        expected = theirs.param_groups[0]["lr"]
        assert Cosine(1e-5, 50).values(epoch, 300, 1e-3)["lr"] == pytest.approx(expected, rel=1e-9)
        theirs.step()
        reference.step()


def test_every_group_gets_the_rate_and_keeps_its_weight_decay():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": decay} for decay in (0.1, 0.0)]
    adam = torch.optim.AdamW(groups, lr=1.0)
    Scheduler(adam, Poly(1.0), 1.0, 4).step(1)
    assert [(g["lr"], g["weight_decay"]) for g in adam.param_groups] == [(0.75, 0.1), (0.75, 0.0)]
