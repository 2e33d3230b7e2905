"""Docstrings begin with a verb in the imperative or a noun phrase that names the thing (CONTRIBUTING.md)."""

import ast
from pathlib import Path

import pytest

import nnunet_mamba

PACKAGE = Path(nnunet_mamba.__path__[0])
NOT_FIRST = {  # question words, prepositions and conjunctions
    *("what", "which", "who", "whose", "whether", "where", "when", "why", "how", "that", "those", "such"),
    *(
        "of",
        "from",
        "by",
        "as",
        "for",
        "in",
        "on",
        "at",
        "into",
        "within",
        "without",
        "between",
        "with",
        "to",
    ),
    *("beside", "besides", "under", "over", "behind", "before", "after", "if", "so", "not", "also", "only"),
    *("is", "are", "has", "have", "may", "must"),
}


def docstrings(path: Path) -> list[tuple[str, str]]:
    """Names of the module, its classes and functions, with their docstrings."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            text := ast.get_docstring(node)
        ):
            found.append((getattr(node, "name", path.name), text))
    return found


@pytest.mark.parametrize("path", PACKAGE.rglob("*.py"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_docstring_names_the_thing_first(path):
    for name, text in docstrings(path):
        word = text.split()[0].strip("`,.:;()")
        assert word.lower() not in NOT_FIRST, f"{name}: begins with {word!r}"
        assert word[:1].isalpha() or word[:1].isdigit(), f"{name}: begins with {text.split()[0]!r}"


def test_words_that_name_nothing_are_found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text('"""Module."""\n\ndef f():\n    """What comes."""\n')
    with pytest.raises(AssertionError, match="f: begins with 'What'"):
        test_a_docstring_names_the_thing_first(file)
