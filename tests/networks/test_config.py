"""Settings that no mixer can have."""

import pytest

from nnunet_mamba import create_network
from nnunet_mamba.blocks.mixers import settings_of
from nnunet_mamba.networks.mixer_config import COUNTS, MAKERS, Mixer

OWN_COUNTS = [(kind, name) for kind in MAKERS for name in COUNTS if name in settings_of(MAKERS[kind])]


@pytest.mark.parametrize(("kind", "name"), OWN_COUNTS)
@pytest.mark.parametrize("value", [0, -4, 2.0, True, "8"])
def test_counts_are_whole_numbers_of_at_least_1(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; give a whole number of at least 1"):
        Mixer(kind, **{name: value})


def test_every_setting_is_a_count_or_a_word():
    settings = set().union(*map(settings_of, MAKERS.values()))
    assert settings - set(COUNTS) == {"channel_D", "shared", "windows"}


def test_heads_of_attention_too_narrow_for_3d_are_refused_before_the_first_forward():
    with pytest.raises(ValueError, match="Heads of 4 channels have no room for positions on 3 axes"):
        create_network("mm_unet", input_channels=1, num_classes=2, mixer="attention", headdim=4)
