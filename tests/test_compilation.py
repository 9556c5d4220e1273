"""Options of the compiler, and the folder of compiled programs."""

import os
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from ti_jax import compilation

LOAD_AND_COMPILE = """
import jax, jax.numpy as jnp, ti_jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x + 1)(jnp.ones(3)).block_until_ready()  # before JAX knows of the folder
ti_jax.load("tiny")
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).block_until_ready()
print(jax.config.jax_compilation_cache_dir)
"""


def _run(home, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    return subprocess.run(
        [sys.executable, "-c", LOAD_AND_COMPILE],
        env={**clean, "XDG_CACHE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_compiled_programs_are_kept_for_the_next_process(tmp_path):
    folder = tmp_path / "ti_jax" / "compiled"
    assert _run(tmp_path) == str(folder)
    kept = {path.name for path in folder.glob("*-cache")}
    assert kept
    _run(tmp_path)
    assert {path.name for path in folder.glob("*-cache")} == kept


def test_the_users_own_folder_is_left_alone(tmp_path):
    own = str(tmp_path / "own")
    assert _run(tmp_path / "home", JAX_COMPILATION_CACHE_DIR=own) == own
    assert not (tmp_path / "home").exists()


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert _run(tmp_path / "file") == "None"


def test_options_of_the_cpu_replace_its_slow_convolutions():
    def convolution(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    arrays = jnp.ones((1, 16, 16, 64)), jnp.ones((3, 3, 64, 64))
    options = compilation.compiler_options("cpu")
    compiled = jax.jit(convolution, compiler_options=options).lower(*arrays).compile()
    assert re.search(r"= f32\S+ convolution\(", compiled.as_text())
    assert "ynn_fusion" not in compiled.as_text()


def test_other_platforms_have_no_options():
    assert compilation.compiler_options("tpu") is None
    assert compilation.compiler_options("gpu") is None


def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compilation, "_CPU_OPTIONS", {"xla_cpu_of_another_version": "1"})
    compilation.compiler_options.cache_clear()
    try:
        assert compilation.compiler_options("cpu") is None
    finally:
        compilation.compiler_options.cache_clear()


def test_jit_takes_what_that_of_jax_takes():
    scaled = compilation.jit(lambda x, *, by: x * len(by), static_argnames="by")
    assert scaled(jnp.float32(2.0), by="abc") == 6.0


@pytest.mark.parametrize(("least", "expected"), [(0.0, [0]), (1000.0, [])])
def test_memory_goes_back_after_long_compilations(monkeypatch, least, expected):
    asked, listeners = [], []
    monkeypatch.setattr(compilation.ctypes, "CDLL", lambda _: types.SimpleNamespace(malloc_trim=asked.append))
    monkeypatch.setattr(compilation.sys, "platform", "linux")
    monkeypatch.setattr(compilation, "_LONG", least)
    add = jax.monitoring.register_event_duration_secs_listener
    monkeypatch.setattr(jax.monitoring, add.__name__, lambda listener: listeners.append(listener) or add(listener))
    compilation.give_memory_back.__wrapped__()
    try:
        jax.jit(lambda x: x + least).lower(1.0).compile()
    finally:
        jax.monitoring.unregister_event_duration_listener(*listeners)
    assert asked == expected
