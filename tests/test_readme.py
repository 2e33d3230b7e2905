"""Numbers of README.md are those of the records that its commands wrote, and of the package's own tables."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest

from nnunet_mamba.study.datasets.specs import DATASETS

ROOT = Path(__file__).parents[1]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
RESULTS = ROOT / "benchmarks" / "results"


def read_record(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def read_rows(name: str) -> list[dict]:
    return read_record(name)["rows"]


def span(values: Iterable[float]) -> list[float]:
    values = list(values)
    return [min(values), max(values)]


def scan() -> list[float]:
    rows = read_rows("scan_cpu_1_thread")
    ours, plain = ([row["over_best"] for row in rows if row["backend"] == one] for one in ("numba", "torch"))
    return [*span(ours), *span(plain)]


def training_step() -> list[float]:
    rows = {row["network"]: row["ratios"]["step_ms"] for row in read_rows("networks_hippocampus_cpu")}
    return [rows[name] for name in ("mm_unet", "mm_unet_nossm", "umamba_bot", "umamba_enc")]


def files() -> list[float]:
    (row,) = (row for row in read_rows("predict_files") if row["scene"] == "CT 400 slices")
    assert row["other_labels"] == 0
    runs = row["runs"]
    return [runs[f"{who} prepare"]["seconds"] + runs[f"{who} export"]["seconds"] for who in ("ours", "stock")]


def sliding_window() -> list[float]:
    rows = [row for file in RESULTS.glob("predict_cpu*.json") for row in read_record(file.stem)["rows"]]
    faster = {axes: [r["less_cpu"] for r in rows if r["plan"].startswith(axes)] for axes in ("3D", "2D")}
    return [*span(faster["3D"]), *span(faster["2D"])]


def memory() -> list[float]:
    """Largest error of all predictions; largest part that checkpoints save."""
    rows = [row for part in ("", "_conv", "_mixers") for row in read_rows(f"estimate{part}_cpu")]
    errors = [abs(row["predicted_mib"] / row["measured_mib"] - 1) for row in rows]
    measured = {(row["network"], row["axes"], row["checkpoint_stages"]): row["measured_mib"] for row in rows}
    saved = [1 - value / measured[(*key, 0)] for (*key, stages), value in measured.items() if stages == "all"]
    return [100 * max(errors), 100 * max(saved)]


def hippocampus() -> list[float]:
    """Dice of MM-UNet, U-Mamba Bot and their twins, in points above nnU-Net."""
    scores = pd.read_parquet(RESULTS / "hippocampus_3d" / "scores.parquet")
    scores = scores[(scores.metric == "dice") & (scores.plans == "demo")]
    mean = 100 * scores.groupby("trainer").value.mean()
    nnunet, *others = (
        mean[f"nnUNetTrainer{name}_1200steps"]
        for name in ("Control", "MMUNet", "UMambaBot", "MMUNetNoSSM", "UMambaBotNoSSM")
    )
    return [other - nnunet for other in others]


def quickstart() -> list[float]:
    """Dice, HD95 in mm and minutes."""
    record = read_record("first_prediction")
    seconds = record["quickstart_s"]
    return [record["mean_foreground_dice"], record["mean_foreground_hd95_mm"], seconds / 60]


def first_prediction() -> list[float]:
    """Size of the wheel in MB; seconds from pip to a prediction of a shared model, and those of pip."""
    record = read_record("first_prediction")
    seconds = sum(record[f"{step}_s"] for step in ("install", "import", "first_prediction"))
    return [record["wheel_bytes"] / 1e6, seconds, record["install_s"]]


CLAIMS: dict[str, Callable[[], list[float]]] = {
    "N data sets: every file checked": lambda: [len(DATASETS)],
    "takes N to N times as long as AVX-512 C++ by hand; plain torch N to N times": scan,
    "N times nnU-Net's for MM-UNet, N without Mamba, N for U-Mamba Bot, N for U-Mamba Enc": training_step,
    "takes N s, nnU-Net N s; no label differs": files,
    "N to N times as fast as nnU-Net's in 3D, in 2D N to N times, by processor seconds": sliding_window,
    "within N %; `checkpoint_stages` saves up to N % of it": memory,
    "are N and N points of Dice above nnU-Net, but their twins without Mamba N and N": hippocampus,
    "AVX2, beside other work) | N | N mm | N min": quickstart,
    "the wheel (N MB) to the first prediction of a [shared model](docs/sharing.md): "
    "[N s](benchmarks/results/first_prediction.md), N of them pip's": first_prediction,
}
NUMBER = r"(\d+(?:\.\d+)?)"


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_number_is_its_records(claim):
    pattern = NUMBER.join(map(re.escape, re.split(r"\bN\b", claim)))
    found = re.search(pattern, README)
    assert found, "README.md says it in other words"
    printed, values = found.groups(), CLAIMS[claim]()
    assert list(printed) == [
        f"{value:.{len(text.partition('.')[2])}f}" for text, value in zip(printed, values, strict=True)
    ]


def test_papers_differences_are_those_of_their_page():
    page = " ".join((ROOT / "docs" / "published.md").read_text(encoding="utf-8").split())
    n, n_kindest = re.search(r"Of (\d+) printed differences.*? and (\d+) even", page).groups()
    assert f"Of {n} differences of Dice that papers print, {n_kindest} may be chance" in README
