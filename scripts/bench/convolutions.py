"""Ways to compute a 3 x 3 convolution and its derivative by the input on a CPU, in turn.

    python scripts/bench/convolutions.py [--rounds 5]

The shapes are layers of Stable Diffusion 1.5 at 512 pixels, batch 1, in a loop as in a chunk of steps. Prints a table
of seconds of CPU time (of all cores together, so that other programs disturb little), the least of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
from jax import Array

from ti_jax.compilation import compiler_options
from ti_jax.models import layers, winograd

SHAPES = ((64, 320, 320), (32, 640, 640), (32, 1920, 640), (32, 1280, 1280), (16, 1280, 1280))
WAYS = {"direct": layers._convolve, "matrix product": layers._patches_times_kernel, "Winograd": winograd.convolve}
LOOP = 2


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"| side, channels in and out | {' | '.join(WAYS)} |", f"|---|{'---|' * len(WAYS)}", sep="\n")
    for shape in SHAPES:
        seconds = measured(*shape, options.rounds)
        print(f"| {', '.join(map(str, shape))} | {' | '.join(f'{s:.3f}' for s in seconds)} |", flush=True)


def measured(side: int, inputs: int, outputs: int, rounds: int) -> list[float]:
    """CPU seconds of each way."""
    arguments = (
        jax.random.normal(jax.random.key(0), (1, side, side, inputs)),
        jax.random.normal(jax.random.key(1), (3, 3, inputs, outputs)),
    )
    programs = [program(way).lower(*arguments).compile() for way in WAYS.values()]
    best = [float("inf")] * len(programs)
    for _ in range(rounds):
        for i, compiled in enumerate(programs):
            began = time.process_time()
            jax.block_until_ready(compiled(*arguments))
            best[i] = min(best[i], (time.process_time() - began) / LOOP)
    return best


def program(way: Callable[[Array, Array], Array]) -> jax.stages.Wrapped:
    """Forward and by the input, a few times over."""

    def body(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, kernel = carry
        y, backward = jax.vjp(lambda x: way(x, kernel), x)
        return x + 1e-6 * backward(1.0 + 1e-3 * y)[0], kernel

    return jax.jit(
        lambda x, kernel: jax.lax.fori_loop(0, LOOP, body, (x, kernel))[0], compiler_options=compiler_options("cpu")
    )


if __name__ == "__main__":
    main()
