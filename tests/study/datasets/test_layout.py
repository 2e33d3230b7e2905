"""Patterns of paths: what they match, where a layout may begin, and what is missing or too much."""

import pytest

from nnunet_mamba.study.datasets.layout import Part, describe_pattern, has_images, list_tree, read_parts

CINE = Part(
    (r"training/<patient:patient\d{3}>/<case:patient\d{3}_frame\d{2}>.nii.gz",),
    "training/<patient>/<case>_gt.nii.gz",
)
TWO = Part((r"<case:c\d>/<case>_t1.nii", "<case>/<case>_t2.nii"), "<case>/<case>_seg.nii")


def tree(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return list_tree([folder])[0]


def test_places_are_remembered_within_a_path(tmp_path):
    files = tree(
        tmp_path,
        "training/patient001/patient001_frame01.nii.gz",
        "training/patient001/patient001_frame01_gt.nii.gz",
        "training/patient001/patient001_4d.nii.gz",
        "training/patient001/Info.cfg",
    )
    (case,), issues = read_parts((CINE,), files)
    assert (case.name, issues) == ("patient001_frame01", [])
    assert case.images[0].name == "patient001_frame01.nii.gz"
    assert case.labels[0].name == "patient001_frame01_gt.nii.gz"


def test_a_repeated_place_must_be_the_same(tmp_path):
    files = tree(tmp_path, "c1/c2_t1.nii", "c1/c2_t2.nii", "c1/c2_seg.nii")
    assert read_parts((TWO,), files) == ([], [])


@pytest.mark.parametrize("top", ["", "ACDC/", "ACDC/database/", "a/b/c/d/"])
def test_a_layout_may_begin_some_folders_below(tmp_path, top):
    files = tree(tmp_path, f"{top}c1/c1_t1.nii", f"{top}c1/c1_t2.nii", f"{top}c1/c1_seg.nii")
    (case,), issues = read_parts((TWO,), files)
    assert (case.name, issues) == ("c1", [])


def test_of_copies_below_one_another_the_uppermost_is_read(tmp_path):
    files = tree(tmp_path, *(f"{top}c1/c1_{m}.nii" for top in ("", "backup/") for m in ("t1", "t2", "seg")))
    (case,), issues = read_parts((TWO,), files)
    assert not issues and {file.parent for file in case.files} == {tmp_path / "c1"}


def test_a_layout_in_two_places_asks_which(tmp_path):
    files = tree(tmp_path, "one/c1/c1_t1.nii", "two/c1/c1_t1.nii")
    with pytest.raises(ValueError, match=r"several folders: one/, two/\. Give one of these"):
        has_images(TWO, files)


def test_channels_may_come_from_several_folders_given(tmp_path):
    tree(tmp_path / "images", "c1/c1_t1.nii", "c1/c1_t2.nii")
    tree(tmp_path / "labels", "x/c1/c1_seg.nii")
    (case,), issues = read_parts((TWO,), list_tree([tmp_path / "images", tmp_path / "labels"])[0])
    assert not issues and len(case.files) == 3


@pytest.mark.parametrize(
    ("lost", "kind", "what"),
    [
        ("c1/c1_t1.nii", "missing", "case c1 has no image <case>/<case>_t1.nii"),
        ("c1/c1_t2.nii", "missing", "case c1 has no image <case>/<case>_t2.nii"),
        ("c1/c1_seg.nii", "missing", "case c1 has no label <case>/<case>_seg.nii"),
    ],
)
def test_what_a_case_lacks_is_a_fault_of_that_case_alone(tmp_path, lost, kind, what):
    paths = [f"{c}/{c}_{m}.nii" for c in ("c1", "c2") for m in ("t1", "t2", "seg")]
    files = tree(tmp_path, *(path for path in paths if path != lost))
    cases, (issue,) = read_parts((TWO,), files)
    assert [case.name for case in cases] == ["c2"]
    assert (issue.kind, issue.case, issue.message) == (kind, "c1", what)


def test_a_label_without_its_image_is_extra(tmp_path):
    files = tree(tmp_path, "c1/c1_seg.nii")
    _, (issue,) = read_parts((TWO,), files)
    assert (issue.kind, issue.case) == ("extra", "c1")


def test_a_test_case_may_lack_its_label_and_keeps_it_if_it_is_there(tmp_path):
    part = Part((r"i/<case:t\d>.png",), "l/<case>.png", role="test")
    cases, issues = read_parts((part,), tree(tmp_path, "i/t1.png", "i/t2.png", "l/t2.png"))
    assert not issues
    assert [(case.name, len(case.labels), case.role) for case in cases] == [
        ("t1", 0, "test"),
        ("t2", 1, "test"),
    ]


def test_one_image_in_two_formats_is_a_duplicate(tmp_path):
    part = Part((r"<case:x\d>.<ending:png|jpg>",))
    cases, (issue,) = read_parts((part,), tree(tmp_path, "x1.png", "x1.jpg"))
    assert not cases and issue.kind == "duplicate"


def test_a_name_in_two_parts_is_a_duplicate_whatever_its_capitals(tmp_path):
    parts = (Part(("a/<case>.png",)), Part(("b/<case>.png",), role="val"))
    _, (issue,) = read_parts(parts, tree(tmp_path, "a/Scan.png", "b/scan.png"))
    assert (issue.kind, issue.case) == ("duplicate", "scan")


def test_several_label_files_make_one_label_only_where_the_layout_says_so(tmp_path):
    part = Part(("i/<case>.png",), "l/<tool>/<case>.png", several_labels=True)
    files = tree(tmp_path, "i/f.png", "l/left/f.png", "l/right/f.png")
    (case,), issues = read_parts((part,), files)
    assert not issues and len(case.labels) == 2
    strict = Part(part.images, part.label)
    assert [issue.kind for issue in read_parts((strict,), files)[1]] == ["duplicate"]


def test_hidden_files_of_other_systems_are_not_seen(tmp_path):
    files = tree(tmp_path, "._c1.nii", "__MACOSX/c1/c1_t1.nii", "a/.DS_Store", "a/__MACOSX/x", "c1/c1_t1.nii")
    assert [path for path, _ in files] == ["c1/c1_t1.nii"]


def test_signs_of_regular_expressions_in_names_stand_for_themselves(tmp_path):
    part = Part(("a+b/<case>.nii.gz",))
    assert not has_images(part, tree(tmp_path / "1", "aab/x.nii.gz", "a+b/xxniixgz"))
    assert has_images(part, tree(tmp_path / "2", "a+b/x.nii.gz"))


def test_patterns_are_shown_without_expressions():
    assert describe_pattern(CINE.images[0]) == "training/<patient>/<case>.nii.gz"
