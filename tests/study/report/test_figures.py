import numpy as np
import pytest

from nnunet_mamba.study.report.figures import get_axis_limits, wrap_name


def test_one_missed_label_does_not_squeeze_the_others():
    values = np.append(np.linspace(0.85, 0.95, 99), 0.0)
    low, high = get_axis_limits([values])
    assert 0.7 < low < 0.85 and 0.95 < high < 1


def test_what_is_shown_reaches_to_the_last_value_and_no_further():
    assert get_axis_limits([np.array([0.0, 1.0])]) == pytest.approx((-0.068, 1.068), abs=0.02)
    low, high = get_axis_limits([np.array([0.5])])
    assert low < 0.5 < high
    assert get_axis_limits([np.array([])])[0] < get_axis_limits([np.array([])])[1]


def test_long_names_are_broken_at_their_seams():
    assert wrap_name("MMUNet") == "MMUNet"
    assert wrap_name("portal and splenic vein") == "portal and\nsplenic vein"
    assert wrap_name("MambaMulti_NoSSM__nnUNetPlans") == "MambaMulti_NoSSM__\nnnUNetPlans"
    assert wrap_name("Aaaaaaaaaaaaaaaaaaaaaaaaaaaaa") == "Aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
