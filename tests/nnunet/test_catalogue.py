"""The catalogue tells what the networks and trainers are, and suggests what was meant."""

import inspect
import re
import subprocess
import sys

import pytest
import torch

from nnunet_mamba import create_network, trainers
from nnunet_mamba.blocks import mixers
from nnunet_mamba.io.messages import describe_regex, find_closest_names, format_unknown_name
from nnunet_mamba.networks import baselines, family
from nnunet_mamba.networks.family import get_config
from nnunet_mamba.networks.mixer_config import CONV
from nnunet_mamba.nnunet import catalogue
from nnunet_mamba.scan_order import scan_order
from nnunet_mamba.trainers.mamba import SSM_STATE


def test_it_has_every_network_with_its_axes_and_its_twin():
    assert list(catalogue.FAMILY) == list(family.FAMILY)
    assert list(catalogue.BASELINES) == list(baselines.BASELINES)
    for name, row in catalogue.FAMILY.items():
        assert row.ndims == family.supported_ndims(name), name
        assert row.has_ssm == (family.FAMILY[name].mixer is not None), name


def test_it_names_every_trainer_and_no_other():
    assert sorted(catalogue.list_trainer_names()) == sorted(trainers.__all__)
    assert len(set(catalogue.list_trainer_names())) == len(catalogue.list_trainer_names())


@pytest.mark.parametrize("row", catalogue.TRAINERS, ids=lambda row: row.name)
def test_a_trainers_row_is_true(row):
    """Network, first learning rate and length; and its paper is that of the class's own text."""
    trainer = getattr(trainers, row.name)
    assert getattr(trainer, "network_name", "nnunet") == row.network
    settings = {"initial_lr": 1e-2, "num_epochs": 1000, **trainer.attributes()}
    if rate := re.search(r"from (\d+e-\d+)", row.recipe):
        assert float(rate[1]) == settings["initial_lr"]
    if length := re.search(r"(\d+) epochs$", row.recipe):
        assert int(length[1]) == settings["num_epochs"]
    optimizer = re.search(r": (\w+) from", row.recipe)
    recipe = getattr(trainer, "recipe", None)
    if optimizer and recipe:
        assert recipe.optimizer.__name__ == optimizer[1]
    arxiv = re.search(r"arXiv:[\d.]+\d", catalogue.NETWORKS[row.network].paper)
    text = inspect.getdoc(trainer) or ""
    if arxiv and row.network in catalogue.FAMILY:
        assert arxiv[0] in text


def twin_of_class(trainer):
    """What a trainer of ours trains without SSM: the network's config, and all that makes the recipe."""
    config = get_config(trainer.network_name).with_overrides(**trainer.overrides).without_ssm()
    return config, trainer.recipe, trainer.settings, trainer.n_supervised_scales


def test_trainers_share_a_twin_exactly_if_they_are_one_without_ssm():
    """The names' law, computed from the classes: the network's config without mixers, and the recipe."""
    rows = [row for row in catalogue.TRAINERS if catalogue.NETWORKS[row.network].has_ssm]
    keys = [catalogue.parse_trainer(row.name).twin_key for row in rows]
    twins = [twin_of_class(getattr(trainers, row.name)) for row in rows]
    for i in range(len(rows)):
        for j in range(i):
            assert (keys[i] == keys[j]) == (twins[i] == twins[j]), (rows[i].name, rows[j].name)


@pytest.mark.parametrize("row", catalogue.TRAINERS, ids=lambda row: row.name)
def test_the_twin_of_a_row_is_that_trainer_without_ssm(row):
    if not row.twin_name():
        assert not catalogue.NETWORKS[row.network].has_ssm
        return
    twin = getattr(trainers, row.twin_name())
    assert twin_of_class(twin) == twin_of_class(getattr(trainers, row.name))
    assert get_config(twin.network_name).with_overrides(**twin.overrides).mixer is None


def test_words_of_mixers_are_those_that_their_configs_know():
    kinds = set(catalogue.MIXER_ENDINGS)
    orders = set(catalogue.MIXER_WORDS) - set(mixers.OUTPUTS) - kinds
    assert len(orders) + len(mixers.OUTPUTS) + len(kinds) == len(catalogue.MIXER_WORDS)
    assert all(scan_order(order, 3) for order in orders)
    assert set(catalogue.MIXER_ENDINGS.values()) == {*mixers.LAYERS, CONV}


@pytest.mark.parametrize("row", [row for row in catalogue.TRAINERS if row.own_mixer or row.mixer])
def test_mixers_of_a_row_are_its_networks_own_or_those_in_their_places(row):
    trainer = getattr(trainers, row.name)
    config = get_config(row.network).with_overrides(**trainer.overrides)
    word = catalogue.MIXER_ENDINGS[row.mixer or row.own_mixer]
    assert config == get_config(row.network).with_mixer(word)
    assert trainer.overrides == ({"mixer": word} if row.mixer else {})
    assert (f"with {row.mixer} in the places of its own" in trainer.__doc__) == bool(row.mixer)


@pytest.mark.parametrize("name", [name for name, row in catalogue.FAMILY.items() if row.has_ssm])
def test_a_network_has_state_that_weight_decay_may_spare_exactly_if_its_row_says_so(name):
    with torch.device("meta"):
        network = create_network(name, input_channels=1, num_classes=2)
    last = {key.rsplit(".", 1)[-1] for key, _ in network.named_parameters()}
    assert bool(last & set(SSM_STATE)) == catalogue.FAMILY[name].has_state


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("MMUNet", ("MMUNet", (), False)),
        ("MMUNetNoSSM_100epochs", ("MMUNet", ("100epochs",), True)),
        ("MMUNet_B3_NoDecaySSM_demo", ("MMUNet_B3", ("demo",), False)),
        ("MMUNet_SSMAllNoSSM_norm_bench", ("MMUNet_SSMAll", ("norm", "bench"), True)),
        ("MambaUniPaperX_bench", ("MambaUniPaperX", ("bench",), False)),
        ("Mine_NoSSM_a", ("Mine", ("a",), True)),
        ("MineNoSSM", ("Mine", (), True)),
        ("MineNoSSMLarge_a", ("MineLarge", ("a",), True)),
        ("", ("", (), False)),
        ("@noise10", ("", (), False, "noise10")),
        ("MMUNetNoSSM_100epochs@no_flips", ("MMUNet", ("100epochs",), True, "no_flips")),
        ("Mine@NoSSM", ("Mine", (), False, "NoSSM")),
    ],
)
def test_a_name_is_taken_apart(name, parts):
    base, *others = parts
    expected = catalogue.TrainerName(f"nnUNetTrainer{base}", *others)
    assert catalogue.parse_trainer(f"nnUNetTrainer{name}") == expected


def test_lengths_are_nnunets():
    from nnunetv2.training.nnUNetTrainer.variants.training_length import nnUNetTrainer_Xepochs as stock

    theirs = {name.removeprefix("nnUNetTrainer") for name in vars(stock) if "_" in name and "epoch" in name}
    assert set(catalogue.LENGTHS) == theirs


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("nnUNetTrainerMMUnet", "nnUNetTrainerMMUNet"),
        ("MMUNet", "nnUNetTrainerMMUNet"),
        ("nnUNetTrainer_mmunet", "nnUNetTrainerMMUNet"),
        ("nnUNetTrainerUmambaBot", "nnUNetTrainerUMambaBot"),
        ("nnUNetTrainerMMUNetNoSMM", "nnUNetTrainerMMUNetNoSSM"),
    ],
)
def test_a_typing_error_is_recognised(typed, meant):
    message = catalogue.format_unknown_trainer(typed)
    assert message.startswith(f"Unknown trainer {typed!r}. Did you mean ")
    assert meant in message.split("?")[0]
    assert message.endswith("`nnunet-mamba trainers` lists all.")


@pytest.mark.parametrize(
    ("typed", "base", "forms"),
    [
        ("nnUNetTrainerMMUNet_30epochs", "nnUNetTrainerMMUNet", [*catalogue.LENGTHS, "_smoke", "_demo"]),
        ("nnUNetTrainerMMUNetNoSSM_x", "nnUNetTrainerMMUNetNoSSM", [*catalogue.LENGTHS, "_smoke", "_demo"]),
        ("nnUNetTrainerSwinUMamba_demo", "nnUNetTrainerSwinUMamba", [*catalogue.LENGTHS, "_smoke"]),
        ("nnUNetTrainerMMUNet_NoDecaySSM_7epochs", "nnUNetTrainerMMUNet_NoDecaySSM", catalogue.LENGTHS),
    ],
)
def test_of_a_trainer_that_there_is_its_lengths_are_told(typed, base, forms):
    assert (
        catalogue.format_unknown_trainer(typed)
        == f"Unknown trainer {typed!r}. {base} comes with {', '.join(forms)}."
    )


def test_a_twin_that_is_another_trainers_is_named():
    message = catalogue.format_unknown_trainer("nnUNetTrainerMMUNet_B3NoSSM_100epochs")
    assert message.endswith("_B3 is nnUNetTrainerMMUNet: take nnUNetTrainerMMUNetNoSSM_100epochs.")


def test_names_that_begin_so_come_alone():
    closest = find_closest_names("umamba", catalogue.list_network_names(), n=3)
    assert set(closest) == {"umamba2", "umamba_bot", "umamba_enc"}
    assert all(
        name.startswith("umamba") for name in find_closest_names("umamba", catalogue.list_network_names())
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nnUNetTrainerMMUNet_50epochs", "is a trainer; its network is mm_unet"),
        ("unetr", "a network of MONAI's, available for training only: nnUNetTrainerUNETR"),
        ("mmunet", "Did you mean mm_unet"),
    ],
)
def test_what_is_no_network_but_something_else_is_told(name, message):
    with pytest.raises(ValueError, match=message):
        catalogue.check_network(name)


def test_every_name_with_a_letter_lost_doubled_or_swapped_is_recognised():
    """Each name in one of four ways, in turn."""
    names = [*catalogue.list_network_names(), *(row.name for row in catalogue.TRAINERS)]
    for number, name in enumerate(names):
        known = (
            catalogue.list_trainer_names()
            if name.startswith(catalogue.PREFIX)
            else catalogue.list_network_names()
        )
        middle = len(name) - 3
        typed = (
            name[:middle] + name[middle + 1 :],
            name[:middle] + name[middle] + name[middle:],
            name[:middle] + name[middle + 1] + name[middle] + name[middle + 2 :],
            name.upper(),
        )[number % 4]
        assert typed in known or name in find_closest_names(typed, known), (name, typed)


def test_nothing_is_suggested_for_what_resembles_nothing():
    assert catalogue.format_unknown_trainer("nnUNetTrainerDA5") == (
        "Unknown trainer 'nnUNetTrainerDA5'. `nnunet-mamba trainers` lists all."
    )
    assert format_unknown_name("protocol", "zzz", ["honest", "brats"]) == (
        "Unknown protocol 'zzz'. Choose one of honest, brats."
    )
    assert find_closest_names("", ["a"]) == find_closest_names("__", ["a"]) == []


def test_it_is_read_without_torch():
    heavy = "'torch' in sys.modules or 'nnunetv2' in sys.modules"
    code = f"import sys, nnunet_mamba.nnunet.catalogue; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def at_exit(monkeypatch):
    """What would run at the end of the program, as pairs of function and arguments."""
    calls: list[tuple] = []
    monkeypatch.setattr(trainers, "_looked_for", set())
    monkeypatch.setattr(trainers.atexit, "register", lambda call, *args: calls.append((call, *args)))
    return calls


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (RuntimeError("Could not find requested nnunet trainer nnUNetTrainerMMUnet in nnunetv2..."), True),
        (RuntimeError("nnUNetTrainerMMUnet ran out of memory"), False),
        (None, False),  # it was found elsewhere
        (RuntimeError("CUDA out of memory"), False),
        (KeyError("nnUNetTrainerMMUnet"), False),
    ],
)
def test_a_suggestion_follows_nnunets_error_and_no_other(monkeypatch, capsys, at_exit, error, is_told):
    monkeypatch.setattr(sys, "last_value", error, raising=False)
    for _ in range(2):  # nnU-Net looks in its own folder, then where nnUNet_extTrainer points
        assert not hasattr(trainers, "nnUNetTrainerMMUnet")
    assert len(at_exit) == 1
    for call, *arguments in at_exit:
        call(*arguments)
    said = capsys.readouterr().err
    assert ("Did you mean nnUNetTrainerMMUNet?" in said) == is_told
    assert bool(said) == is_told


def test_what_is_no_trainers_name_is_not_remembered(at_exit):
    assert not hasattr(trainers, "__wrapped__")
    assert at_exit == []


@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        (r"patient\d{3}", "patient### (# is a digit)"),
        (r"(?P<patient>patient\d{3})_frame\d{2}", "patient###_frame## (# is a digit)"),
        (r"(?:img|label)?(?P<number>\d{4})", "#### (# is a digit)"),
        (r"video\d+", "video# (# is a digit)"),
        (r"BraTS-GLI-\d{5}-\d{3}", "BraTS-GLI-#####-### (# is a digit)"),
        ("case", "case"),
    ],
)
def test_a_form_of_names_is_told_without_regular_expressions(pattern, form):
    assert describe_regex(pattern) == form


def test_every_form_that_a_message_may_tell_is_readable():
    from nnunet_mamba.study.datasets.specs import DATASETS
    from nnunet_mamba.study.submissions import SUBMISSIONS

    patterns = [rules.case for rules in SUBMISSIONS.values()]
    patterns += [spec.group for spec in DATASETS.values() if spec.group]
    assert len(patterns) > 5
    for pattern in patterns:
        assert not set(describe_regex(pattern).removesuffix("(# is a digit)")) & set("\\(){}[]?*+|^$"), (
            pattern
        )
