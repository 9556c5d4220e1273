"""The bundled fox on the bundled model: the main job with all that is usually left to defaults written out.

Command:   ti-jax invert bundled:fox --token "<fox>" --init fox --config configs/tiny_fox.py
Hardware:  any; a CPU with two cores will do.
Time:      not measured here.
Result:    runs/fox; its contact_sheet.png shows what the model draws for "fox" beside what it draws for "<fox>".
"""

from ti_jax.config import DataConfig, InversionConfig, OptimizerConfig


def get_config() -> InversionConfig:
    """The model's own defaults, which `ti_jax/bundled/tiny/inversion.json` keeps, and previews on the way."""
    return InversionConfig(
        steps=150,
        batch_size=4,
        save_every=50,
        data=DataConfig(prompts="model"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )
