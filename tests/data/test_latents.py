"""Pictures to latents, against PyTorch's autoencoder."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from flax import nnx

import ti_jax
from ti_jax.data.latents import encode_pictures
from ti_jax.data.pictures import load_pictures
from ti_jax.weights.hub import resolve


@pytest.fixture(scope="module")
def encoded():
    """Ours and PyTorch's, of the bundled fox, and its negative."""
    vae = ti_jax.load("tiny").networks["vae"]
    pixels = np.stack([picture.pixels for picture in load_pictures("bundled:fox", resolution=32)[:2]])
    pixels[1] = 255 - pixels[1]
    twin = AutoencoderKL.from_pretrained(resolve("tiny") / "vae", torch_dtype=torch.float32).eval()
    images = torch.tensor(np.float32(pixels)).permute(0, 3, 1, 2) / 127.5 - 1
    both = torch.stack([images, images.flip(-1)], dim=1)
    with torch.no_grad():
        posterior = twin.encode(both.flatten(0, 1)).latent_dist
    factor = twin.config.scaling_factor
    shape = (2, 2, *posterior.mean.shape[1:])
    expected = [(factor * x).reshape(shape).permute(0, 1, 3, 4, 2).numpy() for x in (posterior.mean, posterior.std)]
    return encode_pictures(vae, jnp.asarray(pixels)), expected, vae


def test_means_and_deviations_of_both_flips(encoded):
    ours, expected, _ = encoded
    for x, y in zip(ours, expected, strict=True):
        assert x.dtype == jnp.float32
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * np.abs(y).max())


def test_a_mirrored_picture_is_encoded_itself(encoded):
    """Mirrored latents are not the latents of the mirrored picture."""
    (mean, _), _, _ = encoded
    assert not np.allclose(mean[:, 0, :, ::-1], mean[:, 1], atol=0.01)


def test_the_shift_moves_the_mean_alone(encoded):
    (mean, std), _, vae = encoded
    shifted = nnx.clone(vae)
    shifted.config = replace(vae.config, shift_factor=0.25, scaling_factor=2.0)
    pixels = np.stack([picture.pixels for picture in load_pictures("bundled:fox", resolution=32)[:1]])
    moved, spread = encode_pictures(shifted, jnp.asarray(pixels))
    factor = vae.config.scaling_factor
    np.testing.assert_allclose(moved, (mean[:1] / factor - 0.25) * 2.0, rtol=0, atol=1e-5 * float(jnp.abs(moved).max()))
    np.testing.assert_allclose(spread, std[:1] / factor * 2.0, rtol=1e-5)
