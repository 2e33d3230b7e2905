"""What a release says of itself: one version in all places, no promise of a package that is not published."""

import re
from pathlib import Path

import pytest
import yaml

import nnunet_mamba

CHECKOUT = Path(__file__).parents[1]
AFTER_RELEASE = CHECKOUT / "docs" / "release.md"  # says when the package can be had by its name
RELEASED = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\S+.*)$", re.MULTILINE)
PROMISE = re.compile(r"pip (install|download)\b[^\n`&;#,]*[ '\"]nnunet[_-]mamba\b")
TEXTS = ("*.md", "*.cff", "docs/*.md", "nnunet_mamba/**/*.py", "scripts/**/*", "benchmarks/**/*.py")


def test_citation_and_changelog_name_the_version_of_the_package():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    version, date = RELEASED.findall((CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8"))[0]
    assert version == citation["version"] == nnunet_mamba.__version__
    assert date == str(citation.get("date-released", "unreleased")), "one date, in both files or in none"


def test_the_version_stands_in_the_package_alone():
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text and not re.search(r"^version = \"", text, re.MULTILINE)


def test_the_changelog_has_the_headings_of_keep_a_changelog():
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert all(re.match(r"\[(Unreleased|\d+\.\d+\.\d+)\]", heading) for heading in releases)


@pytest.mark.parametrize("pattern", TEXTS)
def test_nothing_promises_a_package_on_an_index(pattern):
    files = [file for file in CHECKOUT.glob(pattern) if file.suffix not in (".pyc", ".png")]
    texts = {file: file.read_text(encoding="utf-8") for file in files if file.is_file()}
    promises = {str(file.relative_to(CHECKOUT)) for file, text in texts.items() if PROMISE.search(text)}
    assert promises <= {str(AFTER_RELEASE.relative_to(CHECKOUT))}
    assert texts, f"no file is {pattern}"


@pytest.mark.parametrize(
    ("text", "promises"),
    [
        ('pip install "nnunet_mamba[sweep]"', True),
        ("pip install --upgrade nnunet-mamba", True),
        ('pip install ".[sweep]"', False),
        ("pip install 'nnunetv2>=2.8'", False),
        ("pip install . && nnunet-mamba doctor", False),
    ],
)
def test_a_promise_is_recognised(text, promises):
    assert bool(PROMISE.search(text)) == promises
