#!/usr/bin/env bash
# Sets up this checkout in a virtual environment and runs the main job; options go to `nnunet-mamba quickstart`.
#   scripts/quickstart.sh
#   scripts/quickstart.sh --data Task04_Hippocampus --out hippocampus
# Uses the active virtual environment, else .venv beside this folder, which it makes with ${PYTHON:-python3}.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VIRTUAL_ENV:-$checkout/.venv}
if [[ ! -x $venv/bin/python ]]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
if [[ ! -x $venv/bin/nnunet-mamba ]]; then
  "$venv/bin/python" -m pip install --quiet --editable "$checkout"
fi
exec "$venv/bin/nnunet-mamba" quickstart "$@"
