"""Tensors of a checkpoint into the parameters of a network, strictly, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ti_jax.errors import UserError
from ti_jax.weights.rules import Rules, Transform, is_ignored, our_shape, parameters_of, tensor_of, to_ours, to_theirs

Model = TypeVar("Model", bound=nnx.Module)


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor in a file, of known shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        ...

    def read(self) -> np.ndarray:
        """Its values, read now."""
        ...


def abstract_network(build: Callable[..., Model]) -> Model:
    """A network whose leaves are shapes and types: what `load_parameters` fills.

    Args:
        build: makes the network, given `rngs`.

    Returns:
        the network; as from `nnx.eval_shape`, several times faster.
    """
    return jax.eval_shape(lambda: build(rngs=_OneKey()))


class _OneKey(nnx.Rngs):
    """Gives the same key always: where parameters have no values, to trace the drawing of keys only takes time."""

    def __init__(self) -> None:
        super().__init__()
        self._key = jax.random.key(0)

    def params(self) -> jax.Array:
        """The key."""
        return self._key


def load_parameters(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    rules: Rules,
    *,
    param_dtype: DTypeLike,
    kernel_dtype: DTypeLike | None = None,
    what: str = "the network",
) -> Model:
    """A network with the parameters of a checkpoint.

    Args:
        model: from `abstract_network`.
        tensors: by name; each is read, put on the device in its final type, and let go before the next.
        rules: names of the network's parameters.
        param_dtype: of the parameters.
        kernel_dtype: of the kernels of linear layers and convolutions, if it is another.
        what: names the network in messages.

    Returns:
        the network, its leaves on the default device.

    Raises:
        UserError: unless every tensor is used or ignored, every parameter filled and every shape equal; it names all
            that is wrong at once. Or if a tensor holds other things than real numbers.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(model)
    shapes = {parameter_name(path): leaf.shape for path, leaf in paths}
    plan, problems = _plan(shapes, tensors, rules)
    if problems:
        shown = "\n  ".join(problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else []))
        raise UserError(f"the checkpoint does not fit {what} ({len(problems)} problems):\n  {shown}")
    leaves = []
    for name in shapes:
        source, transform = plan[name]
        values = to_ours(transform, _real_numbers(tensors[source], f"{what}: {source}"))
        dtype = kernel_dtype if kernel_dtype is not None and name.endswith(".kernel") else param_dtype
        leaves.append(jax.device_put(values.astype(dtype, order="C")))
        del values  # before the next is read
    return jax.tree_util.tree_unflatten(structure, leaves)


def _real_numbers(tensor: LazyTensor, what: str) -> np.ndarray:
    values = tensor.read()
    if not jnp.issubdtype(values.dtype, np.floating):
        raise UserError(f"the checkpoint does not fit {what} holds {values.dtype}")
    return values


def _plan(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, LazyTensor], rules: Rules
) -> tuple[dict[str, tuple[str, Transform]], list[str]]:
    """Which tensor fills which parameter, and everything that does not fit."""
    plan: dict[str, tuple[str, Transform]] = {}
    problems: list[str] = []
    for source, tensor in tensors.items():
        found = parameters_of(rules, source, len(tensor.shape))
        fitting = [target for target in found if target[0] in shapes]
        if not fitting and is_ignored(rules, source):
            continue
        if len(fitting) != 1:
            reason = "no parameter" if not fitting else f"several parameters ({', '.join(n for n, _ in fitting)})"
            problems.append(f"{source} {list(tensor.shape)} fits {reason}")
            continue
        (name, transform) = fitting[0]
        given, wanted = our_shape(transform, tuple(tensor.shape)), shapes[name]
        if name in plan:
            problems.append(f"{source} and {plan[name][0]} are the same parameter")
        elif given != wanted:
            problems.append(f"{source} has shape {list(tensor.shape)}, which makes {list(given)}, not {list(wanted)}")
        plan[name] = (source, transform)
    problems += [f"{name} {list(shape)} is missing" for name, shape in shapes.items() if name not in plan]
    return plan, problems


def export_parameters(model: nnx.Module, rules: Rules) -> dict[str, np.ndarray]:
    """The parameters of a network under the names and in the layouts of a checkpoint: what `load_parameters` reads.

    Args:
        model: with its parameters.
        rules: names of the network's parameters.

    Returns:
        host arrays by name.
    """
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        name, transform = tensor_of(rules, parameter_name(path), leaf.ndim)
        tensors[name] = np.asarray(to_theirs(transform, np.asarray(leaf)), order="C")
    return tensors


def parameter_name(path: jax.tree_util.KeyPath) -> str:
    """A parameter's name, such as `down_blocks.0.resnets.0.conv1.kernel`, from its path in the pytree."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
