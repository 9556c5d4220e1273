"""What a diffusers `scheduler_config.json` may hold, whichever class wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ti_jax.errors import UserError

_CLASSES = {
    *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete", "EulerDiscrete"),
    *("EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep"),
    *("DPMSolverSinglestep", "DPMSolverSDE", "DEISMultistep", "UniPCMultistep", "LCM", "TCD"),
}
"""Schedulers that add noise by a table of betas, so that a config of one means something to another."""

_KEYS = {
    # the forward process
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one"),
    # what is done to a prediction
    *("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
    *("variance_type", "lambda_min_clipped"),
    # the levels of noise
    *("final_sigmas_type", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("use_flow_sigmas", "flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal"),
    *("interpolation_type", "timestep_type", "sigma_min", "sigma_max"),
    # the solver
    *("solver_order", "solver_type", "algorithm_type", "lower_order_final", "euler_at_final", "skip_prk_steps"),
    *("predict_x0", "disable_corrector", "solver_p", "original_inference_steps", "timestep_scaling"),
    *("noise_sampler_seed", "tensor_format"),
}
"""Keys of these classes. A key that belongs to another class than the one in use is carried along and ignored."""


def read_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options a scheduler config sets, as diffusers' `Scheduler.from_config` carries them to another class.

    Args:
        config: the JSON object. Keys beginning with `_` are ignored, and so are keys that `_use_default_values` lists:
            those were the writer's defaults, and each class has its own.

    Returns:
        the options by name, lists as tuples.

    Raises:
        UserError: naming the class or every key that is not known.
    """
    name = str(config.get("_class_name", "DDIMScheduler"))
    if name.removesuffix("Scheduler") not in _CLASSES:
        raise UserError(f"scheduler config: _class_name = {name!r} is not supported; DDIMScheduler, for one, is")
    defaulted = {*config.get("_use_default_values", ()), "_use_default_values"}
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
        if not key.startswith("_") and key not in defaulted
    }
    unknown = sorted(options.keys() - _KEYS)
    if unknown:
        raise UserError(f"scheduler config: {', '.join(f'{key} = {options[key]!r}' for key in unknown)} is not known")
    return options
