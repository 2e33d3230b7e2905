"""Text of numbers, metrics, labels and folds: the same in a terminal, in Markdown and on pages."""

from collections.abc import Iterable
from math import isnan

from nnunet_mamba.study.evaluation import METRICS

MINUS, DASH = "−", "–"  # of negative numbers; instead of a number that is not defined
IN_MM = ("honest", "brats-lesionwise")  # the other protocols have no distances, or those of voxels


def format_number(value: float, digits: int, sign: str = "") -> str:
    """Return the number with these decimals, a dash for NaN; sign="+" shows the plus of gains."""
    if isnan(value):
        return DASH
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", MINUS)  # no -0.00


def format_value(value: float, metric: str, sign: str = "") -> str:
    """Return a value of the metric: 2 decimals for distances, 4 for shares."""
    has_unit = metric in METRICS and bool(METRICS[metric].unit)
    return format_number(value, 2 if has_unit else 4, sign)


def format_difference(value: float, metric: str) -> str:
    return format_value(value, metric, sign="+")


def format_interval(low: float, high: float, metric: str) -> str:
    """Return the interval of a difference."""
    if isnan(low):
        return DASH
    return f"{format_difference(low, metric)} to {format_difference(high, metric)}"


def format_spread(mean: float, sd: float, metric: str) -> str:
    """Return mean ± SD, or the mean alone if there is no SD."""
    text = format_value(mean, metric)
    return text if isnan(sd) else f"{text} ± {format_value(sd, metric)}"


def format_p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else format_number(p, 4 if p < 0.01 else 3)


def format_share(share: float) -> str:
    """Return the share in percent, with a decimal between 0 and 100 %."""
    if isnan(share):
        return DASH
    return "<0.1%" if 0 < share < 0.001 else f"{share:.{int(0 < share < 1)}%}"


def get_metric_title(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric


def format_metric(metric: str, protocol: str) -> str:
    """Return the metric with its unit; protocols in voxels follow the code of a paper."""
    if metric not in METRICS or not METRICS[metric].unit:
        return get_metric_title(metric)
    is_in_mm = protocol.partition(" ")[0] in IN_MM  # behind the name stands what was chosen otherwise
    return f"{METRICS[metric].title} ({METRICS[metric].unit if is_in_mm else 'voxels'})"


def format_label(label: tuple[str, str]) -> str:
    """Return the name of a label, given as number and name."""
    number, name = label
    return name or f"label {number}"


def format_folds(folds: Iterable[str]) -> str:
    """Return "0 to 4" for consecutive folds, else all names."""
    names = sorted(set(folds) - {""}, key=lambda fold: (len(fold), fold))
    numbers = [int(fold) for fold in names if fold.isdigit()]
    consecutive = len(numbers) == len(names) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]} to {numbers[-1]}" if consecutive else ", ".join(names)
