"""Every bundled set of pictures at once on the bundled model: what `invert-many` does, in minutes on a CPU.

Command:   ti-jax invert-many ti_jax/bundled/concepts --config configs/tiny_many.py --slots 4 --output runs/tiny_many
Hardware:  any; a CPU with two cores will do.
Time:      not measured here.
Result:    runs/tiny_many/NAME/ for each concept, and results.jsonl with a line for each.
"""

from ti_jax.config import DataConfig, InversionConfig, OptimizerConfig


def get_config() -> InversionConfig:
    """The bundled model's own defaults."""
    return InversionConfig(
        steps=150,
        batch_size=4,
        data=DataConfig(prompts="model"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )
