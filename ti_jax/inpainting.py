"""What an inpainting model is told besides the noisy latents: where to paint, and the picture around."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8
from PIL import Image

from ti_jax.compilation import jit
from ti_jax.data.latents import scale_latents
from ti_jax.errors import UserError
from ti_jax.pipeline import Pipeline


def encode_scene(pipeline: Pipeline, image: Any, mask: Any, height: int, width: int) -> Float32[Array, "h w c"] | None:
    """The further channels of an inpainting UNet's input, as `StableDiffusionInpaintPipeline` makes them.

    Args:
        pipeline: the frozen model.
        image: uint8 [rows, columns, 3], of which a part is painted anew; None for other models.
        mask: [rows, columns], true or white (128 and above) where to paint; numbers beyond 1 are of 255. None for other
            models.
        height: in pixels, to which both are squeezed.
        width: likewise.

    Returns:
        the mask, 1 where to paint, and the latents of the picture with grey there: the mean of the posterior, of which
        diffusers draws a sample. None if the model is not for inpainting.

    Raises:
        UserError: if the model is for inpainting and one of both is missing, or it is not and one is there, or they are
            no such arrays.
    """
    if not pipeline.inpaints:
        if image is None and mask is None:
            return None
        raise UserError(f"{pipeline.source} is not an inpainting model: leave image and mask out, or load one that is")
    if image is None or mask is None:
        raise UserError(f"{pipeline.source} is an inpainting model: give image and mask (--image, --mask)")
    size = (width, height)
    picture = np.asarray(_picture(image).resize(size, Image.Resampling.LANCZOS))
    paint = np.asarray(_grey(mask).resize(size, Image.Resampling.LANCZOS)) > 127
    return _encode(pipeline.networks["vae"], picture, paint.astype(np.float32))


@jit
def _encode(
    vae: Any, picture: UInt8[np.ndarray | Array, "height width 3"], paint: Float32[np.ndarray | Array, "height width"]
) -> Float32[Array, "h w c"]:
    around = (picture.astype(jnp.float32) / 127.5 - 1.0) * (1.0 - paint)[..., None]
    latents = scale_latents(vae, vae.encode(around[None])[0].astype(jnp.float32))[0]
    factor = vae.config.factor
    return jnp.concatenate([paint[::factor, ::factor, None], latents], axis=-1)


def _picture(image: Any) -> Image.Image:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UserError(f"image is {pixels.dtype} {list(pixels.shape)}: give uint8 [h, w, 3]")
    return Image.fromarray(pixels)


def _grey(mask: Any) -> Image.Image:
    """Levels of 255, whether it came as such, as true and false or as shares of one."""
    levels = np.asarray(mask)
    if levels.dtype.kind not in "buif" or levels.ndim != 2 or 0 in levels.shape:
        raise UserError(f"mask is {levels.dtype} {list(levels.shape)}: give numbers [h, w], true or white to paint")
    levels = levels.astype(np.float32)
    if not (levels.min() >= 0 and levels.max() <= 255):
        raise UserError(f"mask has values from {levels.min():g} to {levels.max():g}: give [0, 255], [0, 1] or booleans")
    return Image.fromarray(np.uint8(np.round(levels * (255 if levels.max() <= 1 else 1))))
