"""What a diffusers `scheduler_config.json` may hold, whichever class wrote it, and what it means to each sampler."""

from __future__ import annotations

import math
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
    # The first versions wrote these: the one always empty, the other is called otherwise since.
    if options.get("timestep_values", 0) is None:
        del options["timestep_values"]
    if "timesteps" in options:
        options.setdefault("num_train_timesteps", options.pop("timesteps"))
    if "predict_epsilon" in options:
        options.setdefault("prediction_type", "epsilon" if options.pop("predict_epsilon") else "sample")
    unknown = sorted(options.keys() - _KEYS)
    if unknown:
        raise UserError(f"scheduler config: {', '.join(f'{key} = {options[key]!r}' for key in unknown)} is not known")
    return options


_IMPLEMENTED: dict[str, dict[str, Any]] = {
    "ddim": {
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "set_alpha_to_one": True,
        "clip_sample": True,
        "clip_sample_range": 1.0,
    },
    "ddpm": {
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "variance_type": "fixed_small",
    },
    "dpm++": {
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
        "lower_order_final": True,
        "euler_at_final": False,
    },
    "euler": {
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    },
    "euler_a": {"timestep_spacing": "linspace", "steps_offset": 0, "rescale_betas_zero_snr": False},
}
"""Options of diffusers' class for each sampler (DPMSolverMultistepScheduler for dpm++, EulerAncestralDiscreteScheduler
for euler_a), with that class's defaults."""

SAMPLERS = tuple(_IMPLEMENTED)

_OFF = (False, None)
_OTHER_SIGMAS = {"use_karras_sigmas": _OFF, "use_exponential_sigmas": _OFF, "use_beta_sigmas": _OFF}
_CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "ddim": {"thresholding": _OFF},
    "ddpm": {"thresholding": _OFF, "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large")},
    "dpm++": {
        **_OTHER_SIGMAS,
        "thresholding": _OFF,
        "use_lu_lambdas": _OFF,
        "use_flow_sigmas": _OFF,
        "lambda_min_clipped": (-math.inf,),
        "final_sigmas_type": ("zero", "sigma_min"),
        "solver_order": (2,),
        "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # those of DEIS and UniPC mean midpoint to this class
        "algorithm_type": ("dpmsolver++", "deis"),
    },
    "euler": {
        **_OTHER_SIGMAS,
        "interpolation_type": ("linear",),
        "timestep_type": ("discrete",),
        "final_sigmas_type": ("zero", "sigma_min"),
    },
    "euler_a": {},
}
"""What a sampler implements of options that have more values."""


def sampler_options(options: Mapping[str, Any], sampler: str) -> dict[str, Any]:
    """What a config's options mean to one sampler.

    Args:
        options: from `read_options`.
        sampler: one of `SAMPLERS`.

    Returns:
        every option that the sampler implements, by name; the default of diffusers' class for it where none is set.

    Raises:
        UserError: naming every option at a value that this sampler does not implement.
    """
    choices = {"timestep_spacing": ("leading", "trailing", "linspace"), **_CHOICES[sampler]}
    problems = [f"{key} = {options[key]!r}" for key in choices if key in options and options[key] not in choices[key]]
    if problems:
        raise UserError(
            f"the model's scheduler config has {', '.join(problems)}, which sampler {sampler!r} does not "
            "implement: choose another sampler"
        )
    return {key: options.get(key, default) for key, default in _IMPLEMENTED[sampler].items()}
