"""Audit of papers' numbers: how likely each printed advantage is chance, by what is printed and by what
has to be assumed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from nnunet_mamba.io.document import BulletList, Document, Paragraph, Section
from nnunet_mamba.io.tables import Table
from nnunet_mamba.nnunet.catalogue import FAMILY, NO_SSM
from nnunet_mamba.study.evaluation import METRICS
from nnunet_mamba.study.report.published import PublishedTable, read_all_published_tables
from nnunet_mamba.study.statistics.formats import (
    DASH,
    format_difference,
    format_p,
    format_value,
    get_metric_title,
)
from nnunet_mamba.study.statistics.significance import false_claim_probability, sd_of_differences

# 5 and 95 % of the 55 pairs of networks of benchmarks/results/hippocampus, over its 197 cases
CORRELATIONS = (0.51, 0.93)
SDS_OF_DIFFERENCES = {"dice": (0.031, 0.092)}
BASELINE, UNSPECIFIED = "nnunet", ("umamba",)  # a variant that the paper does not name
DOUBTFUL = 0.05


@dataclass(frozen=True)
class AuditedPair:
    """Two networks of one table, the one of the better mean first; in shares, or the metric's unit.

    sds  of the differences: the least and the largest that is plausible; None where nothing is known
    """

    table: PublishedTable
    better: str
    other: str
    difference: float
    n: int
    sds: tuple[float, float] | None

    @property
    def probabilities(self) -> tuple[float, float] | None:
        """Return the range of the probability that the better one is not truly better."""
        if self.sds is None:
            return None
        low, high = (false_claim_probability(self.difference, sd, self.n) for sd in self.sds)
        return low, high

    @property
    def largest_sd(self) -> float:
        """Return the SD of the differences at which that probability is 0.05."""
        from scipy.stats import t

        return float(abs(self.difference) * sqrt(self.n) / t.isf(DOUBTFUL, self.n - 1))


def audit_pairs(tables: Iterable[PublishedTable]) -> list[AuditedPair]:
    """Return each network with mixers beside nnU-Net, and beside itself without, where both are printed."""
    return [_audit_pair(table, *pair) for table in tables for pair in _choose_pairs(table)]


def _choose_pairs(table: PublishedTable) -> Iterator[tuple[str, str]]:
    for network in table.values:
        if network in UNSPECIFIED or (network in FAMILY and FAMILY[network].has_ssm):
            others = (BASELINE, network + NO_SSM)
            yield from ((network, other) for other in others if other in table.values)


def _audit_pair(table: PublishedTable, network: str, other: str) -> AuditedPair:
    """Return the pair; SDs of differences are made of both SDs, or those of the benchmark are assumed."""
    difference = (table.values[network] - table.values[other]) / table.scale
    is_better = difference >= 0 if METRICS[table.metric].higher_is_better else difference <= 0
    pair = (network, other) if is_better else (other, network)
    sds = SDS_OF_DIFFERENCES.get(table.metric)
    if all(name in table.deviations for name in pair):
        sd, other_sd = (table.deviations[name] / table.scale for name in pair)
        least, largest = (sd_of_differences(sd, other_sd, correlation) for correlation in CORRELATIONS[::-1])
        sds = (least, largest)
    n = table.n_patients or table.n_cases
    return AuditedPair(table, *pair, difference if is_better else -difference, n, sds)


def build_audit(tables: Sequence[PublishedTable] | None = None) -> Document:
    """Return the audit as a document: pairs with printed deviations, then those with means alone."""
    pairs = audit_pairs(read_all_published_tables() if tables is None else tables)
    printed = [pair for pair in pairs if pair.table.deviations]
    others = [pair for pair in pairs if not pair.table.deviations]
    known = [pair.probabilities for pair in pairs if pair.probabilities is not None]
    doubtful = sum(high >= DOUBTFUL for _, high in known)
    certain = sum(low >= DOUBTFUL for low, _ in known)
    summary = (
        f"Of {len(known)} printed differences, {doubtful} may be false with a probability of {DOUBTFUL:g} or "
        f"more by the largest SD of differences that is plausible here, and {certain} even by the smallest. "
        "A difference of nothing has 0.5."
    )
    sources = dict.fromkeys(pair.table.deviations_from for pair in printed if pair.table.deviations_from)
    return Document(
        "Papers' differences: how likely are they false?",
        [
            Section("", [Paragraph(INTRODUCTION), Paragraph(summary), BulletList(READING)]),
            Section(
                "Deviations are printed",
                [Paragraph(f"Read in: {'; '.join(sources)}."), build_audit_table(printed)],
            ),
            Section("Means alone are printed", [Paragraph(ASSUMED), build_audit_table(others)]),
        ],
    )


INTRODUCTION = (
    "Made by `nnunet-mamba compare --published --out docs/published.md` from "
    "nnunet_mamba/study/report/published.json: each network with mixers beside nnU-Net, and beside itself "
    "without them, where a table has both."
)
READING = (
    "false claim: the probability that the better of the two means is not that of the truly better network, "
    "by a t posterior of the n paired differences (docs/statistics.md; after Christodoulou et al., "
    "arXiv:2505.04720). n: patients.",
    "Needed for it is the SD of the differences, which nobody prints. Of both networks' SDs it is made with "
    f"correlations over cases of {CORRELATIONS[0]} to {CORRELATIONS[1]}: 5 to 95 % of the 55 pairs of "
    "networks of this package's benchmark (docs/benchmark.md), which were trained for 240 steps. Networks "
    "that were trained to the end may agree more; the lower probability is then nearer.",
    "largest SD: that of the differences at which a false claim has a probability of 0.05. With a larger one "
    "the claim is doubtful. This assumes n, and that differences are about normal, but no SD.",
    "It is the chance of these patients alone. Other seeds, recipes tuned on the cases, and the choice of "
    "the best of many networks are not in it: a low probability is no proof. Of U-Mamba Bot on the abdominal "
    "CTs a user had 0.8550, 0.8600, 0.8620 and 0.8694 in four trainings (U-Mamba's issue 75).",
)
ASSUMED = (
    "For Dice the SDs of differences of the benchmark's pairs are assumed, 5 to 95 %: "
    f"{SDS_OF_DIFFERENCES['dice'][0]} to {SDS_OF_DIFFERENCES['dice'][1]}; none for HD95, which these papers "
    "count in voxels. Other organs have others: take the range for an example, the largest SD for the fact."
)


def build_audit_table(pairs: Sequence[AuditedPair]) -> Table:
    """Return a row per pair, in the order of the tables."""
    rows = []
    for pair in pairs:
        metric = pair.table.metric
        assumed = DASH if pair.sds is None else " to ".join(format_value(sd, metric) for sd in pair.sds)
        false = pair.probabilities
        rows.append(
            (
                pair.table.source.partition(",")[0] + ", " + _find_arxiv(pair.table.source),
                f"{pair.table.dataset}, {pair.table.split}",
                get_metric_title(metric),
                pair.better,
                pair.other,
                format_difference(pair.difference, metric),
                str(pair.n),
                assumed,
                DASH if false is None else f"{format_p(false[0])} to {format_p(false[1])}",
                format_value(pair.largest_sd, metric),
            )
        )
    header = ("paper", "cases", "metric", "better", "than", "difference", "n", "SD of differences")
    return Table((*header, "false claim", "largest SD"), rows, n_text=5)


def _find_arxiv(source: str) -> str:
    return next(word.strip(",;") for word in source.split() if word.startswith("arXiv:"))
