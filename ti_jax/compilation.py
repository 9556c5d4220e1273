"""How programs are compiled: where XLA does better when told, and where compiled programs are kept."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

logger = logging.getLogger(__name__)

_CPU_OPTIONS = {
    # XLA's default takes YNNPACK's convolutions too, which are 1.5 to 3 times slower than Eigen's at these shapes.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    # It ends what keeps `jax.checkpoint` from being undone: what is computed again would be kept after all.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
_CACHE_BYTES = 4 * 2**30
_LONG = 10.0  # seconds of a compilation


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with `compiler_options` of the default backend, which is asked for at the first call.

    Args:
        function: that no other jitted function calls: inner programs take no options of their own.
        options: of `jax.jit`.

    Returns:
        the compiled function.
    """

    @functools.cache
    def jitted() -> Callable[..., Any]:
        return jax.jit(function, compiler_options=compiler_options(jax.default_backend()), **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return jitted()(*args, **kwargs)

    return call


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """Options for `jax.jit` with which the networks are fastest.

    Args:
        platform: that is compiled for, such as cpu or tpu.

    Returns:
        the options, or None where the defaults are best, or where this version of XLA does not know them.
    """
    if platform != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS)()
    except jax.errors.JaxRuntimeError:
        logger.debug("this version of XLA does not know %s", _CPU_OPTIONS)
        return None
    return _CPU_OPTIONS


def keep_compiled_programs() -> None:
    """Keeps compiled programs in the user's cache folder, from where later processes take them.

    JAX's own settings are left as they are: `JAX_COMPILATION_CACHE_DIR` names another folder, and
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ti_jax" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # the latter for a user without a home
        logger.debug("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)


@functools.cache
def give_memory_back() -> None:
    """From now on, what a long compilation has freed goes back to the system at its end.

    glibc would keep it for as long as the process lives. Other C libraries are left alone.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > _LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
