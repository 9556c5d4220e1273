"""Writes a model with random weights at the full size of a published one, in diffusers' layout.

    python scripts/bench/random_model.py sd-1.5 FOLDER

For measuring time and memory where no weights can be had; needs torch and diffusers.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from pathlib import Path
from typing import Any

import torch
import transformers

from ti_jax.models.presets import PRESETS, preset
from ti_jax.weights.tokenizer import clip_tokenizer

diffusers: Any = importlib.import_module("diffusers")  # whose names are made at run time, unseen by a type checker


def main() -> None:
    """Reads the command line and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=sorted(set(PRESETS) - {"sdxl", "ldm"}))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    write_random_model(options.preset, options.folder)


def write_random_model(name: str, folder: Path) -> None:
    """Float32, the same in every run.

    Args:
        name: of a preset with one CLIP text encoder.
        folder: to write to.
    """
    torch.manual_seed(0)
    architecture = preset(name)
    tokenizer_folder = folder / "tokenizer"
    clip_tokenizer(padding="<|endoftext|>").save_pretrained(str(tokenizer_folder))
    text = {key: v for key, v in dataclasses.asdict(architecture.text_encoder).items() if key != "with_projection"}
    scheduler = {key: v for key, v in architecture.scheduler.items() if not key.startswith(("_", "skip"))}
    diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel(**dataclasses.asdict(architecture.unet)),
        vae=diffusers.AutoencoderKL(**dataclasses.asdict(architecture.vae)),
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tokenizer_folder),
        scheduler=diffusers.DDIMScheduler(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
