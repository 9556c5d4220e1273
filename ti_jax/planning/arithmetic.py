"""The arithmetic of a traced program: additions and multiplications of its matrix products and convolutions.

Counted before compilation, loop by loop, for the platform that is compiled for, since XLA counts the body of a loop
once and a library's or a hand-written kernel as nothing. What is not a product is left out: it is a few in a hundred,
and runs beside the matrix units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr


class Unknown(Exception):
    """A number that cannot be had."""


def count_flops(jaxpr: core.Jaxpr, platform: str) -> int:
    """Operations of a program run once.

    Args:
        jaxpr: traced.
        platform: that it is compiled for, `tpu` or `cuda`: which ways are taken where the program has several.

    Returns:
        two for each multiplication and addition.

    Raises:
        Unknown: if there is a loop of unknown length with products in it.
    """
    # What nobody reads is not compiled.
    return _count_all(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0], platform)


def _count_all(jaxpr: core.Jaxpr, platform: str) -> int:
    return sum(_count(equation, platform) for equation in jaxpr.eqns)


def attention_flops(batch: int, heads: int, queries: int, keys: int, head_dim: int, *, backward: bool = False) -> int:
    """Operations of an attention kernel that never keeps the matrix of scores (FlashAttention, arXiv 2205.14135).

    Args:
        batch: examples.
        heads: of each.
        queries: of each head.
        keys: of each head.
        head_dim: width of a query.
        backward: whether it is the derivative, which computes the scores anew and has four products of its own.

    Returns:
        those of two products forward, of five backward.
    """
    return (5 if backward else 2) * 2 * batch * heads * queries * keys * head_dim


def find_scope(jaxpr: core.Jaxpr, scope: str) -> core.Jaxpr:
    """The branch of a condition that is a named scope, wherever it is.

    Args:
        jaxpr: of a whole program.
        scope: given to `jax.named_scope` around all that the branch does.

    Returns:
        the branch.
    """
    found = next(_branches(jaxpr, scope), None)
    assert found is not None, scope
    return found


def _branches(jaxpr: core.Jaxpr, scope: str) -> Iterator[core.Jaxpr]:
    for equation in jaxpr.eqns:
        for inner in _inner(equation):
            if equation.primitive.name == "cond" and any(scope in str(e.source_info.name_stack) for e in inner.eqns):
                yield inner
            yield from _branches(inner, scope)


def _inner(equation: Any) -> list[core.Jaxpr]:
    """Programs within a step of one."""
    values = [v for value in equation.params.values() for v in (value if isinstance(value, tuple | list) else [value])]
    opened = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in opened if hasattr(value, "eqns")]


def _count(equation: Any, platform: str) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        ((contracting, _), _) = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracting)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name.startswith("dot_product_attention_"):  # cuDNN's
        (batch, queries, heads, head_dim), (_, keys, *_) = (equation.invars[i].aval.shape for i in (0, 1))
        return attention_flops(batch, heads, queries, keys, head_dim, backward="bwd" in name)
    inner = [_count_all(program, platform) for program in _inner(equation)]
    if name == "cond":
        chosen = params.get("branches_platforms")
        return max(inner) if chosen is None else inner[_choice(chosen, platform)]
    if name == "scan":
        return params["length"] * inner[0]
    if name == "while" and any(inner):
        raise Unknown(f"a loop of unknown length in {equation.source_info.name_stack}")
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * sum(inner)
    return sum(inner)


def _choice(branches: Sequence[Sequence[str] | None], platform: str) -> int:
    """The branch of a platform; None holds the rest."""
    return next(i for i, names in enumerate(branches) if names is None or platform in names)


def _convolution(equation: Any) -> int:
    """Products that are not with padding, nor with the zeros between dilated values."""
    params, (picture, kernel) = equation.params, (v.aval.shape for v in equation.invars)
    numbers, out = params["dimension_numbers"], equation.outvars[0].aval.shape
    pairs = 1
    for i, (axis, kernel_axis, out_axis) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        taps = np.arange(kernel[kernel_axis]) * params["rhs_dilation"][i]
        seen = np.arange(out[out_axis])[:, None] * params["window_strides"][i] + taps - params["padding"][i][0]
        dilation = params["lhs_dilation"][i]
        pairs *= int(np.sum((seen >= 0) & (seen % dilation == 0) & (seen // dilation < picture[axis])))
    batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    return 2 * pairs * batch * features * kernel[numbers.rhs_spec[1]]
