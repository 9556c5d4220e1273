"""Textual Inversion in JAX and Flax.

A name of the public API is imported when it is first used, so that `import ti_jax` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ti_jax.concepts.concept import Concept
    from ti_jax.config import ConceptSpec, InversionConfig
    from ti_jax.errors import UserError
    from ti_jax.evaluation.clip import load_clip
    from ti_jax.evaluation.evaluate import Evaluation, evaluate
    from ti_jax.generation import generate
    from ti_jax.inversion.invert import invert
    from ti_jax.inversion.invert_many import invert_many
    from ti_jax.inversion.loss import denoising_loss
    from ti_jax.pipeline import Pipeline, load

__all__ = [
    "Concept",
    "ConceptSpec",
    "Evaluation",
    "InversionConfig",
    "Pipeline",
    "UserError",
    "denoising_loss",
    "evaluate",
    "generate",
    "invert",
    "invert_many",
    "load",
    "load_clip",
]
__version__ = "0.1.0"

_MODULES = {
    "Concept": "ti_jax.concepts.concept",
    "ConceptSpec": "ti_jax.config",
    "Evaluation": "ti_jax.evaluation.evaluate",
    "InversionConfig": "ti_jax.config",
    "Pipeline": "ti_jax.pipeline",
    "UserError": "ti_jax.errors",
    "denoising_loss": "ti_jax.inversion.loss",
    "evaluate": "ti_jax.evaluation.evaluate",
    "generate": "ti_jax.generation",
    "invert": "ti_jax.inversion.invert",
    "invert_many": "ti_jax.inversion.invert_many",
    "load": "ti_jax.pipeline",
    "load_clip": "ti_jax.evaluation.clip",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ti_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
