import pytest

from nnunet_mamba.study.evaluation import METRICS
from nnunet_mamba.study.statistics.formats import (
    format_difference,
    format_folds,
    format_interval,
    format_metric,
    format_number,
    format_p,
    format_share,
    format_spread,
    format_value,
)

NAN = float("nan")


def test_what_is_not_defined_is_a_dash():
    found = {format_number(NAN, 2), format_p(NAN), format_share(NAN), format_interval(NAN, NAN, "dice")}
    assert found == {"–"}


def test_one_minus_sign_and_no_minus_zero():
    assert format_difference(-0.25, "dice") == "−0.2500"
    assert format_difference(0.25, "dice") == "+0.2500"
    assert format_difference(-0.00004, "dice") == "+0.0000"
    assert format_interval(-1, 0.5, "hd95") == "−1.00 to +0.50"


@pytest.mark.parametrize("metric", METRICS)
def test_distances_have_two_decimals_and_shares_four(metric):
    assert format_value(0.123456, metric) == ("0.12" if METRICS[metric].unit == "mm" else "0.1235")


def test_a_single_value_has_no_deviation():
    assert format_spread(0.5, NAN, "dice") == "0.5000"
    assert format_spread(0.5, 0.25, "dice") == "0.5000 ± 0.2500"
    assert format_spread(NAN, NAN, "dice") == "–"


@pytest.mark.parametrize(
    ("p", "text"), [(0.00009, "<0.0001"), (0.0078125, "0.0078"), (0.04, "0.040"), (1.0, "1.000")]
)
def test_small_p_has_more_decimals(p, text):
    assert format_p(p) == text


@pytest.mark.parametrize(
    ("metric", "protocol", "text"),
    [
        ("dice", "honest", "Dice"),
        ("hd95", "honest", "HD95 (mm)"),
        ("hd95", "honest empty=nan", "HD95 (mm)"),
        ("hd95", "mamba-unet-acdc", "HD95 (voxels)"),
        ("mine", "honest", "mine"),
    ],
)
def test_distances_have_the_unit_of_their_protocol(metric, protocol, text):
    assert format_metric(metric, protocol) == text


@pytest.mark.parametrize(
    ("folds", "expected"),
    [("43210", "0 to 4"), ("01", "0, 1"), ("024", "0, 2, 4"), (["all", "0"], "0, all"), ([""], "")],
)
def test_folds_in_a_row_are_shortened(folds, expected):
    assert format_folds(folds) == expected


def test_shares_have_a_decimal_unless_they_are_none_or_all():
    shares = [0, 0.0004, 0.001, 0.25, 0.9999, 1]
    assert list(map(format_share, shares)) == ["0%", "<0.1%", "0.1%", "25.0%", "100.0%", "100%"]
