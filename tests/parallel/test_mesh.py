"""Slots over eight devices: the same vectors, and no word between them that is not asked for.

The devices are simulated on the CPU, in a process of their own, since their number is fixed when jax starts.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import re, sys
import jax, numpy as np
from ti_jax.config import ConceptSpec, InversionConfig, InversionDefaults, OptimizerConfig, with_model_defaults
from ti_jax.inversion.bounds import Bounds
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.prepare import prepare
from ti_jax.parallel.mesh import make_mesh
import ti_jax

COLLECTIVES = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
pipeline, steps = ti_jax.load(sys.argv[1]), int(sys.argv[2])
# Adam's own epsilon is so small that a gradient of another scale moves the vectors all the same.
config = with_model_defaults(
    InversionConfig(
        steps=steps,
        batch_size=4,
        evaluate_every=steps,
        fixed_set_size=2,
        optimizer=OptimizerConfig(epsilon=1e-2),
    ),
    InversionDefaults(),
)
rng = np.random.default_rng(0)
concepts = [
    prepare(
        pipeline, ConceptSpec(f"c{i}", f"<c{i}>", "cat", [rng.integers(0, 256, (32, 32, 3), np.uint8)] * 2), config
    )
    for i in range(2)
]
bounds = Bounds.of(concepts[0])


def learn(slots, places, mesh):
    engine = Engine(pipeline, config, slots, bounds, mesh)
    for place, concept in zip(places, concepts):
        engine.put(place, concept)
    inputs, state = engine._arrays
    engine._run_chunk = engine._run_chunk.lower(*engine._frozen, state, inputs, jax.numpy.int32(steps)).compile()
    program = engine._run_chunk.as_text()
    losses = engine.advance(steps).log.loss[:steps, list(places)]
    assert np.isfinite(losses).all(), losses
    vectors = [engine.read(place, 1).vectors["text_encoder"] for place in places]
    moved = [np.abs(v - c.vectors["text_encoder"]).max() for v, c in zip(vectors, concepts)]
    assert min(moved) > 1e-3, moved
    return [*vectors, losses], re.findall(rf"({COLLECTIVES})[\\w-]*\\(", program)


def close(ones, others):
    for one, other in zip(ones, others):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


assert len(jax.devices()) == 8
alone, none = learn(2, (0, 1), make_mesh(2, 4, jax.devices()[:1]))
assert not none, none
by_concept, none = learn(8, (6, 1), make_mesh(8, 4))
assert not none, none
close(by_concept, alone)
mesh = make_mesh(2, 4)
assert dict(mesh.shape) == {"concepts": 2, "data": 4}
by_example, some = learn(2, (1, 0), mesh)
assert set(some) == {"all-reduce"} and len(some) <= 2, some  # loss and gradient, maybe as one
close(by_example, alone)
"""


@pytest.mark.parametrize("steps", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_eight_devices(sd2_twin, steps):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", SCRIPT, sd2_twin[1].source, str(steps)]
    subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, check=True)


@pytest.mark.parametrize(
    ("slots", "batch", "devices", "shape"),
    [(1, 4, 8, (1, 4)), (8, 4, 8, (8, 1)), (16, 4, 8, (8, 1)), (6, 4, 8, (6, 1)), (3, 4, 8, (3, 2)), (1, 1, 1, (1, 1))],
)
def test_shapes(slots, batch, devices, shape):
    """By arithmetic alone: any objects will do for devices."""
    from ti_jax.parallel.mesh import make_mesh

    mesh = make_mesh(slots, batch, [_Device(i) for i in range(devices)])
    assert (mesh.shape["concepts"], mesh.shape["data"]) == shape


class _Device:
    def __init__(self, index):
        self.id = index
        self.platform = self.device_kind = "test"
        self.process_index = 0
