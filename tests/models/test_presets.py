"""The presets have as many parameters as the published models."""

import functools
import math

import jax
import pytest

from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.errors import UserError
from ti_jax.models.presets import PRESETS, preset
from ti_jax.pipeline import NETWORKS
from ti_jax.weights.loader import abstract_network

SD2 = (340_387_840, 865_910_724, 83_653_863)
# Of the published checkpoints: text encoders, UNet, autoencoder.
COUNTS = {
    "sd-1.5": (123_060_480, 859_520_964, 83_653_863),
    "sd-2.1": SD2,
    "sd-2.1-base": SD2,
    "sdxl": (123_060_480, 694_659_840, 2_567_463_684, 83_653_863),
    "ldm": (542_895_360, 872_300_484, 83_653_863),  # without the text encoder's head for words
}


@pytest.mark.parametrize("name", PRESETS)
def test_numbers_of_parameters(name):
    found = preset(name)
    configs = [found.text_encoder, found.text_encoder_2, found.unet, found.vae]
    networks = [functools.partial(NETWORKS[type(config)], config) for config in configs if config is not None]
    counts = [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_network(build))) for build in networks]
    assert tuple(counts) == COUNTS[name]


def test_schedules():
    assert NoiseSchedule.from_config(preset("sd-1.5").scheduler).prediction_type == "epsilon"
    assert NoiseSchedule.from_config(preset("sd-2.1").scheduler).prediction_type == "v_prediction"


def test_a_name_that_is_not_known():
    with pytest.raises(UserError, match="sd-3"):
        preset("sd-3")
