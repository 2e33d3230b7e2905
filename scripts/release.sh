#!/usr/bin/env bash
# Builds a release of the last commit, tests its wheel outside of this checkout, and prints the command that
# publishes it. Nothing is tagged or uploaded here; docs/release.md.
#   scripts/release.sh              in a fresh environment; TORCH=cpu spares the download of CUDA
#   scripts/release.sh --rehearse   whatever is still missing, with the dependencies of the active environment
# Uses the active virtual environment, else .venv beside this folder, as scripts/test.sh sets it up.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! ${1:-} =~ ^(--rehearse)?$ ]]; then
  echo "$0: '$1' is unknown; expected --rehearse, or nothing" >&2
  exit 2
fi
rehearse=${1:-}
binaries() { [[ -d $1/Scripts ]] && echo "$1/Scripts" || echo "$1/bin"; } # Scripts on Windows
python=$(binaries "${VIRTUAL_ENV:-$PWD/.venv}")/python
version=$("$python" -c 'import sys; sys.path.insert(0, "."); import nnunet_mamba; print(nnunet_mamba.__version__)')
date='[0-9]{4}-[0-9]{2}-[0-9]{2}'

faults=()
[[ -z $(git status --porcelain) ]] || faults+=("files are changed, or not committed: git status")
! git rev-parse --quiet --verify "refs/tags/v$version" > /dev/null ||
  faults+=("the tag v$version exists: raise __version__ in nnunet_mamba/__init__.py")
grep -qE "^## \[$version\] - $date$" CHANGELOG.md || faults+=("CHANGELOG.md has no date behind [$version]")
grep -qE "^date-released: $date$" CITATION.cff || faults+=("CITATION.cff has no date-released")
! grep -q "The nnunet_mamba authors" CITATION.cff pyproject.toml ||
  faults+=("the authors are not filled in: CITATION.cff, pyproject.toml")
! grep -q "/OWNER/" mkdocs.yml || faults+=("the repository's address is not filled in: mkdocs.yml")
for fault in ${faults[@]+"${faults[@]}"}; do echo "not ready: $fault" >&2; done
((${#faults[@]} == 0)) || [[ $rehearse ]] || exit 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"
git archive HEAD | tar -x -C "$work/source"
address=$(sed -nE 's,^repo_url: *"?([^ "]*[^ "/]).*,\1,p' mkdocs.yml)
grep -q '^\[project.urls\]' pyproject.toml ||
  printf '\n[project.urls]\nRepository = "%s"\n' "$address" >> "$work/source/pyproject.toml"
"$python" - "$work/source/README.md" "$address" "v$version" << 'PYTHON'
import re
import sys
from pathlib import Path

file, address, tag = sys.argv[1:]  # an index shows README.md, but none of the files that it links to
text = Path(file).read_text(encoding="utf-8")
text = re.sub(r"(!\[[^\]]*\])\((?!https?:)", rf"\1({address}/raw/{tag}/", text)
text = re.sub(r"(?<!!)(\[[^\]]*\])\((?!https?:|#)", rf"\1({address}/blob/{tag}/", text)
Path(file).write_text(text, encoding="utf-8")
PYTHON
"$python" -m build --outdir "$work/dist" "$work/source"
"$python" -m twine check --strict "$work"/dist/*

"$python" -m venv "$work/venv"
new=$(binaries "$work/venv")
if [[ $rehearse ]]; then # a path file lends the dependencies, without what is installed as editable
  library='import sysconfig; print(sysconfig.get_path("purelib"))'
  "$python" -c "$library" > "$("$new/python" -c "$library")/dependencies.pth"
  "$new/python" -m pip install --no-deps "$work"/dist/*.whl
else
  if [[ ${TORCH:-} == cpu ]]; then
    "$new/python" -m pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
  fi
  "$new/python" -m pip install "$work"/dist/*.whl
fi

unset PYTHONPATH
for folder in raw preprocessed results; do
  export "nnUNet_$folder=$work/$folder"
  mkdir "$work/$folder"
done
(
  cd "$work"
  "$new/nnunet-mamba" --version | grep -qF "$version"
  "$new/nnunet-mamba" trainers MMUNet > /dev/null
  nnUNet_extTrainer=$("$new/nnunet-mamba" trainers-path) "$new/nnunet-mamba" doctor
  "$new/python" - << 'PYTHON'
import torch
from nnunet_mamba import create_network

network = create_network("mm_unet", input_channels=1, num_classes=3, patch_size=(32, 32, 32)).eval()
with torch.inference_mode():
    print("mm_unet:", tuple(network(torch.zeros(1, 1, 32, 32, 32)).shape))
PYTHON
)
mkdir -p dist
cp "$work"/dist/* dist/
echo
echo "Tested: dist/nnunet_mamba-$version.tar.gz and its wheel."
if ((${#faults[@]})); then
  echo "A rehearsal: ${#faults[@]} thing(s) not ready, see above." >&2
else
  echo "To publish it:"
  echo "  git tag -a v$version -m 'nnunet_mamba $version' && git push origin v$version &&" \
    "twine upload dist/nnunet_mamba-$version.tar.gz dist/nnunet_mamba-$version-py3-none-any.whl"
fi
