"""YAML files that people write: what PyYAML would take silently, or tell at length, is one short message."""

import re

import pytest
import yaml

from nnunet_mamba.io.yaml import read_yaml


@pytest.fixture
def read(tmp_path):
    def of(content):
        file = tmp_path / "file.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_yaml(file, "a study")

    return of


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3, column 1: the key 'a' is already in line 1\."),
        ("list:\n  - {b: 1, c: 2, b: 3}\n", r"line 2, column 18: the key 'b' is already in line 2\."),
        ("1: x\n'1': y\n", r"line 2, column 1: the key '1' is already in line 1\."),
        ("base: &base {a: 1}\nuse:\n  <<: *base\n  b: 1\n  b: 2\n", r"line 5, column 3: the key 'b'"),
        ("a: [1,\n  2\nb: 3", r"line 3, column 2: while parsing a flow sequence, expected ',' or ']'"),
        ("\tkey: 1", r"line 1, column 1: while scanning for the next token, found character '\\t'"),
        ("a: *nothing", r"line 1, column 4: found undefined alias 'nothing'\."),
        ("a: 1\n---\nb: 2", r"line 2, column 1: expected a single document"),
        ("a: !!python/object:os.system x", "line 1, column 4: could not determine a constructor"),
        ("? [1, 2]\n: 3", "line 1, column 3: .*unhashable key"),
        ("a: 2024-99-99", "is not YAML in UTF-8: month must be in 1..12"),
        ("a: \x07", "is not YAML in UTF-8: unacceptable character #x0007"),
        (b"name: \xff\xfe", "is not YAML in UTF-8: 'utf-8' codec can't decode byte 0xff in position 6"),
    ],
)
def test_what_is_no_yaml_is_told_in_one_line_with_its_place(read, content, message):
    with pytest.raises(ValueError, match=rf"^file\.yaml.*{message}") as error:
        read(content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "just words",
        "- 1\n- {a: b}",
        "a: {b: 1}\nc: {b: 1}",
        "\ufeffa: ü",
        "x: &x {a: 1, b: 2}\nuse: {<<: *x, b: 3}\nboth: {deep: &deep {<<: *x, a: 4}}\nc: {<<: *deep}",
    ],
)
def test_other_files_are_what_pyyaml_makes_of_them(read, content):
    assert read(content) == yaml.safe_load(content)


def test_what_is_no_file_is_told(tmp_path):
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))} is a folder; expected a study"):
        read_yaml(tmp_path, "a study")
    with pytest.raises(ValueError, match="none does not exist; expected a study"):
        read_yaml(tmp_path / "none", "a study")
