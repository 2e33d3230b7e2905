import numpy as np
import pytest

from nnunet_mamba.study.report.study.charts import broken, label_differences_chart, labels_chart, looks, span
from nnunet_mamba.study.statistics.results import TWIN


def test_a_twin_has_its_networks_colour_and_is_hollow(tiny):
    look = looks(tiny)
    assert look["MMUNet"].colour == look["MMUNet_NoSSM"].colour != look["nnUNet"].colour
    assert [name for name in look if look[name].hollow] == ["MMUNet_NoSSM"]


def test_one_missed_label_does_not_squeeze_the_others():
    values = np.append(np.linspace(0.85, 0.95, 99), 0.0)
    low, high = span([values])
    assert 0.7 < low < 0.85 and 0.95 < high < 1


def test_what_is_shown_reaches_to_the_last_value_and_no_further():
    assert span([np.array([0.0, 1.0])]) == pytest.approx((-0.068, 1.068), abs=0.02)
    low, high = span([np.array([0.5])])
    assert low < 0.5 < high
    assert span([np.array([])])[0] < span([np.array([])])[1]


def test_long_names_are_broken_at_their_seams():
    assert broken("MMUNet") == "MMUNet"
    assert broken("portal and splenic vein") == "portal and\nsplenic vein"
    assert broken("MambaMulti_NoSSM__nnUNetPlans") == "MambaMulti_NoSSM__\nnnUNetPlans"
    assert broken("Aaaaaaaaaaaaaaaaaaaaaaaaaaaaa") == "Aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"


def test_charts_hold_the_names_of_labels_and_methods(tiny):
    for svg in (labels_chart(tiny, tiny.leading), label_differences_chart(tiny, tiny.leading, TWIN)):
        assert svg.startswith("<svg") and "currentColor" in svg
        for told in ("large", "small", "MMUNet_NoSSM"):
            assert told in svg
