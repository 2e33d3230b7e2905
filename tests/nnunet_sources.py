"""The installed nnunetv2 as its sources tell it, by dotted paths such as nnunetv2.paths.nnUNet_raw.

Nothing is imported: that takes seconds, and fails where a name that we import has gone.
"""

import ast
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

METHODS = ("property", "staticmethod", "classmethod")
Nodes = dict[str, ast.AST]  # by name


class NNUNetSources:
    """Sources of an nnU-Net in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._find, self._members, self._module = map(cache, (self._find, self._members, self._module))

    @classmethod
    def of_installed(cls) -> "NNUNetSources":
        (folder,) = find_spec("nnunetv2").submodule_search_locations
        return cls(Path(folder))

    def describe(self, path: str) -> str | None:
        """Return what a path names: "module", "class (self, ...)", "(parameters)", "property", "attribute";
        None if it names nothing."""
        if self._file(path):
            return "module"
        found = self._find(path)
        if isinstance(found, ast.ClassDef):
            return f"class {self.describe(f'{path}.__init__') or ''}".strip()
        if isinstance(found, ast.FunctionDef):
            wrappers = [word for word in map(spell, found.decorator_list) if word in METHODS]
            return " ".join(wrappers if "property" in wrappers else [*wrappers, format_parameters(found)])
        return "attribute" if found else None

    def find_elsewhere(self, path: str) -> list[str]:
        """Return the modules that define a function or class of the same name."""
        pattern = re.compile(rf"^(def|class) {path.rpartition('.')[2]}\b", re.MULTILINE)
        return [
            ".".join(file.relative_to(self.folder.parent).with_suffix("").parts)
            for file in sorted(self.folder.rglob("*.py"))
            if pattern.search(file.read_text(encoding="utf-8"))
        ]

    def _file(self, module: str) -> Path | None:
        top, *parts = module.split(".")
        place = self.folder.joinpath(*parts)
        candidates = (place.with_suffix(".py"), place / "__init__.py") if top == self.folder.name else ()
        return next((file for file in candidates if file.is_file()), None)

    def _module(self, module: str) -> Nodes:
        file = self._file(module)
        return definitions(ast.parse(file.read_text(encoding="utf-8")).body) if file else {}

    def _members(self, path: str) -> Nodes:
        """Return methods and attributes of a class, those that its methods assign to `self`, too."""
        node = self._find(path)
        if not isinstance(node, ast.ClassDef):
            return {}
        inherited: Nodes = {}
        for base in reversed(node.bases):
            inherited |= self._members(self._resolve(path.rpartition(".")[0], spell(base)))
        own = [part for part in ast.walk(node) if is_own_attribute(part) and isinstance(part.ctx, ast.Store)]
        return {**inherited, **{part.attr: part for part in own}, **definitions(node.body)}

    def _find(self, path: str) -> ast.AST | None:
        """Return the node that defines a path; imports are followed within nnunetv2."""
        owner, _, name = path.rpartition(".")
        if not owner:
            return None
        if not self._file(owner):
            return self._members(owner).get(name)
        target = self._resolve(owner, name)
        return self._find(target) if target not in ("", path) else self._module(owner).get(name)

    def _resolve(self, module: str, name: str) -> str:
        """Return what a name of a module stands for; "" if that is not of nnunetv2."""
        while isinstance(node := self._module(module).get(name), ast.ImportFrom):
            module, _, name = bound_names([node])[name].rpartition(".")
        return f"{module}.{name}" if node else ""


def definitions(body: Iterable[ast.AST]) -> Nodes:
    """Return what statements define, assign or import, within `if` and `try`, too."""
    found: Nodes = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= dict.fromkeys(bound_names([node]), node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (part for target in targets for part in ast.walk(target))
            found |= {part.id: node for part in names if isinstance(part, ast.Name)}
        elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
            blocks = (getattr(node, block, []) for block in ("body", "orelse", "handlers", "finalbody"))
            found = definitions(part for block in blocks for part in block) | found
    return found


def bound_names(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Return the names that imports among the nodes bind, with the paths that they stand for."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            found |= {alias.asname or alias.name: f"{prefix}{alias.name}" for alias in node.names}
    return found


def spell(node: ast.AST) -> str:
    """Return the last name of an expression: plans of self.plans, super of super(); "" of others."""
    if isinstance(node, ast.Call):
        return spell(node.func)
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def is_own_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and spell(node.value) in ("self", "cls", "super")


def format_parameters(function: ast.FunctionDef) -> str:
    """Return parameters and defaults as the source has them, without annotations, which bind no caller."""
    for part in ast.walk(function.args):
        if isinstance(part, ast.arg):
            part.annotation = None
    return f"({ast.unparse(function.args)})"
