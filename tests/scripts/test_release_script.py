"""scripts/release.sh: what it refuses; `--rehearse` runs the rest by hand, for it takes minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "release.sh"
PYTHON = f"""#!/bin/sh
[ "$1" = - ] && exec {sys.executable} "$@"
case "$*" in
  *__version__*) echo 0.2.0;;
  *) echo "python $*"; for last; do :; done; cat "$last/README.md" "$last/pyproject.toml"; exit 3;;
esac
"""
READY = {
    "CHANGELOG.md": "## [0.2.0] - 2027-01-31\n",
    "CITATION.cff": "date-released: 2027-01-31\nauthors: [{family-names: L}]\n",
    "mkdocs.yml": "repo_url: https://github.com/lab/nnunet_mamba # here alone\n",
    "pyproject.toml": '[project]\nauthors = [{ name = "A. L." }]\n',
    "README.md": "![a picture](docs/a.png) [a page](docs/a.md#b), [a paper](https://b.org/), [below](#c)\n",
}
REPOSITORY = "https://github.com/lab/nnunet_mamba"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository that is ready for a release, with an environment whose python builds nothing."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(PYTHON, encoding="utf-8")
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / ".gitignore").write_text(".venv\n", encoding="utf-8")
    for name, text in READY.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "all")


def release(folder: Path, *options: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    command = ["bash", str(folder / "scripts" / SCRIPT.name), *options]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")


def test_a_ready_tree_is_built(checkout):
    done = release(checkout)
    assert done.returncode == 3 and "not ready" not in done.stderr
    assert done.stdout.startswith("python -m build --outdir")


def test_an_index_is_told_where_the_repository_is(checkout):
    _, readme, *metadata = release(checkout).stdout.splitlines()
    assert readme == (
        f"![a picture]({REPOSITORY}/raw/v0.2.0/docs/a.png) [a page]({REPOSITORY}/blob/v0.2.0/docs/a.md#b), "
        "[a paper](https://b.org/), [below](#c)"
    )
    assert metadata[-2:] == ["[project.urls]", f'Repository = "{REPOSITORY}"']
    assert (checkout / "README.md").read_text(encoding="utf-8") == READY["README.md"]


def test_addresses_that_the_package_names_are_kept(checkout):
    urls = '[project.urls]\nHomepage = "https://lab.org"\n'
    (checkout / "pyproject.toml").write_text(READY["pyproject.toml"] + urls, encoding="utf-8")
    commit(checkout)
    assert release(checkout).stdout.endswith(urls)


def test_all_that_is_missing_is_told_before_anything_is_built(checkout):
    (checkout / "CHANGELOG.md").write_text("## [0.2.0] - unreleased\n", encoding="utf-8")
    (checkout / "CITATION.cff").write_text("authors:\n  - name: The nnunet_mamba authors\n", encoding="utf-8")
    (checkout / "mkdocs.yml").write_text(
        "repo_url: https://github.com/OWNER/nnunet_mamba\n", encoding="utf-8"
    )
    git(checkout, "tag", "v0.2.0")
    done = release(checkout)
    told = [line.split(":")[1].strip() for line in done.stderr.splitlines()]
    assert done.returncode == 1 and not done.stdout
    assert told == [
        "files are changed, or not committed",
        "the tag v0.2.0 exists",
        "CHANGELOG.md has no date behind [0.2.0]",
        "CITATION.cff has no date-released",
        "the authors are not filled in",
        "the repository's address is not filled in",
    ]


def test_a_rehearsal_goes_on_and_says_what_is_missing(checkout):
    git(checkout, "tag", "v0.2.0")
    done = release(checkout, "--rehearse")
    assert done.returncode == 3 and "not ready: the tag v0.2.0 exists" in done.stderr
    assert done.stdout.startswith("python -m build")


def test_unknown_options_are_refused(checkout):
    done = release(checkout, "--publish")
    assert done.returncode == 2 and "'--publish' is unknown; expected --rehearse" in done.stderr
