"""The device never waits: a chunk of steps is one dispatch that says nothing to the host, in place."""

import gzip
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import ti_jax
from ti_jax.config import ConceptSpec, InversionConfig, InversionDefaults, with_model_defaults
from ti_jax.inversion.bounds import Bounds
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.prepare import prepare
from ti_jax.inversion.step import chunk_program

CONFIG = InversionConfig(steps=12, batch_size=2, evaluate_every=4, fixed_set_size=4, profile=True, preview_prompts=())
TO_THE_HOST = {"pure_callback", "io_callback", "debug_callback", "debug_print", "infeed", "outfeed"}


@pytest.fixture(scope="module")
def engine(sd1_twin):
    """With a concept in its slot."""
    config = with_model_defaults(CONFIG, InversionDefaults())
    concept = prepare(sd1_twin[1], ConceptSpec("fox", "<fox>", "cat", "bundled:fox"), config)
    engine = Engine(sd1_twin[1], config, 1, Bounds.of(concept))
    engine.put(0, concept)
    return engine


def _primitives(jaxpr):
    """Names of all primitives, those within loops, branches and calls included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from _primitives(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def test_a_chunk_says_nothing_to_the_host(engine):
    inputs, state = engine._arrays
    names = set(_primitives(engine._run_chunk.trace(*engine._frozen, state, inputs, np.int32(1)).jaxpr.jaxpr))
    assert {"while", "scan", "dot_general"} <= names  # it was walked to the bottom
    assert not names & TO_THE_HOST
    assert not any("callback" in name for name in names)


def test_what_is_computed_again(engine):
    """`remat` comes down to the networks; the step of `engine` keeps everything."""
    inputs, state = engine._arrays

    def names(config):
        chunk = chunk_program(config, engine.mesh)
        return set(_primitives(chunk.trace(*engine._frozen, state, inputs, np.int32(1)).jaxpr.jaxpr))

    (again,) = names(replace(engine.config, remat="blocks")) - names(engine.config)
    assert again in ("checkpoint", "remat2")  # as versions of JAX call it


def test_a_chunk_writes_the_slots_state_where_it_was(engine):
    before = jax.tree.leaves(engine._arrays[1])
    engine.advance(1)
    assert all(leaf.is_deleted() for leaf in before)  # given away to the program


def test_a_recorded_chunk_is_one_dispatch(sd1_twin, tmp_path):
    ti_jax.invert(
        sd1_twin[1], "bundled:fox", placeholder="<fox>", initializer="cat", config=CONFIG, output=tmp_path / "fox"
    )
    (planes,) = (tmp_path / "fox/profile").rglob("*.xplane.pb")
    assert planes.stat().st_size > 0
    (file,) = (tmp_path / "fox/profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    called = sorted((e["ts"], e["dur"], e["name"]) for e in events if e.get("name", "").startswith("PjitFunction"))
    # One call shows as two, the one inside of the other.
    outermost = [name for i, (start, _, name) in enumerate(called) if all(start > t + d for t, d, _ in called[:i])]
    assert outermost == ["PjitFunction(_chunk)"]
