"""Attention by cuDNN, where the card, its library and the shape allow it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

logger = logging.getLogger(__name__)

Capability = tuple[int, int]

_absent_card: Capability | None = None  # that `planned_for` compiles for


def cudnn(
    query: Float[Array, "b q heads d"], key: Float[Array, "b k heads d"], value: Float[Array, "b k heads d"]
) -> Float[Array, "b q heads d"]:
    """Fused attention in float16 or bfloat16, with a fused backward pass that computes the scores again."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def takes(query: Float[Array, "b q heads d"], key: Float[Array, "b k heads d"]) -> bool:
    """Whether cuDNN does this, forward and backward, on this process's GPU or on the one that is planned for."""
    head = query.shape[-1]
    if query.dtype not in (jnp.bfloat16, jnp.float16) or head % 8 or head > 256:
        return False
    if query.shape[1] % 2 or key.shape[1] % 2:  # JAX 0.10 refuses to differentiate these
        return False
    card = _absent_card or _present_card()
    if card is None or card < ((8, 0) if head <= 128 else (9, 0)):
        return False
    return _absent_card is not None or _compiles((1, *query.shape[1:]), (1, *key.shape[1:]), query.dtype)


@contextlib.contextmanager
def planned_for(capability: Capability) -> Iterator[None]:
    """What is traced meanwhile is for a card that is not here: what JAX asks of the card and of cuDNN has an answer.

    Args:
        capability: of the card.
    """
    global _absent_card
    module: Any = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    answers = {
        "check_cudnn_version": lambda: 91000,
        "check_compute_capability": lambda least: capability >= tuple(int(part) for part in least.split(".")),
    }
    before = {name: getattr(module, name) for name in answers}
    outer, _absent_card = _absent_card, capability
    vars(module).update(answers)
    try:
        yield
    finally:
        vars(module).update(before)
        _absent_card = outer


@functools.cache
def _present_card() -> Capability | None:
    try:
        major, minor = jax.local_devices(backend="cuda")[0].compute_capability.split(".")
    except RuntimeError:  # no such backend
        return None
    return int(major), int(minor)


@functools.cache
def _compiles(query: tuple[int, ...], key: tuple[int, ...], dtype: Any) -> bool:
    """Tried, since what a version of cuDNN can do is written down nowhere that a program could ask."""
    # In a thread of its own: here a trace may be under way, whose mesh is not that of the trial.
    with ThreadPoolExecutor(1) as pool:
        reason = pool.submit(_try, query, key, dtype).exception()
    if reason is not None:
        logger.info("cuDNN does not take attention of %s to %s in %s: %s", query, key, dtype, reason)
    return reason is None


def _try(query: tuple[int, ...], key: tuple[int, ...], dtype: Any) -> None:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cuda")[0])
    shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=here) for shape in (query, key, key)]

    def total(*arrays: Array) -> Array:
        return jnp.sum(cudnn(*arrays), dtype=jnp.float32)

    jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*shapes).compile()
