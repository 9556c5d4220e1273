"""Gradients through networks in float16: what is small there must not be lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import ti_jax
from ti_jax.config import ConceptSpec, DataConfig, InversionConfig, InversionDefaults, with_model_defaults
from ti_jax.inversion import step
from ti_jax.inversion.objective import loss_scale
from ti_jax.inversion.prepare import prepare
from ti_jax.inversion.slots import initial_state
from ti_jax.parallel.mesh import make_mesh

SIDE = 256  # of pictures: the larger they are, the smaller is the slope of their mean
CONFIG = with_model_defaults(InversionConfig(batch_size=1, data=DataConfig(resolution=SIDE)), InversionDefaults())


def _gradient(source, dtype):
    """Of one slot's first step, by its vector."""
    pipeline = ti_jax.load(source, dtype=dtype)
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    prepared = prepare(pipeline, ConceptSpec("fox", "<fox>", "cat", [pixels]), CONFIG)
    state = initial_state({name: vectors[None] for name, vectors in prepared.vectors.items()}, CONFIG)
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], prepared.inputs)

    def run(*arrays):
        return step._gradients(*arrays, CONFIG, 1)[1]["text_encoder"]

    spec = PartitionSpec()
    sharded = jax.shard_map(run, mesh=make_mesh(1, 1), in_specs=spec, out_specs=spec, check_vma=False)
    return np.asarray(jax.jit(sharded)(pipeline.networks, pipeline.schedule, state, inputs))


@pytest.mark.slow
def test_float16_keeps_what_is_small(sd1_twin, monkeypatch):
    exact, scaled = (_gradient(sd1_twin[1].source, dtype) for dtype in ("float32", "float16"))
    monkeypatch.setattr(step, "loss_scale", lambda unet, latents: 1.0)
    unscaled = _gradient(sd1_twin[1].source, "float16")
    errors = [np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (scaled, unscaled)]
    assert errors[0] < 4 * np.finfo(np.float16).eps
    assert errors[1] > 4 * errors[0]


@pytest.mark.parametrize(("dtype", "scale"), [("float16", 2.0**14), ("bfloat16", 1.0), ("float32", 1.0)])
def test_only_float16_is_scaled(dtype, scale):
    class Network:
        pass

    network = Network()
    network.dtype = jnp.dtype(dtype)
    assert loss_scale(network, (64, 64, 4)) == scale
    assert np.log2(loss_scale(network, (96, 96, 4))) % 1 == 0
