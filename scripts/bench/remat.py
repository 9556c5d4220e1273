"""Memory of the compiled optimiser step under each `--remat`, without weights: nothing is run.

    python scripts/bench/remat.py [sd-1.5] [--batch 1] [--dtype float32]

Temporaries are what the program needs beside its arguments and results; the step's forward and backward pass to the
text context is compiled for the platform that is here.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp

from ti_jax.compilation import compiler_options
from ti_jax.models.presets import preset
from ti_jax.models.unet import UNet2DConditionModel
from ti_jax.models.unet_blocks import Remat
from ti_jax.weights.loader import abstract_network


def main() -> None:
    """Reads the command line and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="sd-1.5")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {options.model}, batch {options.batch}, {options.dtype}")
    print("| remat | temporaries, GB |")
    for remat in get_args(Remat):
        print(f"| {remat} | {temporaries(options.model, options.batch, options.dtype, remat) / 1e9:.2f} |", flush=True)


def temporaries(name: str, batch: int, dtype: str, remat: Remat) -> int:
    """Bytes beside arguments and results."""
    config = preset(name).unet
    types = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    network = abstract_network(functools.partial(UNet2DConditionModel, config, **types))
    side, width = config.sample_size, config.cross_attention_dim
    assert isinstance(side, int)
    assert isinstance(width, int)
    sample = jax.ShapeDtypeStruct((batch, side, side, config.in_channels), jnp.float32)
    context = jax.ShapeDtypeStruct((batch, 77, width), dtype)

    def loss(context: jax.Array, sample: jax.Array, network: Any) -> jax.Array:
        timesteps = jnp.zeros(batch, jnp.int32)
        return jnp.mean(jnp.square(network(sample, timesteps, context, remat=remat).astype(jnp.float32)))

    gradient = jax.jit(jax.grad(loss), compiler_options=compiler_options(jax.default_backend()))
    analysis = gradient.lower(context, sample, network).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


if __name__ == "__main__":
    main()
