"""Which way is up: whether more of a metric is better."""

HIGHER_IS_BETTER = frozenset(
    ("dice", "iou", "nsd", "precision", "sensitivity", "specificity", "accuracy", "f1")
)
LOWER_IS_BETTER = frozenset(("hd95", "hd100", "assd", "masd", "asd", "volume_error"))


def higher_is_better(metric: str) -> bool:
    """ValueError for metrics of unknown direction."""
    if metric in HIGHER_IS_BETTER | LOWER_IS_BETTER:
        return metric in HIGHER_IS_BETTER
    known = ", ".join(sorted(HIGHER_IS_BETTER | LOWER_IS_BETTER))
    raise ValueError(f"Whether more of {metric!r} is better is not known; choose one of {known}.")
