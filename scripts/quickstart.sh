#!/usr/bin/env bash
# Sets up this checkout in a virtual environment and runs the main job; options go to `nnunet-mamba quickstart`.
#   scripts/quickstart.sh
#   scripts/quickstart.sh --data Task04_Hippocampus --out hippocampus
#   TORCH=cpu scripts/quickstart.sh     on a machine without a GPU: a far smaller download
# Uses the active virtual environment, else .venv beside this folder, which it makes with ${PYTHON:-python3}.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VIRTUAL_ENV:-$checkout/.venv}
if [[ ! -x $venv/bin/python && ! -x $venv/Scripts/python ]]; then
  echo "Making the virtual environment $venv"
  "${PYTHON:-python3}" -m venv "$venv"
fi
bin=$venv/bin
[[ -d $bin ]] || bin=$venv/Scripts # on Windows
if [[ ! ${TORCH:-} =~ ^(cpu)?$ ]]; then
  echo "TORCH is '$TORCH'; expected cpu, or nothing" >&2
  exit 2
fi
if [[ ! -x $bin/nnunet-mamba ]]; then
  if [[ ${TORCH:-} == cpu ]]; then
    echo "Installing PyTorch without CUDA, then nnunet_mamba with nnU-Net: about 0.6 GB to download"
    # torchvision, which nnU-Net needs, must come from where torch comes from: others look for CUDA
    "$bin/python" -m pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
  else
    echo "Installing nnunet_mamba with nnU-Net and PyTorch: on Linux, with CUDA, about 3.4 GB to download" \
      "(TORCH=cpu $0 takes 0.6 GB, without CUDA)"
  fi
  echo "(after the downloads pip unpacks for a minute or two, without a word)"
  "$bin/python" -m pip install --editable "$checkout"
fi
exec "$bin/nnunet-mamba" quickstart "$@"
