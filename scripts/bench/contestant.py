"""One program that `against_diffusers.py` times, in a process of its own.

    python scripts/bench/contestant.py {example,lean,ti_jax} {invert,generate} MODEL [--calls 3] [--batch-size 1]

Prints one line of JSON: seconds of every call after the first, seconds until the first was done, and the largest
resident memory, of the host. A call is one optimiser step, or one picture; with `--chunk` it is so many steps, and its
seconds are divided by their number.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

PROMPT = "a photo of {}"


def main() -> None:
    """Reads the command line, makes ready, and takes the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("example", "lean", "ti_jax"))
    parser.add_argument("job", choices=("invert", "generate"))
    parser.add_argument("model")
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=1, help="steps of a call, at most 100")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--sampling-steps", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", help="of the frozen networks")
    parser.add_argument(
        "--torch-products", choices=("float32", "bfloat16"), default="float32", help="of float32, on a CPU"
    )
    options = parser.parse_args()
    began = time.perf_counter()
    call = (of_ti_jax if options.name == "ti_jax" else of_torch)(options)
    call()  # compiles, or finds its kernels
    ready = time.perf_counter() - began
    steps = options.chunk if options.job == "invert" else 1
    seconds = [timed(call) / steps for _ in range(options.calls)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "ready": ready, "peak_bytes": peak}))


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def pictures(model: str) -> np.ndarray:
    """Five pictures of noise at the model's size, uint8 [5, h, w, 3]: what they show takes no time."""
    unet, vae = (json.loads((Path(model) / part / "config.json").read_text()) for part in ("unet", "vae"))
    size = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    return np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)


def of_torch(options: argparse.Namespace) -> Callable[[], object]:
    """A loop of diffusers, or the same made lean."""
    import torch_loops

    torch_loops.products_in(options.torch_products)
    if options.job == "generate":
        return torch_loops.generator(
            options.model, PROMPT.format("a thing"), options.sampling_steps, device=options.device, dtype=options.dtype
        )
    parts = torch_loops.load(
        options.model, pictures(options.model), PROMPT, options.batch_size, device=options.device, dtype=options.dtype
    )
    step = {"example": torch_loops.example_step, "lean": torch_loops.lean_step}[options.name](parts)
    return lambda: [step() for _ in range(options.chunk)]


def of_ti_jax(options: argparse.Namespace) -> Callable[[], object]:
    """The engine of `ti_jax.invert` with one slot, or `ti_jax.generate`."""
    import jax

    import ti_jax
    from ti_jax.config import ConceptSpec, InversionConfig, with_model_defaults
    from ti_jax.inversion.bounds import Bounds
    from ti_jax.inversion.engine import Engine
    from ti_jax.inversion.prepare import prepare

    jax.config.update("jax_platforms", options.device)
    pipeline = ti_jax.load(options.model, dtype=options.dtype)
    if options.job == "generate":
        return lambda: ti_jax.generate(pipeline, PROMPT.format("a thing"), steps=options.sampling_steps, guidance=5.0)
    config = InversionConfig(steps=10_000, batch_size=options.batch_size, evaluate_every=100)
    config = with_model_defaults(config, pipeline.inversion_defaults)
    concept = prepare(pipeline, ConceptSpec("thing", "<thing>", "thing", list(pictures(options.model))), config)
    engine = Engine(pipeline, config, 1, Bounds.of(concept))
    engine.put(0, concept)
    return lambda: engine.advance(options.chunk)


if __name__ == "__main__":
    main()
