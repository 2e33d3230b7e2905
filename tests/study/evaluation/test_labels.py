"""Two dataset.json that number their labels alike, or not."""

import json

import pytest

from nnunet_mamba.study.evaluation.labels import find_numbering_differences


@pytest.mark.parametrize(
    ("first", "second", "differences"),
    [
        ({"aorta": 8}, {"aorta": 1}, ["aorta is 8 in the first and 1 in the second"]),
        (
            {"aorta": 1},
            {"spleen": 1},
            [
                "aorta is 1 in the first and not in the second",
                "spleen is not in the first and 1 in the second",
            ],
        ),
        ({"a": 1, "b": 2}, {"b": 2}, ["a is 1 in the first and not in the second"]),
        ({"a": 1}, {"a": 1, "ignore": 2}, ["ignore is not in the first and 2 in the second"]),
        (
            {"whole": [1, 2], "core": [2]},
            {"whole": 1, "core": 2},
            ["whole is 1+2 in the first and 1 in the second"],
        ),
        ({"Left-Kidney": 1}, {"left kidney": 1}, []),
        ({"b": [2], "a": [1, 3]}, {"a": [3, 1], "b": 2}, []),
        (
            {"CD4+": 1, "CD4-": 2},
            {"CD4-": 1, "CD4+": 2},
            ["CD4+ is 1 in the first and 2 in the second", "CD4- is 2 in the first and 1 in the second"],
        ),
        ({"肝": 1, "脾": 2}, {"脾": 1, "肝": 2}, ["肝 is 1 in the first and 2 in the second",
                                                "脾 is 2 in the first and 1 in the second"]),
    ],
)  # fmt: skip
def test_two_dataset_json_are_told_apart_by_what_they_call_a_value(first, second, differences):
    described = [
        {"labels": {"background": 0, **labels}, "numTraining": len(labels)} for labels in (first, second)
    ]
    assert find_numbering_differences(*described) == differences


def test_regions_are_also_told_apart_by_the_value_that_nnunet_writes():
    """Whole tumour (1, 2) is written first, then the core (2) over it: by 1 and 2, or the other way round."""
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    one, other = ({"labels": labels, "regions_class_order": order} for order in ([1, 2], [2, 1]))
    assert find_numbering_differences(one, one) == []
    assert find_numbering_differences(one, other) == [
        "whole is 1+2 (written as 1) in the first and 1+2 (written as 2) in the second",
        "core is 2 (written as 2) in the first and 2 (written as 1) in the second",
    ]
    turned = {"labels": dict(reversed(labels.items())), "regions_class_order": [2, 1]}
    assert find_numbering_differences(one, turned) == []


@pytest.mark.parametrize(
    ("other", "differ"),
    [
        ({"labels": {"0": "background", "1": "Spleen", "2": "liver"}}, False),
        ({"labels": {"0": "background", "1": "liver", "2": "spleen"}, "modality": {"0": "CT"}}, True),
        ({"labels": {"background": 0, "liver": 1, "spleen": 2}}, True),  # of v2, without its file_ending
        ({"labels": {"0": "background", "1": "another"}}, False),
        ({"labels": ["liver"]}, False),
        ({"training": []}, False),
        ([], False),
    ],
)
def test_a_dataset_json_of_another_form_must_not_contradict(tmp_path, other, differ):
    from nnunet_mamba.study.evaluation.match import find_dataset_json

    for name, content in (
        ("pred", {"labels": {"background": 0, "spleen": 1, "liver": 2}, "file_ending": ".nii.gz"}),
        ("ref", other),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(json.dumps(content))
    if differ:
        with pytest.raises(ValueError, match="spleen is 1 in the first and 2 in the second"):
            find_dataset_json(tmp_path / "pred", tmp_path / "ref")
    else:
        assert find_dataset_json(tmp_path / "pred", tmp_path / "ref") == tmp_path / "pred" / "dataset.json"


def test_two_of_another_form_must_not_contradict_either(tmp_path):
    from nnunet_mamba.study.evaluation.match import find_dataset_json

    for name, labels in (("pred", {"1": "liver", "2": "spleen"}), ("ref", {"1": "spleen", "2": "liver"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(json.dumps({"labels": labels, "modality": {"0": "CT"}}))
    with pytest.raises(ValueError, match="liver is 1 in the first and 2 in the second"):
        find_dataset_json(tmp_path / "pred", tmp_path / "ref")


def test_an_order_of_regions_that_only_one_tells_is_no_difference():
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2}}
    assert find_numbering_differences(regions, {**regions, "regions_class_order": [1, 2]}) == []
    ordered = [{**regions, "regions_class_order": order} for order in ([1, 2], [2, 1])]
    assert len(find_numbering_differences(*ordered)) == 2
