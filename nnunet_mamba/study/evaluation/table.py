"""Tidy table of scores: one row per case, label and metric; everything else is computed from it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.nnunet.paths import Method


@dataclass(frozen=True)
class Origin:
    """Origin of a prediction; "" for what is not known. `fold` and `seed` as in `Score`."""

    dataset: str = ""
    trainer: str = ""
    plans: str = ""
    configuration: str = ""
    fold: str = ""
    seed: str = ""

    @property
    def method(self) -> Method:
        return Method(self.trainer, self.plans, self.configuration)


@dataclass(frozen=True)
class Score:
    """Row of the table: one number. `value` is NaN where the metric is not defined, and then not counted.

    label     the label's number; a region joins its numbers by +
    n_voxels  of the label in the reference
    empty     which mask has no voxel: "", "prediction", "reference" or "both"
    fold      a number, "all", "test" for cases of no fold, or "" if it is not known
    seed      of the training, "" if it is not known
    backend, version  package that computed the value
    """

    case: str
    label: str
    label_name: str
    metric: str
    value: float
    n_voxels: int
    empty: str
    dataset: str = ""
    trainer: str = ""
    plans: str = ""
    configuration: str = ""
    fold: str = ""
    backend: str = ""
    version: str = ""
    protocol: str = ""
    seed: str = ""

    @property
    def method(self) -> Method:
        return Method(self.trainer, self.plans, self.configuration)


def override_origin(origin: Origin, texts: Iterable[str]) -> Origin:
    """Return the origin with columns replaced, given as COLUMN=TEXT."""
    columns = [field.name for field in fields(Origin)]
    for text in texts:
        column, _, value = text.partition("=")
        if column not in columns:
            raise ValueError(
                f"{text!r} is not a column; expected {', '.join(columns)}, as in trainer=nnUNetTrainer."
            )
        origin = replace(origin, **{column: value})
    return origin


COLUMNS = (
    "dataset", "trainer", "plans", "configuration", "fold", "case", "label", "label_name", "metric", "value",
    "n_voxels", "empty", "backend", "version", "protocol", "seed",
)  # fmt: skip
LATER = ("seed",)  # columns that tables of earlier versions lack


@dataclass(frozen=True)
class Summary:
    """Summary of one metric of one label over the cases where it is defined."""

    label: str
    label_name: str
    metric: str
    mean: float
    sd: float  # of the sample; NaN for a single case
    n_cases: int
    n_excluded: int  # both masks empty


def summarise(scores: Iterable[Score]) -> list[Summary]:
    """Return mean, SD and number of cases per label and metric, in order of appearance."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for score in scores:
        groups.setdefault((score.label, score.label_name, score.metric), []).append(score.value)
    return [summarise_values(*key, values) for key, values in groups.items()]


def summarise_values(label: str, label_name: str, metric: str, values: Sequence[float]) -> Summary:
    """Return the summary of these values; NaN values are excluded and counted as such."""
    defined = np.array(values)[~np.isnan(values)]
    mean = float(defined.mean()) if defined.size else float("nan")
    finite = defined.size > 1 and bool(np.isfinite(defined).all())
    sd = float(defined.std(ddof=1)) if finite else float("nan")
    return Summary(label, label_name, metric, mean, sd, defined.size, len(values) - defined.size)


def compute_foreground_mean(scores: Iterable[Score], metric: str = "dice") -> float:
    """Return the mean over labels of the mean over cases, as in nnU-Net's summary.json."""
    means = [row.mean for row in summarise(scores) if row.metric == metric]
    return float(np.nanmean(means)) if np.isfinite(means).any() else float("nan")


def average_seeds(scores: Iterable[Score]) -> list[Score]:
    """Return the mean over the trainings of each method, in order of appearance; trained once, the scores.

    A value that is not defined (NaN) in one training is not defined in the mean. Where a mask is empty in one
    training, `empty` says so.
    """
    groups: dict[Score, list[Score]] = {}
    for score in scores:
        key = replace(score, value=0.0, empty="", seed="", backend="", version="")
        groups.setdefault(key, []).append(score)
    return [group[0] if len(group) == 1 else _average(group) for group in groups.values()]


def _average(scores: Sequence[Score]) -> Score:
    empty = next((score.empty for score in scores if score.empty), "")
    return replace(scores[0], value=float(np.mean([s.value for s in scores])), empty=empty, seed="")


def write_table(scores: Iterable[Score], file: Path) -> None:
    """Write a row per score, as .csv or .parquet by the file's ending; complete or not at all."""
    import pandas as pd  # half a second to import

    file = Path(file)
    frame = pd.DataFrame([asdict(score) for score in scores], columns=list(COLUMNS))
    write = frame.to_parquet if _is_parquet(file) else frame.to_csv
    with atomic_write(file) as draft:
        write(draft, index=False)


def read_table(file: Path) -> list[Score]:
    """Return the scores that `write_table` wrote. ValueError for other files."""
    import pandas as pd

    file = Path(file)
    is_parquet = _is_parquet(file)
    try:
        if is_parquet:
            frame = pd.read_parquet(file)
        else:
            text = {name: str for name in COLUMNS if name not in ("value", "n_voxels")}
            exact = {"value": _parse_number}  # pandas 2 loses the last digit
            frame = pd.read_csv(file, dtype=text, keep_default_na=False, converters=exact)
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a table of scores ({error}).") from error
    frame = frame.assign(**{name: "" for name in LATER if name not in frame.columns})
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{file} is not a table of scores: it lacks {', '.join(missing)}; expected a table that "
            "`nnunet-mamba evaluate --out` wrote."
        )
    for column in ("value", "n_voxels"):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        invalid = frame[column][numbers.isna() & frame[column].notna()]
        if len(invalid):
            raise ValueError(f"{file} has {invalid.iloc[0]!r} in the column {column}; expected numbers.")
        frame[column] = numbers
    return [Score(**row) for row in frame[list(COLUMNS)].to_dict("records")]


def _parse_number(text: str) -> float | str:
    """Return the number that a cell holds, NaN of an empty one, and the text of any other."""
    try:
        return float(text or "nan")
    except ValueError:
        return text


def read_method_table(file: Path, origin: Origin | None = None) -> list[Score]:
    """Read a table as `read_table`; rows without a trainer get `origin`, by default the file's name."""
    fields_of_origin = asdict(origin or Origin(trainer=Path(file).stem))
    return [
        score if score.trainer else replace(score, **{k: v for k, v in fields_of_origin.items() if v})
        for score in read_table(file)
    ]


def _is_parquet(file: Path) -> bool:
    """Return True for .parquet, False for .csv. ValueError for other endings."""
    if file.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{file} should end in .csv or .parquet.")
    return file.suffix == ".parquet"


assert {field.name for field in fields(Score)} == set(COLUMNS)
