"""`python -m ti_jax.cli`."""

from ti_jax.cli import main

main()
