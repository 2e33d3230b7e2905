"""The seam to nnU-Net: every name of nnunetv2 that this package imports, calls, overrides or patches.

`seam.json` holds them, and what they are. A new nnU-Net is compared with it in one run, which tells all that
was removed, moved or changed, even where our imports no longer work. After a change on purpose write it anew,
and read its diff: PYTHONPATH=tests python tests/nnunet/test_seam.py

Not seen are attributes of nnU-Net's objects in variables whose class neither the source nor HOLDERS tells.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nnunet_sources import NNUNetSources, bound_names, is_own_attribute, spell

import nnunet_mamba

SNAPSHOT = Path(__file__).with_name("seam.json")
OURS = Path(nnunet_mamba.__path__[0])
TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer"
HANDLERS = "nnunetv2.utilities.plans_handling.plans_handler"
LABELS = "nnunetv2.utilities.label_handling.label_handling.LabelManager"
DATASET = "nnunetv2.training.dataloading.nnunet_dataset.nnUNetBaseDataset"
HOLDERS = {  # names of attributes and variables that hold nnU-Net's objects, if anything, wherever they stand
    **dict.fromkeys(("plans", "plans_manager"), f"{HANDLERS}.PlansManager"),
    **dict.fromkeys(("configuration", "configuration_manager"), f"{HANDLERS}.ConfigurationManager"),
    **dict.fromkeys(("labels", "label_manager"), LABELS),
    **dict.fromkeys(("dataset_class", "_kind"), DATASET),
    "logger": "nnunetv2.training.logging.nnunet_logger.MetaLogger",
    "predictor": "nnunetv2.inference.predict_from_raw_data.nnUNetPredictor",
    "preprocessor": "nnunetv2.preprocessing.preprocessors.default_preprocessor.DefaultPreprocessor",
    "reader": "nnunetv2.imageio.base_reader_writer.BaseReaderWriter",
    "trainer": TRAINER,
}


def our_modules() -> dict[str, ast.Module]:
    files = [*OURS.rglob("*.py"), *(OURS.parent / "nnUNet_trainers").rglob("*.py")]
    names = (".".join(file.relative_to(OURS.parent).with_suffix("").parts) for file in files)
    return {
        name: ast.parse(file.read_text(encoding="utf-8")) for name, file in zip(names, files, strict=True)
    }


def find_used_names(nnunet: NNUNetSources) -> set[str]:
    """Return the paths of all names of nnunetv2 that our sources import, call, override or patch."""
    nodes = {module: list(ast.walk(tree)) for module, tree in our_modules().items()}
    bound = {module: bound_names(all_nodes) for module, all_nodes in nodes.items()}
    classes = {
        f"{module}.{node.name}": (module, node)
        for module, all_nodes in nodes.items()
        for node in all_nodes
        if isinstance(node, ast.ClassDef)
    }

    def stock_bases(path: str) -> set[str]:
        """Return nnU-Net's classes above one of ours."""
        if path.startswith("nnunetv2."):
            return {path}
        if path not in classes:
            return set()
        module, node = classes[path]
        names = map(spell, node.bases)
        return set().union(*(stock_bases(bound[module].get(name, f"{module}.{name}")) for name in names))

    used = {path for names in bound.values() for path in names.values()}
    for module, all_nodes in nodes.items():
        used |= set(find_used_attributes(all_nodes, bound[module], nnunet))
    for path, (_, node) in classes.items():
        if bases := stock_bases(path):
            own = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            own |= {part.attr for part in ast.walk(node) if is_own_attribute(part)}
            used |= {f"{base}.{name}" for base in bases for name in own}
    return {path for path in used if path.startswith("nnunetv2.") and nnunet.describe(path)}


def find_used_attributes(nodes: list[ast.AST], names: dict[str, str], nnunet: NNUNetSources) -> Iterator[str]:
    """Yield attributes of nnU-Net's modules, classes and objects that the nodes of a module name or patch.

    Objects are known by HOLDERS, a parameter's annotation, or the call of the class that makes them;
    replacements for a module's names, and settings of trainers, stand in dictionaries.
    """
    stock = {name: path for name, path in names.items() if path.startswith("nnunetv2.")}
    known = {**HOLDERS, **stock}
    for node in nodes:
        if isinstance(node, ast.arg) and node.annotation and spell(node.annotation) in stock:
            known[node.arg] = stock[spell(node.annotation)]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = known.get(spell(node.value), "")
            if (nnunet.describe(made) or "").startswith("class"):
                known |= dict.fromkeys(map(spell, node.targets), made)
    replaced = [TRAINER, *(path for path in stock.values() if nnunet.describe(path) == "module")]
    for node in nodes:
        if isinstance(node, ast.Attribute) and spell(node.value) in known:
            yield f"{known[spell(node.value)]}.{node.attr}"
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            yield from (f"{path}.{key}" for path in replaced for key in keys)


def compare(seam: dict[str, str], nnunet: NNUNetSources) -> list[str]:
    """Return a line for each name that is not what it was."""
    lines = []
    for path, before in seam.items():
        now = nnunet.describe(path)
        if now is None:
            places = nnunet.find_elsewhere(path)
            lines.append(f"moved: {path} -> {', '.join(places)}" if places else f"removed: {path}")
        elif now != before:
            lines.append(f"changed: {path}: {before} -> {now}")
    return lines


def test_the_installed_nnunet_is_the_one_that_this_package_was_made_for():
    seam = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    if differences := compare(seam, NNUNetSources.of_installed()):
        pytest.fail(
            "\n".join([f"{len(differences)} of {len(seam)} names differ:", *differences]), pytrace=False
        )


def test_the_snapshot_has_every_name_that_our_sources_use():
    recorded = set(json.loads(SNAPSHOT.read_text(encoding="utf-8")))
    used = find_used_names(NNUNetSources.of_installed())
    assert (sorted(used - recorded), sorted(recorded - used)) == ([], []), (
        "PYTHONPATH=tests python tests/nnunet/test_seam.py"
    )


@pytest.fixture
def small(tmp_path) -> NNUNetSources:
    """An nnU-Net of two modules."""
    (tmp_path / "nnunetv2").mkdir()
    base = "class Base:\n    def __init__(self, x: int = 1):\n        self.size = x\n\n"
    base += "    @property\n    def shape(self): ...\n"
    own = "from nnunetv2.a import Base\nimport os\n\n"
    own += "class Own(Base):\n    def step(self, batch, *, n=os.sep): ...\n"
    for name, text in {"a": base, "b": own}.items():
        (tmp_path / "nnunetv2" / f"{name}.py").write_text(text, encoding="utf-8")
    return NNUNetSources(tmp_path / "nnunetv2")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("nnunetv2.b", "module"),
        ("nnunetv2.b.Base", "class (self, x=1)"),
        ("nnunetv2.b.Own", "class (self, x=1)"),
        ("nnunetv2.b.Own.step", "(self, batch, *, n=os.sep)"),
        ("nnunetv2.b.Own.size", "attribute"),
        ("nnunetv2.b.Own.shape", "property"),
        ("nnunetv2.b.os", "attribute"),
        ("nnunetv2.b.Own.nothing", None),
        ("nnunetv2.c", None),
        ("json.dumps", None),
    ],
)
def test_names_are_described(small, path, what):
    assert small.describe(path) == what


def test_all_differences_are_told_at_once(small):
    seam = {
        "nnunetv2.b.Own.step": "(self, batch)",
        "nnunetv2.c.Own": "class (self, x=1)",
        "nnunetv2.a.Base.gone": "attribute",
        "nnunetv2.a.Base.size": "attribute",
    }
    assert compare(seam, small) == [
        "changed: nnunetv2.b.Own.step: (self, batch) -> (self, batch, *, n=os.sep)",
        "moved: nnunetv2.c.Own -> nnunetv2.b",
        "removed: nnunetv2.a.Base.gone",
    ]


if __name__ == "__main__":
    nnunet = NNUNetSources.of_installed()
    seam = {path: nnunet.describe(path) for path in sorted(find_used_names(nnunet))}
    SNAPSHOT.write_text(json.dumps(seam, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{SNAPSHOT}: {len(seam)} names\n")
