"""The layers of docs/architecture.md: imports run one way, a cold import is light, the public names exist."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_mamba

PACKAGE = Path(nnunet_mamba.__path__[0])
NETWORKS = {"io", "ops", "scan_order", "blocks", "networks"}
MAY_IMPORT = {  # besides themselves; the parts of `study` one by one
    # the hall, which knows nothing of either wing
    "io": set(),
    "nnunet": {"io"},
    # core: a network trains
    "scan_order": set(),
    "ops": {"io"},
    "blocks": {"io", "ops", "scan_order"},
    "networks": NETWORKS,
    "checkpoints": NETWORKS,
    "memory": NETWORKS,
    "plans": NETWORKS | {"memory", "nnunet"},
    "inference": NETWORKS | {"nnunet"},
    "trainers": NETWORKS | {"checkpoints", "inference", "memory", "nnunet", "plans"},
    "analysis": NETWORKS | {"checkpoints", "nnunet", "plans", "trainers"},
    # study: numbers of trained networks
    "study.datasets": {"io", "nnunet"},
    "study.evaluation": {"io", "nnunet"},
    "study.statistics": {"io", "nnunet", "study.evaluation"},
    "study.submissions": {"io", "nnunet", "study.datasets"},
    "study.report": {"io", "nnunet", "study.datasets", "study.evaluation", "study.statistics"},
    "study.sweep": {"io", "nnunet", "study.datasets", "study.evaluation", "study.statistics", "study.report"},
    # a trained model with its scores, to others and back
    "sharing": {"io", "nnunet", "study.evaluation", "study.statistics"},
}
MAY_IMPORT_NNUNETV2 = {"plans", "trainers", "inference", "analysis", "memory", "cli"}


def layer_of(parts: tuple[str, ...]) -> str:
    """The layer of a module: ("study", "report", "page") -> "study.report"."""
    return ".".join(parts[: 2 if parts[0] == "study" else 1])


def modules_imported(path: Path) -> set[str]:
    """The modules that a source file imports, at its head or within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def sources() -> dict[Path, str]:
    """Source files -> their layers; `nnunet_mamba/__init__.py`, which has none, left out."""
    below = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {
        path: layer_of(parts) for path, parts in below.items() if parts not in [("__init__",), ("__main__",)]
    }


SOURCES = sources()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    layer = SOURCES[path]
    names = [name.split(".")[1:] for name in modules_imported(path) if name.startswith("nnunet_mamba.")]
    layers = {layer_of(tuple(parts)) for parts in names} - {layer, "__version__"}
    allowed = layers if layer == "cli" else MAY_IMPORT.get(layer, set())
    assert layers <= allowed, f"{layer} must not import {sorted(layers - allowed)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nnunetv2_is_imported_by_these_layers_only(path):
    if any(name.split(".")[0] == "nnunetv2" for name in modules_imported(path)):
        assert SOURCES[path] in MAY_IMPORT_NNUNETV2


def test_every_package_is_in_the_table():
    packages = set(SOURCES.values()) - {"study", "study.__init__"}  # an empty file
    assert packages == {*MAY_IMPORT, "cli"}
    assert not any(layer.startswith("study") for layer in MAY_IMPORT["trainers"] | MAY_IMPORT["analysis"])


def test_the_table_has_no_circle():
    done: set[str] = set()
    while ready := {layer for layer, below in MAY_IMPORT.items() if below - {layer} <= done} - done:
        done |= ready
    assert done == set(MAY_IMPORT)


def test_a_cold_import_needs_only_torch():
    code = (
        "import sys, torch, nnunet_mamba; "
        "heavy = {'numba', 'nnunetv2', 'triton', 'monai', 'matplotlib', 'torch._dynamo'} & set(sys.modules); "
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_command_line_answers_without_torch():
    code = "import sys; from nnunet_mamba.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    command = [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "quickstart" in result.stdout


def test_public_names():
    for name in nnunet_mamba.__all__:
        assert callable(getattr(nnunet_mamba, name))
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        nnunet_mamba.train  # noqa: B018
    assert nnunet_mamba.__all__ == ["available_backends", "create_network", "list_networks", "selective_scan"]
    assert set(nnunet_mamba.available_backends()) == {"reference", "numba", "torch", "triton", "mamba_ssm"}
