"""Reading of YAML files that people write: what is wrong in one message, with its line."""

from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, to which a key that stands twice in a mapping is an error."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines:
                problem = f"the key {key.value!r} is already in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


def read_yaml(file: Path, what: str) -> Any:
    """Return the content of a YAML file in UTF-8. ValueError for others; `what` says what was expected."""
    if not file.is_file():
        raise ValueError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; expected {what}.")
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = ", ".join(text for text in (error.context, error.problem) if text)
        raise ValueError(f"{file.name}: {place}{problem}.") from error
    except (yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError among them
        raise ValueError(f"{file.name} is not YAML in UTF-8: {' '.join(str(error).split())}") from error
