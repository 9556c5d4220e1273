"""Pictures to the moments of their latents, once, before the first step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from ti_jax.compilation import jit
from ti_jax.models.vae import AutoencoderKL


def encode_pictures(
    vae: AutoencoderKL, pixels: UInt8[np.ndarray | Array, "n height width 3"]
) -> tuple[Float32[np.ndarray, "n flips h w c"], Float32[np.ndarray, "n flips h w c"]]:
    """Means and standard deviations of the VAE's posterior, scaled as the UNet takes latents.

    Args:
        vae: the frozen autoencoder.
        pixels: of the pictures; height and width are multiples of its factor.

    Returns:
        means and deviations in host memory; flip 0 is the picture as it is, flip 1 its mirror image. A mirrored picture
        is encoded itself, since the encoder does not commute with mirroring.
    """
    # One by one, so that a concept of another number of pictures compiles nothing.
    means, deviations = zip(*(jax.device_get(_encode(vae, picture)) for picture in pixels), strict=True)
    return np.stack(means), np.stack(deviations)


@jit
def _encode(
    vae: AutoencoderKL, picture: UInt8[np.ndarray | Array, "height width 3"]
) -> tuple[Float32[Array, "2 h w c"], Float32[Array, "2 h w c"]]:
    """Of one picture; the bounds of the logarithm are those of diffusers' `DiagonalGaussianDistribution`."""
    images = picture.astype(jnp.float32) / 127.5 - 1.0
    mean, log_variance = vae.encode(jnp.stack([images, images[:, ::-1]]))
    deviation = jnp.exp(0.5 * jnp.clip(log_variance.astype(jnp.float32), -30.0, 20.0))
    return scale_latents(vae, mean.astype(jnp.float32)), vae.config.scaling_factor * deviation


def scale_latents(vae: AutoencoderKL, latents: Array) -> Array:
    """Latents of an autoencoder as the UNet takes them."""
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
