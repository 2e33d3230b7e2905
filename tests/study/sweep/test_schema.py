"""The schema of study files: one meaning for the reader, for editors and in the docs."""

import copy
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from nnunet_mamba.cli import main
from nnunet_mamba.study.sweep.read import read_study
from nnunet_mamba.study.sweep.schema import FILE, StudyFile, format_json_schema

CHECKOUT = Path(__file__).parents[3]
STUDIES = sorted((CHECKOUT / "scripts").rglob("*.yaml"))
PAGE = (CHECKOUT / "docs" / "sweep.md").read_text(encoding="utf-8")
EXAMPLE = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
FULL = {  # every key
    "name": "full",
    "out": "out",
    "device": "cpu",
    "datasets": [
        {
            "dataset": "Dataset004_Hippocampus",
            "convert": {"name": "msd", "sources": ["."], "options": ["--x", 1]},
            "split": "5fold",
            "group": r"patient\d+",
            "test": [{"name": "t", "images": "imagesTs", "labels": "labelsTs", "parts": 2}, {}],
        },
        {"dataset": 5},
        "Dataset006_X",
        7,
    ],
    "configurations": "2d",
    "plans": {
        "nnUNetPlans": None,
        "a": {"template": "cpu", "from": "nnUNetPlans", "vram_gb": 8.5},
        "b": {"planner": "nnUNetPlannerResEncM"},
        "c": {"network": "mm_unet", "vram_gb": 8},
        "d": {"own": True},
    },
    "trainers": ["A", "B"],
    "methods": ["C", {"trainer": "D", "plans": "a", "configurations": ["2d", "3d_lowres"]}],
    "folds": [0, "1", "all"],
    "seeds": [0, "1"],
    "protocols": ["honest"],
    "metrics": ["dice", "hd95"],
    "tolerance_mm": [1, 1.5, "liver=2"],
    "baseline": "A",
    "margins": {"dice": 0.01, "hd95": 1},
    "threads": 2,
    "gpus": 2,
    "memory_gb": 16,
    "hours": 2,
    "npz": True,
    "mirroring": False,
    "batched_prediction": True,
    "conditions": {
        "a": {"without_mixer": True},
        "b.1": {"mirroring": False, "step_size": 1, "gamma": 2, "brightness": -0.5, "noise": 0.1},
    },
    "trainers_from": ["."],
    "variables": {"A": "x", "B": 1},
    "folders": {"raw": "a", "preprocessed": "b", "results": "c"},
}
VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    1.5,
    0.0,
    "",
    "x",
    "2d",
    "all",
    "cpu",
    "a__b",
    "a b",
    "$HOME",
    "~/x",
]
VALUES += ["Dataset009_X", "12", [], {}, [1], ["x"], ["x", "x"], [None], [True], [[]], {"a": 1}, {"a": None}]


def is_known(content) -> bool:
    try:
        StudyFile.model_validate(content)
    except ValidationError:
        return False
    return True


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def mappings(content):
    """Yield all mappings within a value."""
    if isinstance(content, list):
        for value in content:
            yield from mappings(value)
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from mappings(value)


def test_the_shipped_schema_is_that_of_the_models(schema):
    command = "python -m nnunet_mamba.study.sweep.schema"
    assert schema == json.loads(format_json_schema()), f"after a change: {command}"


def test_the_command_prints_it(capsys):
    assert main(["sweep", "schema"]) == 0
    assert capsys.readouterr().out == FILE.read_text(encoding="utf-8")


def test_a_study_made_in_code_needs_no_pydantic():
    code = "import sys; import nnunet_mamba.study.sweep.start; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_each_key_has_words_and_where_it_has_one_its_default(schema):
    sections = [schema, *schema["$defs"].values()]
    for section in sections:
        assert section["additionalProperties"] is False and section["description"]
        for key, described in section["properties"].items():
            reference = described.get("$ref", "").removeprefix("#/$defs/")
            words = schema["$defs"][reference] if reference else described
            assert words["description"], key
    defaults = {key: value.get("default") for key, value in schema["properties"].items()}
    assert defaults.items() >= {"device": "cuda", "memory_gb": 32, "mirroring": True, "npz": False}.items()


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_studies_of_papers_are_known_to_editors(editor, file):
    assert STUDIES
    editor.validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def test_an_unknown_key_is_refused_everywhere(editor):
    assert is_known(FULL) and editor.is_valid(FULL)
    free = [FULL["plans"], FULL["variables"]]  # their keys are names
    for i, section in enumerate(mappings(FULL)):
        if section not in free:
            content = copy.deepcopy(FULL)
            list(mappings(content))[i]["unknown"] = "x"
            assert not is_known(content) and not editor.is_valid(content), section


def test_all_that_is_read_is_known_to_editors(editor):
    """Put values of all kinds in the place of others: what the models take, the schema for editors does."""
    dice = random.Random(0)
    taken = 0
    for _ in range(1000):
        content = copy.deepcopy(FULL)
        for _ in range(dice.choice((1, 1, 2))):
            section = dice.choice(list(mappings(content)) or [content])
            if section:
                section[dice.choice(list(section))] = copy.deepcopy(dice.choice(VALUES))
        if is_known(content):
            taken += 1
            assert editor.is_valid(content), content
    assert 100 < taken < 900


def test_every_key_is_in_the_docs_with_its_default(schema, editor):
    """The page has an example and a table: "| `memory_gb`, `hours` | 32, 48 | meaning |"."""
    editor.validate(EXAMPLE)
    table = dict(re.findall(r"^\| (`[a-z_`, ]+`) \|([^|]*)\|[^|]+\|$", PAGE, re.M))
    defaults = {}
    for keys, texts in table.items():
        names = re.findall(r"\w+", keys)
        defaults |= dict(
            zip(names, texts.strip().split(", ") if len(names) > 1 else [texts.strip()], strict=True)
        )
    documented = (
        {key for section in mappings(EXAMPLE) for key in section} | set(defaults) | set(FULL["folders"])
    )
    for section in (schema, *schema["$defs"].values()):
        assert set(section["properties"]) <= documented
    known = {
        key: json.dumps(value["default"]) for key, value in schema["properties"].items() if "default" in value
    }
    assert {key: defaults[key] for key in known if key in defaults} == {
        key: text for key, text in known.items() if key in defaults
    }
    assert {"gpus", "memory_gb", "hours", "mirroring", "npz"} <= set(known) & set(defaults)


def test_all_errors_are_told_at_once_each_with_its_place(write_study):
    changes = {
        "deviec": "cpu",
        "datasets": [
            4,
            {"dataset": "Dataset005_X", "test": [{"parts": "x", "labls": "y"}]},
            {"split": "5fold"},
        ],
        "plans": {"test": {"templat": "x"}, "other": {"images": "x"}},
        "npz": 1,
    }
    with pytest.raises(ValueError) as error:
        read_study(write_study(**changes))
    assert sorted(str(error.value).splitlines()) == sorted(
        [
            "small.yaml: dataset 2: test 1: parts is 'x'; expected a whole number from 1 on.",
            "small.yaml: dataset 2: test 1 has a key 'labls' that is unknown here; did you mean 'labels'?",
            "small.yaml: dataset 3 lacks 'dataset': Dataset###_Name, or the number of one that exists.",
            "small.yaml: plans: test has a key 'templat' that is unknown here; did you mean 'template'?",
            "small.yaml: plans: other has a key 'images' that is unknown here; "
            "expected planner, template, from, vram_gb, network, own.",
            "small.yaml: npz is 1; expected true or false.",
            "small.yaml has a key 'deviec' that is unknown here; did you mean 'device'?",
        ]
    )


def test_what_does_not_fit_together_is_told_at_once_too(write_study, tmp_path):
    changes = {
        "trainers_from": ["nowhere"],
        "datasets": [77, {"dataset": "Dataset005_X", "test": [{"images": "a/b", "labels": "c/d"}]}],
        "plans": {"a": {"template": "cpu", "from": "b"}, "b": {"template": "cpu", "from": "a"}},
        "methods": ["A", {"trainer": "B", "plans": "a"}],
    }
    with pytest.raises(ValueError) as error:
        read_study(write_study(**changes))
    lines = str(error.value).splitlines()
    for part in (
        "plans are made from each other: a from b from a.",
        "nowhere does not exist",
        "dataset 1: Expected one dataset Dataset077_*",
        f"dataset 2: test 1: {tmp_path}/a/b does not exist.",
        f"dataset 2: test 1: {tmp_path}/c/d does not exist.",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert all(line.startswith("small.yaml: ") for line in lines)
