r"""Eight concepts at a time on Stable Diffusion 1.5, one on each chip of a TPU v5e-8; `things/` has a folder for each.

Command:   ti-jax invert-many things/ --config configs/sd15_v5e_8.py --slots 8 \
               --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output gs://BUCKET/things
           From your own machine, on a VM that it creates, with the pictures in the bucket (docs/tpu.md):
           scripts/tpu_vm/supervise.sh things --zone us-west4-a --type v5litepod-8 --version v2-alpha-tpuv5-lite \
               --spot -- invert-many gs://BUCKET/pictures --config configs/sd15_v5e_8.py --slots 8 \
               --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output gs://BUCKET/things
Hardware:  TPU v5e-8, a single VM; any machine with eight devices.
Time:      not measured here.
Result:    gs://BUCKET/things/NAME/ for each, and results.jsonl with a line for each. `ti-jax invert` with the same file
           learns one concept with its batch of 8 divided over the chips.
"""

from ti_jax.config import DataConfig, InversionConfig, OptimizerConfig


def get_config() -> InversionConfig:
    """The paper's rate, not scaled, and its templates; a batch that eight chips divide evenly between them."""
    return InversionConfig(
        steps=2000,
        batch_size=8,
        evaluate_every=50,
        checkpoint_every=250,
        data=DataConfig(resolution=512, prompts="object"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
    )
