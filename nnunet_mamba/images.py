"""Reading images completely, or not at all: the one door through which image files come in."""

import gzip
import zlib
from pathlib import Path

import SimpleITK as sitk

CHUNK = 1 << 22  # bytes


def read_image(file: Path) -> sitk.Image:
    """The image in `file`; a file that is damaged or cut short is refused by name.

    ITK fills what a truncated .nii.gz lacks with zeros and says nothing, so compressed files are first
    unpacked once for their checksum.
    """
    file = Path(file)
    try:
        if file.suffix == ".gz":
            check_gzip(file)
        return sitk.ReadImage(str(file))
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist.") from error
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split("\n")[-1].split()) or type(error).__name__
        raise ValueError(
            f"{file} cannot be read as an image ({reason}). Fetch it again, or remove the case."
        ) from error


def check_gzip(file: Path) -> None:
    """Raise EOFError or OSError unless the compressed stream is whole and its checksum right."""
    with gzip.open(file) as stream:
        while stream.read(CHUNK):
            pass
