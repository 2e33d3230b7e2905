"""Record the message of `convert` for every fault that the tests put into a release by hand.

PYTHONPATH=tests:tests/study/datasets python benchmarks/bad_inputs.py --record benchmarks/results/bad_inputs
"""

from __future__ import annotations

import argparse
import io
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from records import heading, surroundings, write
from releases import build
from test_issues import DAMAGES, Damage

from nnunet_mamba.cli import main as command


def convert_damaged(damage: Damage, workspace: Path) -> dict[str, object]:
    """Return exit code and message for one damaged release."""
    sources = build(damage.release, workspace / "release")
    damage.do(workspace / "release" / damage.file)
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        code = command(["convert", damage.release, *map(str, sources), "--raw", str(workspace / "raw")])
    line = next(line for line in errors.getvalue().splitlines() if damage.kind + ": " in line)
    return {
        "release": damage.release,
        "done": str(damage).split("-")[-1],
        "file": damage.file,
        "code": code,
        "message": line.strip().replace(f"{workspace}/release/", "").replace(f"{workspace}/", ""),
    }


def page(record: dict) -> str:
    lines = [heading(record), "", "| release | what was done | exit | message |", "|---|---|---|---|"]
    for row in record["rows"]:
        what = f"{row['done'].replace('_', ' ')}: `{row['file']}`"
        lines.append(f"| `{row['release']}` | {what} | {row['code']} | {row['message'].replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    record = {**surroundings("cpu"), "rows": []}
    for damage in DAMAGES:
        with tempfile.TemporaryDirectory() as workspace:
            record["rows"].append(convert_damaged(damage, Path(workspace).resolve()))
    write(args.record, record, page(record))


if __name__ == "__main__":
    main()
