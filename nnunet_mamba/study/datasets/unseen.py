"""Raw datasets with a few labelled cases kept unseen, of the user's data or of phantoms: the quickstart's."""

from pathlib import Path

from nnunet_mamba.nnunet.console import LogFn, rate_limited
from nnunet_mamba.study.datasets.convert import convert_dataset
from nnunet_mamba.study.datasets.phantom import write_phantom_dataset
from nnunet_mamba.study.datasets.readers import read_source
from nnunet_mamba.study.datasets.source import ACCEPTABLE
from nnunet_mamba.study.datasets.splits import draw_split

PHANTOM_DATASET = "Dataset900_Phantom"
N_PHANTOMS = 28  # to train and validate on
N_VALIDATION = 4  # nnU-Net predicts each of these with 8 flips after training: seconds to minutes a case


def choose_name(data: Path | None) -> str:
    """Return Dataset###_Name of the dataset made from `data`, or of phantoms."""
    return PHANTOM_DATASET if data is None else read_source(data).name


def write_with_unseen(data: Path | None, folder: Path, *, n_unseen: int, seed: int, log: LogFn) -> None:
    """Write the cases of `data`, or phantoms, as a raw dataset with a split of one fold.

    `n_unseen` cases are in imagesTs and labelsTs, where no training sees them.
    """
    if data is None:
        log("drawing phantoms; --data DIR takes your own data")
        counts = {"n_train": N_PHANTOMS, "n_validation": N_VALIDATION, "n_test": n_unseen}
        write_phantom_dataset(folder, **counts, seed=seed)
    else:
        source = read_source(data).without_test()
        log(f"checking {len(source.cases)} labelled cases of {data}")
        names, progress = source.labelled_names(), rate_limited(log, "checked")
        split = draw_split(names, n_unseen=n_unseen, n_validation=N_VALIDATION, seed=seed)
        convert_dataset(source, folder, split, link=True, accept=ACCEPTABLE, progress=progress)
    n_seen = len(list((folder / "labelsTr").iterdir()))
    log(f"{folder.name}: {n_seen} cases to train and validate on, {n_unseen} unseen")
