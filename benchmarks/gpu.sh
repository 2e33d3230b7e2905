#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in ten minutes at most: scans beside mamba_ssm (where it is installed),
# networks beside nnU-Net's own, memory as predicted and as measured, and the kernels' tests.
#
#   benchmarks/gpu.sh [FOLDER FOR THE RECORDS]        default: benchmarks/results
#
# PYTHON chooses the interpreter of the environment with this package; default: python.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
folder=${1:-benchmarks/results}

mkdir -p "$folder"
exec > >(tee "$folder/gpu.log") 2>&1
failed=0
step() { # go on after a failure, and say so at the end: the machine may be borrowed
    echo "== $*"
    timeout "$@" || { echo "FAILED: ${*:2}" >&2; failed=1; }
}

"$python" -c 'import torch; assert torch.cuda.is_available(), "torch finds no CUDA device here"'
step 140 "$python" benchmarks/scan.py --device cuda --rounds 3 --record "$folder/scan_cuda"
networks=(mm_unet umamba_bot mamba_multi resenc_m swin_unetr)
if "$python" -c 'import selective_scan_cuda' 2>/dev/null; then
    networks+=(mm_unet@mamba_ssm mamba_multi@mamba_ssm)
fi
step 180 "$python" benchmarks/networks.py "${networks[@]}" --device cuda --steps 10 --inference \
    --record "$folder/networks_cuda"
cli=(-c 'import sys; from nnunet_mamba.cli import main; sys.exit(main())')
step 70 "$python" "${cli[@]}" estimate --measure "$folder/profile_cuda.json" --device cuda
step 80 "$python" benchmarks/estimate.py --device cuda --profile "$folder/profile_cuda.json" \
    --record "$folder/estimate_cuda"
step 120 "$python" -m pytest -m gpu tests/ops -q
exit "$failed"
