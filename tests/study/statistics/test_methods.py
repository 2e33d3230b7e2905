"""Names: short, of twins, of the baseline."""

import pytest

from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.statistics.methods import choose_baseline, find_twin, shorten_method_names


def method(trainer, plans="nnUNetPlans", configuration="3d_fullres"):
    return Method(f"nnUNetTrainer{trainer}", plans, configuration)


@pytest.mark.parametrize(
    ("trainer", "twin"),
    [
        ("MMUNet", "MMUNetNoSSM"),
        ("MMUNet_100epochs", "MMUNetNoSSM_100epochs"),
        ("MMUNet_demo", "MMUNetNoSSM_demo"),
        ("MMUNet_SSMAll_50epochs", "MMUNet_SSMAllNoSSM_50epochs"),
        ("MambaUniPaper", "MambaUniPaperNoSSM"),
        ("MMUNet_NoDecaySSM_100epochs", "MMUNetNoSSM_100epochs"),
        ("MMUNet_B3", "MMUNet_B3NoSSM"),
        ("MMUNet_B3_100epochs", "MMUNetNoSSM_100epochs"),  # without a scan its order is nothing
        ("MMUNet_HybridOutside_100epochs", "MMUNetNoSSM_100epochs"),  # nor where its mixer would be
        ("MMUNet_norm_bench", "MMUNetNoSSM_bench"),  # nor what that would hand on
        ("UMambaEnc_residual_bench", "UMambaBotNoSSM_bench"),
        ("Mine_100epochs", "Mine_NoSSM_100epochs"),
        ("MMUNet_bench", "MMUNetNoSSM_bench"),  # a user's own variant
        ("MMUNet_NoDecaySSM_bench", "MMUNetNoSSM_bench"),
        ("UMambaEnc_50epochs", "UMambaBotNoSSM_50epochs"),  # where its mixers would be, nothing is
        ("MambaUni", "MambaMultiNoSSM"),
        ("MambaBi_bench", "MambaBiNoSSM_bench"),
        ("MambaMultiPaper", "MambaUniPaperNoSSM"),  # one network without SSM, by one recipe
    ],
)
def test_twins_are_found_by_name(trainer, twin):
    others = [method(""), method("UMambaBotNoSSM"), method(twin), method(twin, configuration="2d")]
    assert find_twin(method(trainer), [method(trainer), *others]) == method(twin)


@pytest.mark.parametrize(
    ("trainer", "other"),
    [
        ("MMUNet", method("MMUNetNoSSM_100epochs")),
        ("UMambaEnc_50epochs", method("UMambaBotNoSSM")),
        ("MambaUniPaper", method("MambaMultiPaperOneCycleNoSSM")),  # another recipe
        ("MMUNet", method("MMUNetNoSSM_bench")),
        ("MMUNet", method("MMUNetNoSSM", configuration="2d")),
        ("MMUNet", method("MMUNetNoSSM", plans="nnUNetResEncUNetMPlans")),
        ("MMUNet_SSMAll", method("MMUNetNoSSM")),
        ("MMUNetNoSSM", method("MMUNetNoSSM")),
        ("", method("MMUNetNoSSM")),
    ],
)
def test_what_differs_in_more_than_the_ssm_is_no_twin(trainer, other):
    assert find_twin(method(trainer), [other]) is None


def test_the_twins_of_the_shipped_trainers_are_found():
    from nnunet_mamba import trainers

    methods = [Method(name, "p", "c") for name in trainers.__all__]
    twins = [m for m in methods if "NoSSM" in m.trainer]
    assert twins
    found = {find_twin(m, methods) for m in methods}
    assert found >= set(twins)


def test_names_have_what_differs():
    assert shorten_method_names([method(""), method("MMUNet"), method("_100epochs")]) == [
        "nnUNet", "MMUNet", "nnUNet_100epochs",
    ]  # fmt: skip
    assert shorten_method_names([method("MMUNet"), method("MMUNet", configuration="2d")]) == [
        "3d_fullres",
        "2d",
    ]
    assert shorten_method_names([method("", plans="A"), method("MMUNet", plans="B")]) == [
        "nnUNet__A",
        "MMUNet__B",
    ]
    assert shorten_method_names([Method("mine", "", "")]) == ["mine"]
    assert shorten_method_names([method("A"), Method("A", "nnUNetPlans", "3d_fullres")]) == [
        "nnUNetTrainerA__nnUNetPlans__3d_fullres", "A__nnUNetPlans__3d_fullres",
    ]  # fmt: skip


def test_the_control_is_nnunets_own():
    methods = [method("MMUNet_50epochs"), method("Control_50epochs")]
    assert choose_baseline(methods) == method("Control_50epochs")
    assert shorten_method_names(methods) == ["MMUNet_50epochs", "nnUNetControl_50epochs"]
    assert choose_baseline([method("Controlled"), method("MMUNet")]) == method("Controlled")  # the first


def test_the_baseline_is_nnunets_own_unless_named():
    methods = [method("MMUNet"), method("", plans="Other"), method("")]
    assert choose_baseline(methods) == method("")
    assert choose_baseline(methods[:1]) == method("MMUNet")
    for name in (
        "MMUNet__nnUNetPlans",
        "nnUNetTrainerMMUNet",
        "nnUNetTrainerMMUNet__nnUNetPlans__3d_fullres",
    ):
        assert choose_baseline(methods, name) == method("MMUNet")
    with pytest.raises(
        ValueError, match=r"'UNet' is not a method of these tables; choose one of MMUNet__nnUNetPlans, "
    ):
        choose_baseline(methods, "UNet")
    with pytest.raises(ValueError, match="'nnUNetTrainer' is the name of several methods"):
        choose_baseline(methods, "nnUNetTrainer")
