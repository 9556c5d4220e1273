"""The two numbers that bound a step: its arithmetic, and the bytes that it cannot help moving.

    python scripts/bench/arithmetic.py [sd-1.5 sd-2.1-base ...]

Arithmetic is XLA's count for the program before it is optimised, with plain attention: forward, and backward to the
text context, of one example. The bytes are those of the parameters, read once forward and once backward, in bfloat16;
a batch of any size shares them. What a chip needs at least for one step follows from its peak rates.
"""

from __future__ import annotations

import argparse
import datetime
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ti_jax.models import attention
from ti_jax.models.presets import PRESETS, preset
from ti_jax.pipeline import NETWORKS
from ti_jax.planning.topologies import CHIPS
from ti_jax.weights.loader import abstract_network

PEAKS = {name: (CHIPS[name].flops, CHIPS[name].bandwidth) for name in ("v5e", "v6e", "h100")}
"""FLOP/s in bfloat16 and bytes/s, of the makers' data sheets."""


def main() -> None:
    """Reads the command line and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["sd-1.5", "sd-2.1-base", "sd-2.1"])
    attention._SMALLEST_BLOCKED = 10**12  # since the pieces of a loop would be counted once
    print(
        f"{datetime.date.today()}\n| | TFLOP | GB | " + " | ".join(f"{c}: ms of arithmetic, of memory" for c in PEAKS)
    )
    for name in parser.parse_args().models:
        operations, moved = step_cost(name)
        times = [f"{operations / rate * 1e3:.1f}, {moved / speed * 1e3:.1f}" for rate, speed in PEAKS.values()]
        print(f"| {name} | {operations / 1e12:.2f} | {moved / 1e9:.1f} | {' | '.join(times)} |", flush=True)


def step_cost(name: str) -> tuple[float, float]:
    """FLOP and bytes of one example's loss and its gradient by the embedded prompt.

    Args:
        name: of a preset with one CLIP text encoder.

    Returns:
        both numbers.
    """
    if name not in PRESETS or PRESETS[name].text_encoder_2 is not None:
        raise SystemExit(f"{name}: give an architecture with one text encoder")
    architecture = preset(name)
    text, unet = (
        abstract_network(
            functools.partial(NETWORKS[type(config)], config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        )
        for config in (architecture.text_encoder, architecture.unet)
    )
    side = architecture.unet.sample_size
    shapes = (
        jax.ShapeDtypeStruct((1, text.config.max_position_embeddings, text.config.hidden_size), jnp.bfloat16),
        jax.ShapeDtypeStruct((1, side, side, architecture.unet.in_channels), jnp.float32),
    )

    def loss(embedded: jax.Array, sample: jax.Array, text: Any, unet: Any) -> jax.Array:
        position = jnp.zeros(1, jnp.int32)
        context = text(embedded, position).last_hidden_state
        return jnp.mean(jnp.square(unet(sample, position, context).astype(jnp.float32)))

    counts = jax.jit(jax.grad(loss)).lower(*shapes, text, unet).cost_analysis()
    assert counts is not None
    moved = 2 * sum(leaf.size * 2 for leaf in jax.tree.leaves((text, unet)))
    return float(counts["flops"]), float(moved)


if __name__ == "__main__":
    main()
