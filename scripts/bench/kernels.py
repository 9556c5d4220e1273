"""Where the time of a step goes on a CPU: kernels by kind, and matrix products by shape.

    python scripts/bench/kernels.py [sd-1.5] [--batch 1] [--dtype float32] [--rows 12]

The forward and backward pass of a UNet of random weights to the text context, in a loop as training has it, recorded
by XLA's profiler. Times are of the wall; kernels run one after the other.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import math
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_jax.compilation import compiler_options
from ti_jax.models.presets import preset
from ti_jax.models.unet import UNet2DConditionModel
from ti_jax.weights.loader import abstract_network

_TOKENS = 77
_NO_KERNEL = ("ThunkExecutor", "PjitFunction", "SlinkyThreadPool", "ParseArguments", "while", "$")
"""Beginnings of events that hold others, or wait for them."""
_COMPUTATION = re.compile(r"^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_SHAPE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\]", re.MULTILINE)
_CALL = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = [^\n]*calls=%?([\w.\-]+)", re.MULTILINE)
_PRODUCT = re.compile(r"= \w+\[([\d,]*)\]\S* dot\(%?([\w.\-]+), %?([\w.\-]+)\)[^\n]*?lhs_contracting_dims=\{([\d,]*)\}")


def main() -> None:
    """Reads the command line, runs, and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="sd-1.5")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", help="of the network and its computation")
    parser.add_argument("--rows", type=int, default=12)
    options = parser.parse_args()
    text, events = recorded(options.model, options.batch, jnp.dtype(options.dtype))
    of_products = products(text)
    kinds, shapes, flops = Counter[str](), Counter[str](), Counter[str]()
    for name, microseconds in events:
        shape, own = of_products.get(name, ("", 0))
        kinds["matrix products" if own else re.sub(r"[.\d]+$", "", name)] += microseconds
        if own:
            shapes[shape] += microseconds
            flops[shape] += own
    whole = f"{kinds.total() / 1e6:.1f} s"
    print(f"{jax.devices()[0].device_kind}, {options.model}, batch {options.batch}, {options.dtype}: {whole}")
    print("| kernels | s |\n|---|---|")
    print("\n".join(f"| {kind} | {time / 1e6:.2f} |" for kind, time in kinds.most_common(options.rows)))
    shapes["all"], flops["all"] = shapes.total(), flops.total()
    print("| matrix products | s | GFLOP/s |\n|---|---|---|")
    for shape, time in shapes.most_common(options.rows):
        print(f"| {shape} | {time / 1e6:.2f} | {flops[shape] / time / 1e3:.0f} |")


def recorded(model: str, batch: int, dtype: Any) -> tuple[str, list[tuple[str, int]]]:
    """The compiled program as text, and the kernels that ran in one step, each with its microseconds."""
    config = preset(model).unet
    side, width = config.sample_size, config.cross_attention_dim
    rng = np.random.default_rng(0)

    def random(*shape: Any) -> jax.Array:
        return jnp.asarray(rng.normal(0, 0.02, shape), dtype)

    abstract = abstract_network(functools.partial(UNet2DConditionModel, config, dtype=dtype, param_dtype=dtype))
    network = jax.tree.map(lambda leaf: random(*leaf.shape), abstract)
    arguments = random(batch, _TOKENS, width), random(batch, side, side, config.in_channels), network

    def loss(context: jax.Array, sample: jax.Array, network: Any) -> jax.Array:
        predicted = network(sample, jnp.full(batch, 500, jnp.int32), context)
        return jnp.mean(jnp.square(predicted.astype(jnp.float32)))

    def steps(context: jax.Array, sample: jax.Array, network: Any, count: int) -> jax.Array:
        step = jax.grad(loss)
        return jax.lax.fori_loop(0, count, lambda _, now: now - 1e-3 * step(now, sample, network), context)

    options = compiler_options(jax.default_backend())
    compiled = jax.jit(steps, compiler_options=options).lower(*arguments, 1).compile()
    compiled(*arguments, 1).block_until_ready()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            compiled(*arguments, 1).block_until_ready()
        (file,) = Path(folder).rglob("perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    timed = [(event["name"], round(event["dur"])) for event in events if event.get("ph") == "X"]
    return compiled.as_text() or "", [(name, time) for name, time in timed if not name.startswith(_NO_KERNEL)]


def products(text: str) -> dict[str, tuple[str, int]]:
    """Shapes and FLOPs of the matrix products of a program, by the name of the fusion that holds them."""
    by_computation: dict[str, tuple[str, int]] = {}
    for name, body in _COMPUTATION.findall(text):
        sizes = {own: _sizes(shape) for own, shape in _SHAPE.findall(body)}
        found = [(_sizes(out), sizes[a], sizes[b], _sizes(over)) for out, a, b, over in _PRODUCT.findall(body)]
        flops = sum(2 * math.prod(out) * math.prod(a[i] for i in over) for out, a, _, over in found)
        by_computation[name] = "; ".join(f"{a} x {b} over {over}" for _, a, b, over in found), flops
    calls = {name: by_computation.get(called, ("", 0)) for name, called in _CALL.findall(text)}
    return {name: product for name, product in calls.items() if product[1]}


def _sizes(numbers: str) -> list[int]:
    return [int(number) for number in numbers.split(",") if number]


if __name__ == "__main__":
    main()
