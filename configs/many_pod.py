r"""A catalogue of hundreds of concepts on Stable Diffusion 1.5 and the hosts of a TPU slice, which may be taken away.

Command:   scripts/tpu_vm/supervise.sh pod --zone us-west4-a --type v5litepod-32 --version v2-alpha-tpuv5-lite --spot \
               -- invert-many gs://BUCKET/catalogue.yaml --config configs/many_pod.py --slots 16 --distributed \
               --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output gs://BUCKET/runs
           The same on four GPU machines with a common folder, on each of them (I from 0 to 3):
           ti-jax invert-many catalogue.yaml --config configs/many_pod.py --slots 16 --host I --hosts 4 \
               --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output /common/runs
Hardware:  a slice of any number of hosts: each learns its own share over its own devices.
Time:      not measured here.
Result:    gs://BUCKET/runs/NAME/ for each concept, and results.jsonl; a slice that is lost is made anew.
"""

from ti_jax.config import BoundsConfig, DataConfig, InversionConfig, OptimizerConfig, StoppingConfig


def get_config() -> InversionConfig:
    """One small batch a concept, many concepts a chip; concepts that have settled make room for the next.

    The bounds are written out so that no folder has to be listed before the first step: five pictures and the 27
    templates for objects. A concept that has more of something fails alone.
    """
    return InversionConfig(
        steps=3000,
        batch_size=1,
        gradient_accumulation=4,
        num_vectors=1,
        evaluate_every=50,
        checkpoint_every=100,
        data=DataConfig(resolution=512, prompts="object"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        stopping=StoppingConfig(rule="dvar"),
        bounds=BoundsConfig(pictures=5, prompts=27, vectors=1),
    )
