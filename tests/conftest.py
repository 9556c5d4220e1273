"""Every test runs under the strictest settings the library promises to work with."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes are checked in the tests only: a user never pays for it.
install_import_hook("ti_jax", "beartype.beartype")


@pytest.fixture(autouse=True, scope="session")
def strict_jax():
    """No silent change of dtype or rank."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
