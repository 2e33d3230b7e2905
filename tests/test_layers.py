"""The house: imports run downwards only, a cold import is light, the public names are there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_mamba

PACKAGE = Path(nnunet_mamba.__path__[0])
NOTHING: set[str] = set()
MAY_IMPORT = {  # besides themselves
    "ops": {"cpu", "suggestions", "writing"},
    "scan_order": NOTHING,
    "blocks": {"ops", "scan_order"},
    "networks": {"blocks", "catalogue", "ops", "scan_order", "suggestions"},
    "finite": NOTHING,
    "checkpoints": {"finite", "networks", "suggestions"},
    "resources": {"suggestions"},
    "host": NOTHING,
    "images": NOTHING,
    "dataset_json": NOTHING,
    "datasets": {"cpu", "dataset_json", "folders", "images", "suggestions", "writing"},
    "evaluation": {"dataset_json", "images", "suggestions", "writing"},
    "submissions": {"dataset_json", "datasets", "images", "suggestions", "writing"},
    "statistics": {"catalogue", "evaluation", "suggestions", "writing"},
    "folders": {"suggestions"},
    "catalogue": {"suggestions"},
    "suggestions": NOTHING,
    "cpu": NOTHING,
    "writing": NOTHING,
    "plans": {
        "catalogue",
        "dataset_json",
        "estimate",
        "folders",
        "networks",
        "resources",
        "suggestions",
        "writing",
    },
    "prediction": {"cpu", "finite"},
    "trainers": {
        "catalogue",
        "checkpoints",
        "cpu",
        "finite",
        "host",
        "networks",
        "ops",
        "plans",
        "prediction",
        "resources",
        "writing",
    },
    "analysis": {"blocks", "checkpoints", "finite", "networks", "ops", "plans", "scan_order", "trainers"},
    "estimate": {"blocks", "networks", "ops", "resources"},
    "running": {"catalogue", "cpu", "images", "resources"},
    "registration": {"host", "resources"},
}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    """The layers of this package that a source file imports, at its head or within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {
                f"{node.module}.{alias.name}" if node.module == "nnunet_mamba" else str(node.module)
                for alias in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("nnunet_mamba.")}


SOURCES = [path for path in PACKAGE.rglob("*.py") if layer_of(path) != "__init__"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    layer = layer_of(path)
    if layer in MAY_IMPORT:
        stray = imported_layers(path) - MAY_IMPORT[layer] - {layer}
        assert not stray, f"{layer} must not import {sorted(stray)}"


def test_layers_without_rules_are_those_above_all_others():
    assert {layer_of(path) for path in SOURCES} - set(MAY_IMPORT) == {
        "__main__", "cli", "doctor", "foreign", "quickstart", "report", "sweep",
    }  # fmt: skip


@pytest.mark.parametrize("layer", ["ops", "scan_order", "blocks", "networks", "checkpoints"])
def test_the_networks_know_nothing_of_nnunet(layer):
    for path in SOURCES:
        if layer_of(path) == layer:
            text = path.read_text()
            assert "import nnunetv2" not in text and "from nnunetv2" not in text, path


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
