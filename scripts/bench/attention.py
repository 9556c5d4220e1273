"""Attention in all its ways on whatever accelerator is here: is it right, and how long does it take?

    python scripts/bench/attention.py [--batch 4] [--budget 40] [--output attention.json]

The shapes are those of Stable Diffusion 1.5, 2.1 and XL at the size of picture that each was made for. What is timed is
the forward pass with the gradients by query, key and value, many times in one dispatch. Errors are the largest
difference of the result and of each gradient from plain attention in float32, relative to the largest value.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ti_jax.files import write_text
from ti_jax.models.attention import Implementation, attention
from ti_jax.parallel.mesh import make_mesh

KERNELS: dict[str, tuple[Implementation, ...]] = {"gpu": ("cudnn",), "tpu": ("flash",)}
REPEATS = 10  # in one dispatch


class Case(NamedTuple):
    """One attention of a network."""

    model: str
    queries: int
    keys: int
    heads: int
    head: int
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        return f"{self.model} {self.queries}x{self.keys} {self.heads}x{self.head} {self.dtype}"


def _cases() -> list[Case]:
    """The largest first, in case that time runs out."""
    levels = {
        "sd-1.5": ((4096, 8, 40), (1024, 8, 80), (256, 8, 160), (64, 8, 160)),
        "sd-2.1": ((9216, 5, 64), (2304, 10, 64), (576, 20, 64), (144, 20, 64)),
        "sdxl": ((4096, 10, 64), (1024, 20, 64)),
    }
    cases = [
        Case(model, queries, keys, heads, head)
        for model, sizes in levels.items()
        for queries, heads, head in sizes
        for keys in (queries, 77)
    ]
    cases += [case._replace(dtype="float16") for case in cases if case.model == "sd-1.5" and case.queries == 1024]
    return sorted(cases, key=lambda case: (case.dtype != "bfloat16", -case.queries * case.keys))


def main() -> None:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--budget", type=float, default=40.0, help="seconds after which no further case is compiled")
    parser.add_argument("--rounds", type=int, default=5, help="dispatches that are timed")
    parser.add_argument("--largest", type=int, default=10**9, help="scores of one head of the largest case")
    parser.add_argument("--output", type=Path, default=Path("attention.json"))
    options = parser.parse_args()
    begun = time.monotonic()
    ways: tuple[Implementation, ...] = ("plain", "blocked", *KERNELS.get(jax.default_backend(), ()))
    cases = [case for case in _cases() if case.queries * case.keys <= options.largest]
    # All are compiled before one is measured: compilation takes the cores, and to choose among kernels the GPU too.
    with ThreadPoolExecutor() as pool:
        programs = [_Programs(case, options.batch, ways, pool) for case in cases]
        wait([future for each in programs for future in each.futures()], timeout=options.budget)
        pool.shutdown(cancel_futures=True)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {options.batch}")
    print(f"compiled in {time.monotonic() - begun:.0f} s")
    print("| case | chosen | " + " | ".join(f"{way}: ms, speed, error" for way in ways) + " |")
    rows = []
    for case, each in zip(cases, programs, strict=True):
        rows.append({**case._asdict(), **each.measure(options.rounds)})
        print(_line(case, rows[-1], ways), flush=True)
        _write(options.output, options.batch, rows)
    print(f"in a sharded loop: {_in_a_sharded_loop()}")
    print(f"{time.monotonic() - begun:.0f} s")


class _Programs:
    """The programs of one case, which are compiled in threads."""

    def __init__(self, case: Case, batch: int, ways: tuple[Implementation, ...], pool: ThreadPoolExecutor) -> None:
        self.case, self.batch = case, batch
        self.chosen = pool.submit(_chosen, case, batch)
        self.exact = pool.submit(_compile, _one_by_one, case._replace(dtype="float32"), batch)
        self.ways = {way: pool.submit(_compile_repeated, way, case, batch) for way in ways}

    def futures(self) -> list[Future[Any]]:
        """All that is being compiled."""
        return [self.chosen, self.exact, *self.ways.values()]

    def measure(self, rounds: int) -> dict[str, Any]:
        """Times and errors of each way; the reason where there is none."""
        found: dict[str, Any] = {"chosen": _or_reason(self.chosen.result)}
        arrays = _arrays(self.case, self.batch)
        exact = _or_reason(lambda: self.exact.result()(*(x.astype(jnp.float32) for x in arrays)))
        for way, program in self.ways.items():
            found[way] = _or_reason(functools.partial(_measure, program, arrays, exact, rounds))
        return found


def _measure(program: Future[Any], arrays: list[jax.Array], exact: Any, rounds: int) -> dict[str, Any]:
    run = program.result()
    ours = run(1, arrays)[1]
    if isinstance(exact, str):
        raise RuntimeError(exact)
    errors = [float(_error(a, b)) for a, b in zip(ours, exact, strict=True)]
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run(REPEATS, arrays))
        times.append((time.perf_counter() - start) / REPEATS * 1e3)
    spread = (min(times), max(times))
    names = ("result", "query", "key", "value")
    return {"ms": statistics.median(times), "spread": spread, "errors": dict(zip(names, errors, strict=True))}


def _error(ours: jax.Array, exact: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(ours.astype(jnp.float32) - exact)) / jnp.max(jnp.abs(exact))


def _by(way: Implementation | None) -> Callable[..., tuple[jax.Array, ...]]:
    """Result and gradients of its product with a slope."""

    def run(query: jax.Array, key: jax.Array, value: jax.Array, slope: jax.Array) -> tuple[jax.Array, ...]:
        out, back = jax.vjp(lambda *arrays: attention(*arrays, implementation=way), query, key, value)
        return out, *back(slope)

    return run


def _one_by_one(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The exact result, an example at a time, for the sake of memory."""

    def one(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        with jax.default_matmul_precision("highest"):
            return tuple(x[0] for x in _by("plain")(*(x[None] for x in arrays)))

    return jax.lax.map(one, arrays)


def _repeated(run: Callable[..., tuple[jax.Array, ...]]) -> Callable[..., Any]:
    """The same some times over, each depending on the one before: the arrays after that, and the last results."""

    def repeated(times: jax.Array, arrays: list[jax.Array]) -> Any:
        def body(_: Any, carry: Any) -> Any:
            (*inputs, slope), _ = carry
            results = run(*inputs, slope)
            moved = [x + x.dtype.type(1e-3) * dx for x, dx in zip(inputs, results[1:], strict=True)]
            return [*moved, slope], results

        query, key, value, _ = arrays
        nothing = tuple(jnp.zeros_like(x) for x in (query, query, key, value))
        return jax.lax.fori_loop(0, times, body, (arrays, nothing))

    return repeated


def _shapes(case: Case, batch: int) -> list[jax.ShapeDtypeStruct]:
    lengths = case.queries, case.keys, case.keys, case.queries
    return [jax.ShapeDtypeStruct((batch, n, case.heads, case.head), case.dtype) for n in lengths]


def _arrays(case: Case, batch: int) -> list[jax.Array]:
    """Query, key, value and the slope of the result."""
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, s.shape, s.dtype) for key, s in zip(keys, _shapes(case, batch), strict=True)]


def _compile(function: Callable[..., Any], case: Case, batch: int) -> Callable[..., Any]:
    return jax.jit(function).lower(*_shapes(case, batch)).compile()


def _compile_repeated(way: Implementation | None, case: Case, batch: int) -> Callable[..., Any]:
    return jax.jit(_repeated(_by(way))).lower(1, _shapes(case, batch)).compile()


def _chosen(case: Case, batch: int) -> str:
    """What the entry point takes by itself."""
    return _sort(jax.jit(_by(None)).lower(*_shapes(case, batch)).as_text())


def _sort(text: str) -> str:
    signs = {"cudnn": "__cudnn$", "flash": "tpu_custom_call", "blocked": "stablehlo.while"}
    return next((way for way, sign in signs.items() if sign in text), "plain")


def _in_a_sharded_loop() -> str:
    """What is chosen within a sharded loop, which the optimiser step is, and whether it runs."""
    case, spec = Case("sd-1.5", 1024, 1024, 8, 80), PartitionSpec("concepts")
    sharded = jax.shard_map(
        _repeated(_by(None)), mesh=make_mesh(1, 1), in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False
    )

    def run() -> str:
        lowered = jax.jit(sharded).lower(1, _shapes(case, 1))
        results = lowered.compile()(1, _arrays(case, 1))
        finite = all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(results))
        return f"{_sort(lowered.as_text())}, {'finite' if finite else 'NOT FINITE'}"

    return str(_or_reason(run))


def _or_reason(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (Exception, CancelledError) as reason:  # one way that fails must not cost the others their numbers
        return f"failed: {type(reason).__name__}: {str(reason)[:200]}"


def _line(case: Case, row: dict[str, Any], ways: tuple[Implementation, ...]) -> str:
    cells = []
    plain = row["plain"]["ms"] if isinstance(row["plain"], dict) else float("nan")
    for way in ways:
        found = row[way]
        if isinstance(found, str):
            cells.append(found.replace("\n", " "))
            continue
        cells.append(f"{found['ms']:.3f}, {plain / found['ms']:.2f}, {max(found['errors'].values()):.1e}")
    return f"| {case} | {row['chosen']} | {' | '.join(cells)} |"


def _write(path: Path, batch: int, rows: list[dict[str, Any]]) -> None:
    facts = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "batch": batch, "cases": rows}
    write_text(path, json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
