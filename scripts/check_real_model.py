"""Checks once that a model of yours works in ti_jax, before a long run on it.

    python scripts/check_real_model.py stable-diffusion-v1-5/stable-diffusion-v1-5

Prints pass or fail for each step, with its numbers, and exits with status 1 if a step fails. What the steps mean and
what to do when one fails: docs/first-real-run.md.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro
from PIL import Image

import ti_jax
from ti_jax.concepts.prompts import tokenize
from ti_jax.data.latents import encode_pictures
from ti_jax.data.pictures import load_pictures
from ti_jax.inversion.result import Result

WORD = "<check-word>"
PICTURES = "bundled:fox"
# The VAE of Stable Diffusion 1.x reconstructs photographs at 256 pixels with 23.4 +- 3.8 dB (model card of
# stabilityai/sd-vae-ft-mse). The bundled drawings have large even areas, which are easier.
LEAST_PSNR = 20.0
LEAST_CONTRAST = 4.0  # standard deviation of pixels in 0 ... 255; a NaN anywhere ends up as a picture of one colour


@dataclass(frozen=True)
class Options:
    """Checks once that a model of yours works in ti_jax, before a long run on it."""

    model: tyro.conf.Positional[str]
    """A folder in diffusers format, a hub id, a `.safetensors` or `.ckpt` file, or `tiny`."""
    output: Path = Path("check")
    """Folder for the pictures and the embedding, to be looked at."""
    init: str = "fox"
    """A word of the model's that is near the bundled pictures, which are of a fox."""
    inversion_steps: int = 50
    """Steps of the trial inversion."""
    sampling_steps: int = 50
    """Sampling steps of a picture."""
    batch_size: int = 4
    """Examples in a pass of the trial inversion; less needs less memory."""
    dtype: str | None = None
    """float32, bfloat16 or float16. Unset: what suits the device."""
    variant: str | None = None
    """Variant of the weight files, such as `fp16`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    prediction_type: str | None = None
    """epsilon, v_prediction or sample, where the model's files do not say what its UNet predicts."""
    model_config: str | None = None
    """For a model in a single file: a folder or hub id in diffusers format, for configs and tokenizers."""
    tokenizer: str | None = None
    """A folder or hub id to take the tokenizer from instead of the model's own."""
    remat: Literal["none", "blocks", "everything"] = "none"
    """What the trial inversion computes again instead of keeping it, for the sake of memory."""
    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the traceback of a step that fails."""


class CheckFailed(Exception):
    """What a step found wrong."""


def require(condition: bool, message: str) -> None:
    """Fails the step with a message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


class Check:
    """The steps, in order; each uses what the ones before it left, and returns its numbers as text."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def load(self) -> str:
        """Weights and configs are all there and fit."""
        options = self.options
        self.pipeline = ti_jax.load(
            options.model,
            dtype=options.dtype,
            variant=options.variant,
            revision=options.revision,
            prediction_type=options.prediction_type,
            config=options.model_config,
            tokenizer=options.tokenizer,
        )
        leaves = jax.block_until_ready(jax.tree.leaves(self.pipeline.networks))
        parameters = sum(leaf.size for leaf in leaves)
        size = sum(leaf.nbytes for leaf in leaves) / 2**30
        precision = self.pipeline.precision
        return (
            f"{parameters / 1e6:.1f} million parameters, {size:.2f} GiB in {precision.param}, "
            f"computation in {precision.compute}, {self.pipeline.resolution} pixels"
        )

    def tokenizer(self) -> str:
        """A placeholder of two vectors takes the positions that tokens added to a copy of the tokenizer take."""
        reference = copy.deepcopy(self.pipeline.tokenizers["text_encoder"])
        added = [WORD, f"{WORD}_1"]
        reference.add_tokens(added)
        length = self.pipeline.max_length
        text = "a photo of {} on a table"
        found = tokenize([text.format(WORD)], self.pipeline.tokenizers["text_encoder"], {WORD: 2}, max_length=length)
        wanted = reference(text.format(" ".join(added)), padding="max_length", max_length=length, truncation=True)[
            "input_ids"
        ]
        added_ids = np.asarray(reference.convert_tokens_to_ids(added))
        index = found.vector_index[0]
        ids = np.where(index >= 0, added_ids[index], found.ids[0])
        require(ids.tolist() == wanted, f"ids {ids.tolist()}, where the tokenizer with added tokens gives {wanted}")
        return f"{length} ids, the word at positions {np.flatnonzero(index >= 0).tolist()}"

    def autoencoder(self) -> str:
        """A picture survives encoding and decoding."""
        picture = load_pictures(PICTURES, resolution=self.pipeline.resolution)[0]
        config = self.pipeline.networks["vae"].config
        mean, _ = encode_pictures(self.pipeline.networks["vae"], picture.pixels[None])
        latents = mean[0, :1]
        decoded = np.asarray(_decode(self.pipeline.networks["vae"], latents / config.scaling_factor), np.float32)[0]
        require(bool(np.isfinite(decoded).all()), "the decoded picture is not finite")
        pixels = np.clip(decoded * 127.5 + 127.5, 0, 255)
        both = np.concatenate([picture.pixels, np.uint8(np.round(pixels))], axis=1)
        self._write(both, "autoencoder.png")
        reached = psnr(pixels, picture.pixels)
        even = psnr(np.broadcast_to(picture.pixels.mean((0, 1)), pixels.shape), picture.pixels)
        spread = float(np.std(latents))
        numbers = f"PSNR {reached:.1f} dB (at least {LEAST_PSNR:.0f}; its mean colour alone has {even:.1f})"
        require(reached >= LEAST_PSNR, f"{numbers}: see autoencoder.png")
        return f"{numbers}, standard deviation of the latents {spread:.2f}"

    def generate(self) -> str:
        """A prompt gives a picture that is not of one colour."""
        image = self._draw(f"a picture of a {self.options.init}", [])
        self._write(image, "generated.png")
        contrast = float(image.std(axis=(0, 1)).max())
        require(contrast >= LEAST_CONTRAST, f"the picture is of one colour (standard deviation {contrast:.1f} of 255)")
        return f"standard deviation of the pixels {contrast:.1f} of 255; look at generated.png"

    def inversion(self) -> str:
        """The loss on a fixed set falls, and the vectors move."""
        steps = self.options.inversion_steps
        config = ti_jax.InversionConfig(
            steps=steps,
            batch_size=self.options.batch_size,
            evaluate_every=max(1, steps // 5),
            remat=self.options.remat,
        )
        self.result = result = ti_jax.invert(
            self.pipeline, PICTURES, placeholder=WORD, initializer=self.options.init, config=config
        )
        require(bool(np.isfinite(result.history.loss).all()), "a loss is not finite")
        fixed = dict(result.history.fixed_loss)
        start = fixed.pop(0)
        lowest = min(fixed.values())
        moved = movement(result)
        numbers = (
            f"loss on the fixed set {start:.4f} -> {fixed[steps]:.4f} (lowest {lowest:.4f}), "
            f"vectors moved by {moved:.0%} of their norm, {steps / result.seconds:.2f} steps/s with compilation"
        )
        require(moved > 0.01, f"the vectors hardly moved: {numbers}")
        require(lowest < start, f"the loss on the fixed set did not fall: {numbers}")
        return numbers

    def embedding(self) -> str:
        """The saved word reads back the same, and changes the picture."""
        file = self.options.output / "check-word.safetensors"
        self.result.concept.save(file)
        concept = ti_jax.Concept.load(file)
        same = np.array_equal(concept.vectors["text_encoder"], self.result.concept.vectors["text_encoder"])
        require(same and concept.placeholder == WORD, f"{file} does not read back as what was saved")
        prompt = f"a picture of a {WORD}"
        before, after = (self._draw(prompt, [word]) for word in (self.result.initial, concept))
        self._write(np.concatenate([before, after], axis=1), "embedding.png")
        change = float(np.abs(before.astype(float) - after).mean())
        require(change > 0, "the picture is the same with the word before and after learning")
        return f"{file} reads back bit for bit; pixels differ by {change:.1f} of 255 on average in embedding.png"

    def _draw(self, prompt: str, concepts: list[ti_jax.Concept]) -> np.ndarray:
        return ti_jax.generate(self.pipeline, prompt, concepts=concepts, steps=self.options.sampling_steps)[0]

    def _write(self, pixels: np.ndarray, name: str) -> None:
        self.options.output.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.options.output / name)


@jax.jit
def _decode(vae, latents: jax.Array) -> jax.Array:  # with jit: what runs later is compiled too
    return vae.decode(latents)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two arrays of pixels in 0 ... 255."""
    error = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def movement(result: Result) -> float:
    """How far the vectors went, in their norm at the start."""
    before, after = (np.asarray(c.vectors["text_encoder"]) for c in (result.initial, result.concept))
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


def passes(name: str, step: Callable[[], str], *, debug: bool) -> bool:
    """Runs a step and prints how it went."""
    began = time.perf_counter()
    try:
        outcome, detail = "pass", step()
    except Exception as error:  # whatever it is, the user is to see which step it was
        outcome, detail = "FAIL", str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
        if debug:
            logging.exception("%s", name)
    print(f"{outcome}  {name:12} {time.perf_counter() - began:7.1f} s  {detail}", flush=True)
    return outcome == "pass"


def main(arguments: list[str] | None = None) -> int:
    """Runs all steps that can be run, and returns the exit status."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    check = Check(options)
    device = jax.devices()[0]
    print(f"ti_jax {ti_jax.__version__}, jax {jax.__version__}, {device.device_kind} ({device.platform})", flush=True)
    if not passes("load", check.load, debug=options.debug):
        return 1
    names = ["tokenizer", "autoencoder", "generate", "inversion"]
    passed = {name: passes(name, getattr(check, name), debug=options.debug) for name in names}
    if hasattr(check, "result"):
        passed["embedding"] = passes("embedding", check.embedding, debug=options.debug)
    else:
        print("skip  embedding             there is no word to save")
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if peak is not None:
        print(f"peak device memory {peak / 2**30:.2f} GiB")
    print(f"pictures to look at: {options.output}")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
