"""nnU-Net's planner with our memory in its loop, on datasets that are fingerprints alone."""

import importlib
import json
from copy import deepcopy
from math import prod
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mamba.memory.profile import load_profile
from nnunet_mamba.networks.default_sizes import default_features
from nnunet_mamba.plans.check import find_issues
from nnunet_mamba.plans.memory import GIB, RESERVE, StepMemory, budget_bytes
from nnunet_mamba.plans.planner import MambaPlanner, default_plans_name, make_plans, share_preprocessed_data
from nnunet_mamba.plans.topology import plan_topology

CUDA = load_profile("cuda")
MADE_BY = (  # keys of a configuration that tell how its data are made
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_seg",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg_kwargs",
)
MADE_BY_PLANS = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")


@pytest.fixture
def benchmark(monkeypatch, nnunet_folders):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("planner")


@pytest.fixture
def write_dataset(benchmark, nnunet_folders):
    """A function: a dataset of a published fingerprint; returns its name."""

    def write(name: str) -> str:
        return benchmark.write_dataset(nnunet_folders.raw.parent, 901, name, benchmark.FINGERPRINTS[name])

    return write


def brief(plans: dict, name: str) -> tuple[list[int], int]:
    own = plans["configurations"][name]
    return list(own["patch_size"]), own["batch_size"]


@pytest.mark.parametrize(
    ("name", "volume", "slices"),
    [
        ("BTCV", ([48, 192, 192], 2), ([512, 512], 12)),
        ("ACDC", ([14, 256, 224], 5), ([256, 224], 56)),
        ("BraTS", ([128, 128, 128], 2), ([192, 160], 105)),
        ("FLARE", ([40, 224, 192], 2), ([512, 512], 12)),
    ],
)
def test_nnunets_own_planner_gives_its_published_plans(benchmark, write_dataset, name, volume, slices):
    """So the fingerprints are right, and what differs in ours is the network."""
    plans = benchmark.nnunets_plans(write_dataset(name))
    assert (brief(plans, "3d_fullres"), brief(plans, "2d")) == (volume, slices)


@pytest.fixture
def bytes_per_voxel(monkeypatch):
    """A function: memory that is so many bytes for each voxel of the batch, and no more."""

    def set_bytes(n: float) -> None:
        monkeypatch.setattr(StepMemory, "simulate", lambda self, step, batch: round(n * batch * step.n_vox))
        monkeypatch.setattr(StepMemory, "weight_bytes", lambda self, step: 0)

    return set_bytes


def made(dataset: str, network: str = "mm_unet", vram_gb: float = 8, **options) -> dict:
    options = {"replace": False, **options}
    return make_plans(dataset, network, vram_gb, CUDA, **options).plans


def test_the_batch_is_what_fits(write_dataset, bytes_per_voxel):
    """14x256x224 of ACDC is the whole image; 3.5 of them fit, so the batch is 3."""
    dataset = write_dataset("ACDC")
    bytes_per_voxel(budget_bytes(8) / (3.5 * 14 * 256 * 224))
    plans = made(dataset)
    assert brief(plans, "3d_fullres") == ([14, 256, 224], 3)
    assert brief(plans, "2d") == ([256, 224], 49)  # 3.5 * 14


def test_two_that_fit_exactly_are_kept_and_less_shrinks_the_patch(write_dataset, bytes_per_voxel):
    dataset = write_dataset("ACDC")
    bytes_per_voxel(budget_bytes(8) / (2 * 14 * 256 * 224))
    assert brief(made(dataset), "3d_fullres") == ([14, 256, 224], 2)
    bytes_per_voxel(1.001 * budget_bytes(8) / (2 * 14 * 256 * 224))
    patch, batch = brief(made(dataset, replace=True), "3d_fullres")
    assert batch == 2 and prod(patch) < 14 * 256 * 224


def test_the_batch_never_covers_more_than_nnunet_allows(write_dataset, bytes_per_voxel):
    """5 % of 200 images of 13x246x213, in patches of 14x256x224: 8.5."""
    bytes_per_voxel(1)
    assert brief(made(write_dataset("ACDC")), "3d_fullres")[1] == 8


def test_the_network_is_in_the_plans_and_they_are_sound(write_dataset, bytes_per_voxel, nnunet_folders):
    dataset = write_dataset("BTCV")
    bytes_per_voxel(5000)
    plans = made(dataset, "umamba_enc", 24)
    path = nnunet_folders.preprocessed / dataset / "nnUNetMambaPlans_24G_umamba_enc.json"
    written = json.loads(path.read_text())
    assert find_issues(written, path.stem) == []
    assert set(written["configurations"]) == {"2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"}
    cascade = PlansManager(written).get_configuration("3d_cascade_fullres").configuration
    for own in (plans["configurations"]["3d_fullres"], cascade):
        assert own["architecture"]["network_class_name"] == "nnunet_mamba.networks.umamba_enc"
        assert list(own["architecture"]["arch_kwargs"]["patch_size"]) == list(own["patch_size"])


@pytest.mark.parametrize(
    ("network", "configurations"),
    [("vm_unet", ["2d"]), ("segmamba", ["3d_fullres"]), ("mamba_multi", ["3d_fullres"])],
)
def test_a_network_gets_the_configurations_that_it_can_work_on(
    write_dataset, bytes_per_voxel, network, configurations
):
    bytes_per_voxel(1)
    assert list(made(write_dataset("ACDC"), network)["configurations"]) == configurations


def test_preprocessed_data_are_shared_where_they_are_the_same(
    benchmark, write_dataset, bytes_per_voxel, nnunet_folders
):
    dataset = write_dataset("BTCV")
    bytes_per_voxel(1000)

    def identifiers() -> dict[str, str]:
        configurations = made(dataset, replace=True)["configurations"]
        return {name: own["data_identifier"] for name, own in configurations.items() if "spacing" in own}

    own = default_plans_name("mm_unet", 8)
    expected = {
        "2d": "nnUNetPlans_2d",
        "3d_fullres": "nnUNetPlans_3d_fullres",
        "3d_lowres": f"{own}_3d_lowres",
    }
    assert identifiers() == expected  # nnU-Net has not planned; it will do so
    benchmark.nnunets_plans(dataset)
    assert identifiers() == expected  # the patch differs, so does the spacing of 3d_lowres
    path = nnunet_folders.preprocessed / dataset / "nnUNetPlans.json"
    default = json.loads(path.read_text())
    default["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    path.write_text(json.dumps(default))
    assert identifiers() == {**expected, "3d_fullres": f"{own}_3d_fullres"}


@pytest.mark.parametrize("key", [*MADE_BY, *MADE_BY_PLANS])
def test_data_made_in_another_way_are_not_shared(tmp_path, key):
    own = {"spacing": [1.0], "normalization_schemes": ["CTNormalization"], "data_identifier": "mine"}
    plans = {"transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": own}}
    default = deepcopy(plans)
    (default if key in MADE_BY_PLANS else default["configurations"]["3d_fullres"])[key] = "another"
    for written, identifier in ((default, "mine"), (plans, "nnUNetPlans_3d_fullres")):
        (tmp_path / "nnUNetPlans.json").write_text(json.dumps(written))
        share_preprocessed_data(plans, tmp_path)
        assert own["data_identifier"] == identifier


@pytest.mark.parametrize(
    ("labels", "n_heads"),
    [
        ({"background": 0, "organ": 1, "tumour": 2}, 3),
        ({"background": 0, "organ": 1, "ignore": 2}, 2),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, 2),
    ],
    ids=["labels", "ignore", "regions"],
)
def test_memory_is_planned_for_the_heads_that_nnunet_trains(write_dataset, nnunet_folders, labels, n_heads):
    dataset = write_dataset("BraTS")
    file = nnunet_folders.raw / dataset / "dataset.json"
    description = {**json.loads(file.read_text()), "labels": labels, "regions_class_order": [1, 2]}
    file.write_text(json.dumps(description))
    memory = MambaPlanner(dataset, 8, network="mm_unet", profile=CUDA).memory
    assert (memory.channels, memory.classes) == (4, n_heads)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("network", "n_bytes", "complaint"),
    [
        (
            "mm_unet",
            1e12,
            r"mm_unet does not fit into 5.60 GiB, the counted part of 8 GiB. The last patch tried is",
        ),
        ("segmamba", 1e12, "segmamba does not fit"),
        ("vm_unet", 1e12, "vm_unet does not fit"),
    ],
)
def test_a_card_too_small_for_any_patch_ends_with_numbers(
    write_dataset, bytes_per_voxel, network, n_bytes, complaint
):
    bytes_per_voxel(n_bytes)
    with pytest.raises(ValueError, match=complaint):
        made(write_dataset("ACDC"), network)


@pytest.mark.parametrize(
    ("patch", "n_stages"), [((16, 32, 32), 3), ((0, 32, 32), 3), ((8, 8, 8), 1)], ids=str
)
def test_a_loop_that_does_not_shorten_any_more_is_ended(write_dataset, bytes_per_voxel, patch, n_stages):
    """A patch that was there before, one without voxels, one of a single stage. nnU-Net's rule of today comes
    to the last two alone; a rule that pads a patch back to what it was would go on for ever."""
    bytes_per_voxel(1e9)
    planner = MambaPlanner(write_dataset("ACDC"), 8, network="segmamba", profile=CUDA)

    def ask(patch: tuple[int, ...], n_stages: int) -> float:
        sizes = {"strides": [[1, 1, 1], *[[2, 2, 2]] * (n_stages - 1)]}
        return planner.static_estimate_VRAM_usage(patch, 1, 4, "", sizes, ())

    assert ask((16, 32, 32), 3) > ask((16, 32, 16), 3) > 1  # neither fits
    with pytest.raises(ValueError, match=r"tried is \[16, 32, 16\]\. It cannot be shortened any more"):
        ask(patch, n_stages)


@pytest.mark.timeout(60)
def test_nnunets_loop_ends_though_its_rule_pads_a_patch_back_to_what_it_was(
    write_dataset, bytes_per_voxel, monkeypatch
):
    rule = default_experiment_planner.get_pool_and_conv_props

    def stubborn(spacing, patch, *rest):
        return rule(spacing, [32] * len(spacing), *rest)

    monkeypatch.setattr(default_experiment_planner, "get_pool_and_conv_props", stubborn)
    bytes_per_voxel(1e9)
    with pytest.raises(ValueError, match=r"tried is \[32, 32, 32\]\. It cannot be shortened any more"):
        made(write_dataset("ACDC"), "segmamba")


def test_a_network_larger_than_the_card_ends_with_its_size(write_dataset):
    """77.7 million parameters, three times four bytes each: 0.87 GiB."""
    with pytest.raises(ValueError, match=r"Its weights, gradients and momentum take 0.8\d GiB"):
        made(write_dataset("ACDC"), "mamba_multi", 0.5)


@pytest.mark.parametrize("vram_gb", [0, -1, float("nan"), float("inf")])
def test_a_card_without_memory_is_refused(write_dataset, vram_gb):
    with pytest.raises(ValueError, match="positive number of GiB"):
        made(write_dataset("ACDC"), "mm_unet", vram_gb)


def test_names(write_dataset):
    assert default_plans_name("mm_unet", 24) == "nnUNetMambaPlans_24G_mm_unet"
    assert default_plans_name("mm_unet", 7.5) == "nnUNetMambaPlans_7.5G_mm_unet"
    dataset = write_dataset("ACDC")
    for name, complaint in [("a__b", "cannot name plans"), ("nnUNetPlans", "choose another --name")]:
        with pytest.raises(ValueError, match=complaint):
            made(dataset, name=name)


def test_other_plans_are_not_overwritten(write_dataset, bytes_per_voxel):
    dataset = write_dataset("ACDC")
    bytes_per_voxel(100)
    made(dataset)
    made(dataset)  # the same again
    bytes_per_voxel(2000)
    with pytest.raises(ValueError, match="holds other plans"):
        made(dataset)
    made(dataset, replace=True)


def test_without_a_fingerprint_it_says_how_to_get_one(write_dataset, nnunet_folders):
    dataset = write_dataset("ACDC")
    (nnunet_folders.preprocessed / dataset / "dataset_fingerprint.json").unlink()
    with pytest.raises(ValueError, match="nnUNetv2_extract_fingerprint"):
        made(dataset)


def test_it_plans_where_nnunet_loads_data_without_workers(write_dataset, bytes_per_voxel, monkeypatch):
    """nnU-Net's own estimate cannot have 0 threads."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    bytes_per_voxel(100)
    made(write_dataset("ACDC"))


def test_nnunets_api_takes_the_planner(write_dataset, bytes_per_voxel):
    from functools import partial

    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset

    bytes_per_voxel(100)
    planner = partial(MambaPlanner, network="mm_unet", profile=CUDA)
    plans, identifier = plan_experiment_dataset(write_dataset("ACDC"), planner, gpu_memory_target_in_gb=8)
    assert identifier == plans["plans_name"] == "nnUNetMambaPlans_8G_mm_unet"


@pytest.mark.slow
def test_the_simulated_step_of_the_plans_fits_and_one_more_item_does_not(write_dataset):
    planned = make_plans(write_dataset("ACDC"), "nnunet", 6, CUDA, replace=False)
    budget = (1 - RESERVE) * 6 * GIB
    memory = StepMemory("nnunet", 1, 4, CUDA)
    for name, own in planned.plans["configurations"].items():
        step = memory.step_sizes(own["patch_size"], own["architecture"])
        assert planned.memory_bytes[name] == memory.simulate(step, own["batch_size"]) <= budget
        assert memory.simulate(step, own["batch_size"] + 1) > budget


def test_the_line_of_memory_counts_voxels_of_the_padded_patch(bytes_per_voxel):
    """9 x 11 x 20 is padded to 10 x 12 x 20, a multiple of 2 x 4 x 4; 3 bytes for each voxel."""
    bytes_per_voxel(3)
    memory, strides = StepMemory("nnunet", 1, 2, CUDA), [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    sizes = {"strides": strides, "kernel_sizes": [3, 3, 3], "features_per_stage": [4, 8, 16]}
    counts = {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    step = memory.step_sizes((9, 11, 20), {"arch_kwargs": {**sizes, **counts}})
    assert step.n_vox == 2400
    assert memory.fit_line(step) == (0, pytest.approx(3 * 2400))


@pytest.mark.parametrize(
    "network", ["nnunet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mm_unet", "umamba_enc"))]
)
def test_memory_is_a_line_within_one_percent(network):
    """Of two simulations of one patch; asked for a patch of a third of its voxels, and a larger batch."""
    memory, spacing = StepMemory(network, 1, 14, CUDA), (3.0, 0.76, 0.76)

    def step(*patch: int):
        strides, kernels, padded = plan_topology(spacing, patch)
        assert padded == list(patch)
        kwargs = {"strides": strides, "kernel_sizes": kernels, "features_per_stage": default_features(6, 3)}
        counts = {"n_conv_per_stage": [2] * 6, "n_conv_per_stage_decoder": [2] * 5}
        return memory.step_sizes(patch, {"arch_kwargs": {**kwargs, **counts}})

    memory.fit_line(step(48, 192, 192))
    smaller = step(40, 128, 128)
    fixed, per_item = memory.fit_line(smaller)
    assert fixed + 5 * per_item == pytest.approx(memory.simulate(smaller, 5), rel=0.01)
