"""Averages text encoders and UNets that began with the same weights, parameter by parameter.

    python scripts/base_model/average.py --models ti_jax/bundled/tiny=0.5 runs/details=0.5 --output runs/average

Where runs are short and their batches small, noise of the gradients is most of what sets them apart, and cancels out;
what each has learned stays (Wortsman et al. 2022, "Model soups", arXiv 2203.05482). The first model's other files are
copied.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from ti_jax.files import write_bytes

FILES = ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors")


def main() -> None:
    """Reads the command line and averages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="FOLDER=SHARE", type=_share)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    average(options.models, options.output)


def average(models: Sequence[tuple[Path, float]], output: Path) -> None:
    """Writes the weighted mean of models.

    Args:
        models: folders in diffusers format, with their shares, which add up to 1.
        output: a folder that there is not.

    Raises:
        SystemExit: if the shares add up to something else.
    """
    total = sum(share for _, share in models)
    if abs(total - 1) > 1e-6:
        raise SystemExit(f"the shares add up to {total:g}: they should to 1")
    shutil.copytree(models[0][0], output)
    for file in FILES:
        parts = [(load_file(folder / file), share) for folder, share in models]
        first, _ = parts[0]
        mean = {name: sum(share * part[name].astype(np.float32) for part, share in parts) for name in first}
        tensors = {name: np.asarray(value, first[name].dtype) for name, value in mean.items()}
        write_bytes(output / file, save(tensors, metadata={"format": "pt"}))


def _share(text: str) -> tuple[Path, float]:
    folder, _, share = text.rpartition("=")
    return Path(folder), float(share)


if __name__ == "__main__":
    main()
