#!/usr/bin/env bash
# Sets up this checkout in a virtual environment, checks style and types, runs the tests; options go to pytest.
#   scripts/test.sh                 the fast tests
#   scripts/test.sh -m slow         the slow ones
# Tests run in up to four processes, one per processor; `-n 0` runs them in one, for a debugger.
# Uses the active virtual environment, else .venv beside this folder, which it makes with ${PYTHON:-python3}.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VIRTUAL_ENV:-$PWD/.venv}
[[ -x $venv/bin/python || -x $venv/Scripts/python ]] || "${PYTHON:-python3}" -m venv "$venv"
bin=$venv/bin
[[ -d $bin ]] || bin=$venv/Scripts # on Windows
"$bin/python" -m pip install --no-compile --editable ".[dev]"
unset PYTHONDONTWRITEBYTECODE # the first import compiles; pip would compile all, five times as much
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
(($#)) || set -- -m "not slow"
"$bin/python" -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
