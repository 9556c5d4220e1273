r"""An object on Stable Diffusion 1.5 and one GPU, from three to five photographs in `photos/`.

Command:   ti-jax invert photos/ --token "<mug>" --init mug --config configs/sd15_one_gpu.py \
               --model stable-diffusion-v1-5/stable-diffusion-v1-5
Hardware:  one GPU, or one TPU chip; docs/plan.md says how to find out what fits.
Time:      not measured here.
Result:    not measured here. runs/mug/contact_sheet.png is to show the mug in new scenes; if prompts lose their say as
           the steps go by, take an earlier learned_embeds-steps-N.safetensors.
"""

from ti_jax.config import DataConfig, InversionConfig, OptimizerConfig


def get_config() -> InversionConfig:
    """The paper's rate, not scaled, and its templates for objects; steps and batch (4) of diffusers' example."""
    return InversionConfig(
        steps=3000,
        batch_size=4,
        num_vectors=1,
        checkpoint_every=250,
        save_every=500,
        preview_prompts=("a photo of {}", "a photo of {} on the moon", "an oil painting of {}"),
        data=DataConfig(resolution=512, prompts="object"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
    )
