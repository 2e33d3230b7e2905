"""Names: short, of twins, of the baseline."""

import pytest

from nnunet_mamba.nnunet.catalogue import list_trainer_names
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.statistics.methods import (
    UNDER_CONDITION,
    choose_baseline,
    choose_pairs,
    find_size_matched,
    find_trained,
    find_twin,
    shorten_method_names,
    training_length,
)


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
        ("MMUNet_DecoderOnly_1200steps", "MMUNetNoSSM_1200steps"),
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


@pytest.mark.parametrize(
    ("trainer", "other"),
    [
        ("MMUNet", "MMUNet_Conv"),
        ("MMUNet_1200steps", "MMUNet_Conv_1200steps"),
        ("MMUNet_1200steps@noise10", "MMUNet_Conv_1200steps@noise10"),
        ("MMUNet@noise10", "MMUNet_Conv@noise10"),
        ("MMUNet_NoDecaySSM_100epochs", "MMUNet_Conv_100epochs"),  # nor has it an SSM to spare
        ("Mine_a", "Mine_Conv_a"),
    ],
)
def test_size_matched_twins_are_found_by_name(trainer, other):
    near = [method("MMUNetNoSSM"), method(other, configuration="2d"), method("MMUNet_Conv_5epochs@flips")]
    assert find_size_matched(method(trainer), [method(trainer), *near, method(other)]) == method(other)
    assert find_size_matched(method(other), [method(trainer), method(other)]) is None


@pytest.mark.parametrize(
    "trainer", ["MMUNetNoSSM", "MMUNet_Attention", "MMUNet_5epochs", "MMUNet@noise10", ""]
)
def test_what_differs_in_more_than_the_convolutions_is_no_size_matched_twin(trainer):
    assert find_size_matched(method(trainer), [method("MMUNet_Conv"), method("MMUNet")]) is None


def test_a_size_matched_twin_has_no_ssm_of_which_a_twin_could_be_without():
    twin = method("MMUNetNoSSM_5epochs")
    assert find_twin(method("MMUNet_5epochs"), [twin]) == twin
    assert find_twin(method("MMUNet_Conv_5epochs"), [twin]) is None


def test_twins_are_of_one_condition():
    methods = [method("MMUNetNoSSM"), method("MMUNetNoSSM@noise10"), method("MMUNetNoSSM@no_flips")]
    for condition in ("", "@noise10", "@no_flips"):
        assert find_twin(method(f"MMUNet{condition}"), methods) == method(f"MMUNetNoSSM{condition}")
    assert find_twin(method("MMUNet@noise20"), methods) is None


def test_a_network_under_a_condition_is_paired_with_itself_as_trained():
    trained, noisy = method("MMUNet_5epochs"), method("MMUNet_5epochs@noise10")
    assert find_trained(noisy, [trained, noisy]) == trained
    assert find_trained(trained, [trained, noisy]) is None
    assert find_trained(noisy, [noisy, method("MMUNet")]) is None
    assert find_trained(noisy, [noisy, method("MMUNet_5epochs", configuration="2d")]) is None


def test_a_condition_hides_neither_the_baseline_nor_the_length():
    methods = [method("@noise10"), method("Control_5epochs@noise10"), method("Control_5epochs")]
    assert choose_baseline(methods) == method("Control_5epochs")
    assert choose_baseline(methods[:2]) == method("@noise10")
    assert shorten_method_names(methods) == [
        "nnUNet@noise10", "nnUNetControl_5epochs@noise10", "nnUNetControl_5epochs",
    ]  # fmt: skip
    assert [training_length(m) for m in methods] == ["", "5epochs", "5epochs"]


def test_a_baseline_that_is_named_with_a_condition_is_that_network_as_trained():
    trained, noisy, other = method("Control"), method("Control@noise10"), method("MMUNet@noise10")
    assert choose_baseline([trained, noisy, other], str(noisy)) == trained
    assert choose_baseline([noisy, other], str(noisy)) == noisy


def test_the_only_pair_is_compared_once():
    pair = [method(""), method("@noise10")]
    assert choose_pairs(pair, pair[0]) == [(UNDER_CONDITION.against, pair[1], pair[0])]


def test_the_size_matched_twins_of_the_shipped_trainers_are_found():
    methods = [Method(name, "p", "c") for name in list_trainer_names()]
    twins = {m for m in methods if "_Conv" in m.trainer}
    assert twins and {find_size_matched(m, methods) for m in methods} == {*twins, None}
