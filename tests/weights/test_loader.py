"""The strict loader on a small network: exact round trips, and every misfit named."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ti_jax.errors import UserError
from ti_jax.weights import rules
from ti_jax.weights.loader import abstract_network, export_parameters, load_parameters
from ti_jax.weights.rules import Rule, Rules


class Block(nnx.Module):
    """One parameter of each layout."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv_in = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(3, rngs=rngs)])
        self.proj = nnx.Linear(3, 5, rngs=rngs)


class Held:
    """A tensor in memory."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def read(self):
        return self.values


@pytest.fixture
def tensors():
    shapes = {
        "conv_in.weight": (3, 2, 3, 3),
        "conv_in.bias": (3,),
        "norms.0.weight": (3,),
        "norms.0.bias": (3,),
        "proj.weight": (5, 3),
        "proj.bias": (5,),
    }
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def load(tensors, table=rules.UNET, dtype="float32"):
    held = {name: Held(values) for name, values in tensors.items()}
    return load_parameters(abstract_network(Block), held, table, param_dtype=dtype)


def test_layouts(tensors):
    block = load(tensors)
    np.testing.assert_array_equal(block.conv_in.kernel[...], tensors["conv_in.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(block.proj.kernel[...], tensors["proj.weight"].T)
    np.testing.assert_array_equal(block.norms[0].scale[...], tensors["norms.0.weight"])
    assert block.proj(jnp.ones((1, 3))).shape == (1, 5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trip_is_exact(tensors, dtype):
    tensors = {name: values.astype(jnp.dtype(dtype)) for name, values in tensors.items()}
    exported = export_parameters(load(tensors, dtype=dtype), rules.UNET)
    assert exported.keys() == tensors.keys()
    for name, values in tensors.items():
        assert exported[name].dtype == values.dtype
        np.testing.assert_array_equal(exported[name], values)


def test_the_network_shares_no_memory_with_what_was_read(tensors):
    block = load(tensors)
    before = np.array(block.conv_in.bias[...])
    tensors["conv_in.bias"][:] = 0
    np.testing.assert_array_equal(block.conv_in.bias[...], before)


def test_abstract_network_is_that_of_eval_shape():
    ours, theirs = abstract_network(Block), nnx.eval_shape(lambda: Block(rngs=nnx.Rngs(0)))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert jax.tree.leaves(ours) == jax.tree.leaves(theirs)


def test_one_tensor_at_a_time(tensors):
    alive = []

    class Watched(Held):
        def read(self):
            assert not [tensor for tensor in alive if tensor() is not None]
            values = self.values.copy()
            alive.append(weakref.ref(values))
            return values

    watched = {name: Watched(values) for name, values in tensors.items()}
    load_parameters(abstract_network(Block), watched, rules.UNET, param_dtype="float32")
    assert len(alive) == len(tensors)


def test_everything_wrong_is_said_at_once(tensors):
    del tensors["norms.0.bias"], tensors["proj.weight"]
    tensors["proj.bias"] = tensors["proj.bias"][:4]
    tensors["conv_in.lora"] = np.zeros((3, 2, 1, 1), np.float32)
    tensors["norms.0.weight"] = np.zeros((3, 3), np.float32)
    with pytest.raises(UserError) as caught:
        load(tensors)
    assert str(caught.value).splitlines() == [
        "the checkpoint does not fit the network (6 problems):",
        "  norms.0.weight [3, 3] fits no parameter",
        "  proj.bias has shape [4], which makes [4], not [5]",
        "  conv_in.lora [3, 2, 1, 1] fits no parameter",
        "  norms.0.bias [3] is missing",
        "  norms.0.scale [3] is missing",
        "  proj.kernel [3, 5] is missing",
    ]


def test_a_wrong_file_gives_a_short_message(tensors):
    tensors.update({f"other.{i}": np.zeros(1, np.float32) for i in range(50)})
    with pytest.raises(UserError, match=r"\(50 problems\)(?s:.*)and 30 more$"):
        load(tensors)


def test_two_rules_for_one_tensor(tensors):
    table = Rules((*rules.UNET.rules, Rule("bias", "scale", where="norms.0")))
    with pytest.raises(UserError, match=r"norms\.0\.bias \[3\] fits several parameters"):
        load(tensors, table)


def test_two_tensors_for_one_parameter(tensors):
    table = Rules(rules.UNET.rules, old_names=((r"^input\.", "conv_in."),))
    tensors["input.bias"] = tensors["conv_in.bias"]
    with pytest.raises(UserError, match=r"input\.bias and conv_in\.bias are the same parameter"):
        load(tensors, table)


def test_ignored_names_that_fit(tensors):
    block = load(tensors, Rules(rules.UNET.rules, ignore=(r"norms\.0\.bias",)))
    np.testing.assert_array_equal(block.norms[0].bias[...], tensors["norms.0.bias"])


def test_ignored_names(tensors):
    tensors["position_ids"] = np.arange(4)[None]
    load(tensors, Rules(rules.UNET.rules, ignore=("position_ids",)))
