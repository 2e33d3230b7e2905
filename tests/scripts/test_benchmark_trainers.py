"""The trainers of the benchmark's studies: all that the studies name, built as their names say."""

import re
import runpy
from inspect import signature
from pathlib import Path

import pytest
import torch

from nnunet_mamba.analysis.activations import measure_spreads
from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.mixers import OUTPUTS

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("benchmark_hippocampus", "benchmark_hippocampus_3d", "mixers_hippocampus")
STUDIES = [*(SCRIPTS / f"{name}.yaml" for name in NAMES), *sorted((SCRIPTS / "mm_unet").glob("*.yaml"))]


@pytest.fixture(scope="module")
def trainers():
    file = SCRIPTS / "benchmark_hippocampus" / "trainers" / "benchmark_trainers.py"
    return runpy.run_path(str(file), run_name="benchmark_trainers")


@pytest.fixture
def build(trainers, make_plans):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    def of(name):
        torch.manual_seed(0)
        plans = PlansManager(make_plans(n_stages=3, patch=(16, 16, 16), features=8))
        configuration = plans.get_configuration("3d_fullres")
        return trainers[name].build_network_architecture(plans, configuration, 1, 2, False)

    return of


@pytest.mark.parametrize("study", STUDIES, ids=lambda file: file.stem)
def test_every_trainer_of_a_study_exists_and_builds_as_nnunet_calls_it(trainers, study):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    named = re.findall(r"trainer: (\w+)", study.read_text())
    assert named
    assert [name for name in named if name not in trainers] == []
    for name in named:  # nnU-Net reads the parameters' names before it calls
        ours, stock = (signature(one.build_network_architecture) for one in (trainers[name], nnUNetTrainer))
        assert list(ours.parameters) == list(stock.parameters), name


@pytest.mark.parametrize("word", OUTPUTS)
def test_a_reading_builds_its_word(trainers, build, word):
    for suffix in ("bench", "1200steps"):
        name = f"nnUNetTrainerMMUNet_{word}_{suffix}"
        assert trainers[name].overrides == {"mixer_output": word}
    mixers = [block.mixer for block in build(name).encoder.modules() if isinstance(block, MetaBlock)]
    assert [mixer.residual for mixer in mixers] == [word == "residual"] * 2
    assert [isinstance(mixer.out_norm, torch.nn.InstanceNorm3d) for mixer in mixers] == [word == "norm"] * 2


@pytest.mark.parametrize("network", ["MMUNet", "UMambaBot", "UMambaEnc", "MambaUni", "MambaBi", "MambaMulti"])
def test_size_matched_twins_come_in_both_budgets(trainers, build, network):
    for suffix in ("bench", "1200steps"):
        name = f"nnUNetTrainer{network}_Conv_{suffix}"
        assert trainers[name].overrides["mixer"] == "conv"
        assert any(isinstance(module, MatchedConv) for module in build(name).modules())
    assert (
        trainers["nnUNetTrainerMambaMulti_Conv_bench"].overrides["order"] == "multi"
    )  # not of volumes alone


def test_the_small_twin_adds_six_hundredths_of_what_the_twin_adds(build):
    x = torch.randn(1, 1, 16, 16, 16)
    twin, small = (build(f"nnUNetTrainerMMUNetNoSSM{suffix}_bench") for suffix in ("", "_small"))
    added = [
        {one.block: one.variance**0.5 for one in measure_spreads(network, x) if one.part == "convs"}
        for network in (twin, small)
    ]
    first = next(iter(added[0]))
    assert added[1][first] == pytest.approx(0.06 * added[0][first])
