#!/usr/bin/env bash
# Installs this package into an image, in steps from what changes seldom to what changes often: one layer each.
#   install.sh system                 compilers for C (Triton) and C++ (torch.compile)
#   install.sh torch cpu|cuda         PyTorch and torchvision, from one index
#   install.sh requirements FILE      what pyproject.toml asks for, Snakemake too
#   install.sh package FOLDER         this package, and its trainers in nnU-Net's folder
# Dockerfile and nnunet_mamba.def call it as root of the image.
set -euo pipefail

case ${1:-} in
  system)
    apt-get update
    apt-get install --yes --no-install-recommends g++
    rm -rf /var/lib/apt/lists/*
    ;;
  torch)
    case ${2:-} in
      cpu) python -m pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu ;;
      cuda) python -m pip install torch torchvision ;;
      *)
        echo "TORCH is '${2:-}'; expected cpu or cuda" >&2
        exit 2
        ;;
    esac
    ;;
  requirements)
    requirements=$(mktemp)
    python - "$2" > "$requirements" <<'PYTHON'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *project["optional-dependencies"]["sweep"], sep="\n")
PYTHON
    python -m pip install --requirement "$requirements"
    rm "$requirements"
    ;;
  package)
    python -m pip install --no-deps "$2"
    nnunet-mamba register
    ;;
  *)
    echo "step '${1:-}' is unknown; expected system, torch, requirements or package" >&2
    exit 2
    ;;
esac
