"""Options that are refused, and tolerances."""

import math

import pytest

from nnunet_mamba.study.evaluation import PROTOCOLS, Label
from nnunet_mamba.study.evaluation.config import EvaluationConfig


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"tolerances_mm": {"brain": 1.0}}, "tolerance for brain, but no such label"),
        ({"tolerances_mm": {"": -1.0}}, "0 mm or more"),
        ({"tolerances_mm": {"": math.nan}}, "0 mm or more"),
        ({"empty": "zero"}, "Unknown empty policy 'zero'. Choose one of diagonal"),
        ({"protocol": PROTOCOLS["nnformer"], "empty": "nan"}, "nnformer has its own rules"),
        ({"protocol": PROTOCOLS["umamba"], "tolerances_mm": {"": 2.0}}, "umamba has its own rules"),
        ({"instances": True}, "exactly one label"),
    ],
)
def test_contradictory_options_are_refused(choices, words):
    with pytest.raises(ValueError, match=words):
        EvaluationConfig((Label("liver", (1,)), Label("spleen", (2,))), **choices)


def test_the_default_tolerance_is_the_same_protocol_when_it_is_given():
    given = EvaluationConfig((Label("liver", (1,)),), ("nsd",), tolerances_mm={"": 1.0})
    assert given.protocol_text("nsd") == "honest"


def test_an_organ_without_tolerance_is_refused_by_umambas_protocol():
    config = EvaluationConfig((Label("bladder", (1,)),), protocol=PROTOCOLS["umamba"])
    with pytest.raises(ValueError, match="umamba has no tolerance for the label 1 'bladder'"):
        config.tolerance_mm(config.labels[0])
