"""Splits: published ones to the case, nnU-Net's own by patients, and the leaks of others."""

import json
from pathlib import Path

import pytest

from nnunet_mamba.study.datasets.source import Case, Issue, Source
from nnunet_mamba.study.datasets.splits import (
    Fold,
    Split,
    build_group_fn,
    draw_folds,
    draw_split,
    find_leaks,
    get_published_splits,
    make_split,
)

SPECIFIED = Path(__file__).parents[4] / "shared" / "specs" / "splits.json"
PATIENT = build_group_fn(r"patient\d{3}")
FRAMES = [f"patient{n:03d}_frame{frame:02d}" for n in range(1, 101) for frame in (1, 10)]
BTCV = [f"img{n:04d}" for n in (*range(1, 11), *range(21, 41))]
BRATS = [f"BRATS_{n:03d}" for n in range(1, 485)]


def source(names, *, roles=None, issues=()):
    roles = roles or {}
    file = Path("image.nii.gz")
    cases = tuple(Case(name, (file,), (file,), roles.get(name, "train")) for name in names)
    return Source("Dataset001_Made", {}, {}, ".nii.gz", cases, issues)


def members(fold):
    return set(fold.train), set(fold.val)


def test_folds_of_single_cases_are_nnunets_own():
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    names = [f"case_{n:02d}" for n in range(23)]
    split = make_split("5fold", source(names), build_group_fn(None))
    expected = [{key: [str(n) for n in fold[key]] for key in fold} for fold in generate_crossval_split(names)]
    assert split.to_json() == expected


def test_folds_keep_patients_whole_and_validate_every_case_once():
    split = make_split("5fold", source(FRAMES), PATIENT)
    assert sorted(name for fold in split.folds for name in fold.val) == FRAMES
    for fold in split.folds:
        assert set(fold.train) | set(fold.val) == set(FRAMES)
        assert not {PATIENT(n) for n in fold.train} & {PATIENT(n) for n in fold.val}
    assert [len(fold.val) for fold in split.folds] == [40] * 5


def test_three_patients_make_three_folds_and_one_patient_none():
    assert len(draw_folds(FRAMES[:6], PATIENT)) == 3
    with pytest.raises(ValueError, match="at least 2 patients"):
        draw_folds(FRAMES[:2], PATIENT)


def test_a_ratio_divides_patients():
    split = make_split("70:10:20", source(FRAMES), PATIENT)
    (fold,) = split.folds
    assert (len(fold.train), len(fold.val), len(split.test)) == (140, 20, 40)
    assert sorted((*fold.train, *fold.val, *split.test)) == FRAMES
    assert not find_leaks(split, PATIENT)


def test_seven_to_three_gives_vm_unets_numbers():
    """2150 -> 1505/645 is the nearest to the authors' 1500/650 that the ratio itself gives."""
    split = make_split("7:3", source([f"ISIC_{n:07d}" for n in range(2150)]), build_group_fn(None))
    assert (len(split.folds[0].train), len(split.folds[0].val)) == (1505, 645)


def test_a_ratio_is_cut_at_the_nearest_case():
    """7/10 of 11 cases are 7.7."""
    split = make_split("7:3", source([f"c{n:02d}" for n in range(11)]), build_group_fn(None))
    assert (len(split.folds[0].train), len(split.folds[0].val)) == (8, 3)


@pytest.mark.parametrize("name", ["5fold", "70:10:20", "mamba_unet", "taming"])
def test_a_split_does_not_depend_on_the_order_of_the_cases(name):
    there, back = (make_split(name, source(names), PATIENT, "acdc") for names in (FRAMES, FRAMES[::-1]))
    assert there == back


@pytest.mark.parametrize("name", ["7", "1:1:1:1", "7:0", "7:3:"])
def test_what_is_no_ratio_of_two_or_three_parts_is_refused(name):
    with pytest.raises(ValueError, match=f"Unknown split of .*'{name}'"):
        make_split(name, source(FRAMES), PATIENT)


def test_a_ratio_without_cases_for_a_part_is_refused():
    with pytest.raises(ValueError, match=r"3 patients cannot be divided 98:1:1"):
        make_split("98:1:1", source(FRAMES[:6]), PATIENT)


def test_official_takes_the_releases_own_validation_part():
    names = ["a", "b", "c"]
    split = make_split("official", source(names, roles={"b": "val"}), build_group_fn(None))
    assert split == Split((Fold(("a", "c"), ("b",)),))
    with pytest.raises(ValueError, match="no training and validation part"):
        make_split("official", source(names), build_group_fn(None))


def test_unlabelled_test_cases_are_in_no_fold():
    split = make_split(
        "5fold", source([f"c{n}" for n in range(6)], roles={"c0": "test"}), build_group_fn(None)
    )
    assert "c0" not in {name for fold in split.folds for name in fold.train + fold.val}


@pytest.mark.parametrize(
    ("dataset", "name", "sizes"),
    [
        ("synapse", "transunet", (18, 0, 12)),
        ("synapse", "unetr", (24, 6, 0)),
        ("synapse8", "transunet", (18, 0, 12)),
        ("acdc", "nnformer", (70, 10, 20)),
        ("acdc", "mamba_unet", (70, 10, 20)),
        ("acdc", "taming", (80, 0, 20)),
        ("msd_braintumour", "nnformer", (387, 73, 24)),
        ("msd_braintumour", "taming", (460, 0, 24)),
    ],
)
def test_published_sizes(dataset, name, sizes):
    split = get_published_splits(dataset)[name]
    assert (len(split.train), len(split.val), len(split.test)) == sizes
    assert not split.train & split.val and not (split.train | split.val) & split.test


@pytest.mark.parametrize(
    ("datasets", "sums"),
    [
        (
            ("synapse", "synapse8"),
            {"transunet": (430, 0, 235), "unetr": (440, 225, 0), "taming": (251, 0, 414)},
        ),
        (
            ("acdc",),
            {"nnformer": (3201, 947, 902), "mamba_unet": (3566, 495, 989), "taming": (4148, 0, 902)}
            | {"taming_torn": (4148, 0, 902)},
        ),
        (
            ("msd_braintumour", "msd_braintumour_regions"),
            {"nnformer": (98624, 13441, 5305), "taming": (112065, 0, 5305)},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_numbers_of_published_cases_have_the_sums_of_the_authors_lists(datasets, sums):
    """A case on the wrong side changes two of them. The last ones of UNETR are 35 + ... + 40 = 225."""
    for dataset in datasets:
        parts = {
            name: (split.train, split.val, split.test)
            for name, split in get_published_splits(dataset).items()
        }
        found = {name: tuple(sum(int(m[-3:]) for m in part) for part in of) for name, of in parts.items()}
        assert found == sums


@pytest.mark.skipif(not SPECIFIED.exists(), reason="needs the specifications beside the checkout")
@pytest.mark.parametrize(
    ("key", "dataset", "name", "pool"),
    [
        ("synapse_transunet_18_12", "synapse", "transunet", BTCV),
        ("btcv_monai_24_6", "synapse", "unetr", BTCV),
        ("acdc_mamba_unet_patients", "acdc", "mamba_unet", FRAMES),
        ("msd_braintumour_nnformer", "msd_braintumour", "nnformer", BRATS),
    ],
)
def test_published_splits_are_the_specified_ones(key, dataset, name, pool):
    specified = json.loads(SPECIFIED.read_text())[key]
    split = make_split(name, source(pool), PATIENT if dataset == "acdc" else build_group_fn(None), dataset)
    short = (lambda n: n[:10]) if dataset == "acdc" else (lambda n: n)
    assert {short(n) for n in split.test} == set(specified.get("test", []))
    if "val" in specified:
        (fold,) = split.folds
        assert {short(n) for n in fold.val} == set(specified["val"])
        assert {short(n) for n in fold.train} == set(specified["train"])
    else:
        for fold in split.folds:
            assert {short(n) for n in fold.train + fold.val} == set(specified["train"])


@pytest.mark.skipif(not SPECIFIED.exists(), reason="needs the specifications beside the checkout")
def test_nnformers_acdc_split_holds_the_frames_that_its_authors_list():
    specified = json.loads(SPECIFIED.read_text())["acdc_nnformer_70_10_20"]
    frames = sorted(specified["train"] + specified["val"] + specified["test"])
    split = make_split("nnformer", source(frames), PATIENT, "acdc")
    assert members(split.folds[0]) == (set(specified["train"]), set(specified["val"]))
    assert set(split.test) == set(specified["test"])


def test_a_published_split_names_what_is_missing_and_what_is_too_much():
    with pytest.raises(ValueError, match=r"names cases that are not there, 1 in all: img0040\. Complete"):
        make_split("transunet", source(BTCV[:-1]), build_group_fn(None), "synapse")
    with pytest.raises(ValueError, match=r"does not name all cases, 1 in all: img0041\. Complete"):
        make_split("transunet", source([*BTCV, "img0041"]), build_group_fn(None), "synapse")


@pytest.mark.parametrize("there", [BTCV[:24], BTCV[24:]], ids=["no validation", "no training"])
def test_a_part_of_a_published_split_needs_training_and_validation(there):
    with pytest.raises(ValueError, match="no case to train or none to validate on is there"):
        make_split("unetr", source(there), build_group_fn(None), "synapse", partial=True)


def test_a_case_with_a_fault_may_be_missing_from_a_published_split():
    broken = source(BTCV[:-1], issues=(Issue("missing", "img0040", "it has no label"),))
    split = make_split("transunet", broken, build_group_fn(None), "synapse")
    assert len(split.folds[0].train + split.folds[0].val) == 17


@pytest.mark.parametrize("name", ["mamba_unet", "Mamba-UNet", "acdc_mamba_unet_patients"])
def test_capitals_and_signs_of_a_name_do_not_matter(name):
    split = make_split(name, source(FRAMES), PATIENT, "acdc")
    assert split == make_split("mamba_unet", source(FRAMES), PATIENT, "acdc")


def test_an_unknown_split_is_answered_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"Unknown split of acdc 'unetr'. .*Choose one of 5fold, .*nnformer"):
        make_split("unetr", source(FRAMES), PATIENT, "acdc")


def test_a_name_that_does_not_begin_like_a_patient_is_refused():
    with pytest.raises(ValueError, match=r"name 'subject1' does not begin with a patient of this dataset"):
        make_split("5fold", source(["subject1"]), PATIENT)


def test_taming_mambas_folds_over_frames_leak_most_of_their_validation_images():
    """The finding of the specification: 24 to 30 of 32 validation images have their patient in training."""
    split = make_split("taming_torn", source(FRAMES), PATIENT, "acdc")
    shared = []
    for fold in split.folds:
        seen = {PATIENT(name) for name in fold.train}
        shared.append(sum(PATIENT(name) in seen for name in fold.val))
    assert shared == [24, 26, 28, 30, 30]
    found = find_leaks(split, PATIENT)
    assert len(found) == 5
    assert found[0].startswith(
        "fold 0: 24 of 32 validation images have images of their patient in training: "
    )
    assert "patient0" in found[0]


def test_the_same_pool_split_by_patients_does_not_leak():
    split = make_split("taming", source(FRAMES), PATIENT, "acdc")
    assert not find_leaks(split, PATIENT)
    assert len(split.test) == 40 and len(split.folds) == 5


def test_leaks_into_the_test_set_are_named():
    split = Split((Fold(("patient001_frame01",), ("patient002_frame01",)),), ("patient001_frame12",))
    assert find_leaks(split, PATIENT) == [
        "fold 0: 1 of 1 test images have images of their patient in training: patient001"
    ]
    split = Split((Fold(("patient003_frame01",), ("patient002_frame01",)),), ("patient002_frame12",))
    assert find_leaks(split, PATIENT) == ["fold 0: patients of the test set in validation: patient002"]


NAMES = [f"made_{k}" for k in range(10)]


def test_a_drawn_split_takes_every_case_once():
    split = draw_split(NAMES, n_unseen=3, n_validation=2, seed=0)
    (fold,) = split.folds
    assert (len(split.test), len(fold.val), len(fold.train)) == (3, 2, 5)
    assert sorted(split.test + fold.val + fold.train) == NAMES


def test_a_drawn_split_depends_on_names_and_seed_not_on_order():
    split = draw_split(NAMES, n_unseen=3, n_validation=2, seed=0)
    assert draw_split(NAMES[::-1], n_unseen=3, n_validation=2, seed=0) == split
    assert draw_split(NAMES, n_unseen=3, n_validation=2, seed=1) != split


@pytest.mark.parametrize("n_unseen", [0, 6])
def test_too_many_or_no_unseen_cases_are_refused_with_the_range(n_unseen):
    with pytest.raises(ValueError, match="choose between 1 and 5"):
        draw_split(NAMES, n_unseen=n_unseen, n_validation=2, seed=0)
