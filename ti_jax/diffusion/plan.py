"""DDIM, DDPM, DPM-Solver++(2M), Euler and Euler ancestral as tables of coefficients.

All five are linear in what they see. With x the latents, x0 the picture predicted from them and z fresh noise, each
step makes

    from_latents x + from_prediction x0 + from_clipped clip(x0) + from_previous (x0 of the step before) + from_noise z.

The latents keep variance one throughout: x = signal x0 + deviation noise, with signal² + deviation² = 1. (Euler's
usual latents are these times sqrt(1 + sigma²), where sigma = deviation / signal; networks are fed these.) The
coefficients are computed on the host in float64, so one compiled loop serves all samplers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from ti_jax.diffusion.config import SAMPLERS, sampler_options
from ti_jax.diffusion.schedule import NoiseSchedule, PredictionType
from ti_jax.errors import UserError

logger = logging.getLogger(__name__)

_NEARLY_NO_SIGNAL = 2.0**-24
"""What diffusers puts for zero where it divides by the signal."""


class Step(NamedTuple):
    """What a sampler does in one step; or, with a leading axis, in all."""

    timestep: Float32[Array, "*steps"]
    """What the network is told, from 0 to the number of training timesteps; not whole for Euler with linspace."""
    signal: Float32[Array, "*steps"]
    deviation: Float32[Array, "*steps"]
    from_latents: Float32[Array, "*steps"]
    from_prediction: Float32[Array, "*steps"]
    from_clipped: Float32[Array, "*steps"]
    from_previous: Float32[Array, "*steps"]
    from_noise: Float32[Array, "*steps"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """A whole run of a sampler."""

    steps: Step
    """With a leading axis."""
    initial_scale: Float32[Array, ""]
    """Standard deviation of the first latents."""
    prediction_type: PredictionType = field(metadata={"static": True})
    """What the network's output is."""
    clip_range: float | None = field(metadata={"static": True})
    """clip(x0) is to plus or minus this; None for not at all."""
    stochastic: bool = field(metadata={"static": True})
    """Whether any step adds noise."""


def plan(schedule: NoiseSchedule, sampler: str, steps: int, *, eta: float = 0.0) -> Plan:
    """The plan of a sampler, equal to what diffusers' scheduler does that is made from the same config.

    Args:
        schedule: of the model; not traced.
        sampler: `ddim`, `ddpm`, `dpm++`, `euler` or `euler_a`.
        steps: from 1 to the number of training timesteps; `dpm++` takes one less.
        eta: noise that `ddim` adds, in [0, 1]: none at 0, as much as DDPM at 1. 0 for the others, which ignore it.

    Returns:
        the plan, in host memory.

    Raises:
        UserError: if an argument is out of range, or the model's scheduler config asks for something that the sampler
            does not implement.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"sampler {sampler!r} is not known: choose one of {', '.join(SAMPLERS)}")
    if not 1 <= steps <= schedule.num_timesteps:
        raise UserError(f"steps = {steps}: choose from 1 to {schedule.num_timesteps}")
    if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise UserError(f"eta = {eta} with sampler {sampler!r}: it is in [0, 1], and 0 for all samplers but ddim")
    options = sampler_options(dict(schedule.options), sampler)
    alphas = np.array(schedule.alphas_cumprod, np.float64)
    if options.get("rescale_betas_zero_snr"):
        alphas[-1] = _NEARLY_NO_SIGNAL
    timesteps = _timesteps(len(alphas), sampler, steps, options)
    if timesteps[0] < len(alphas) / 2:
        logger.warning(
            "steps = %d: the first timestep is %d of %d, though all begins with noise alone; take more steps, or a "
            "scheduler config whose timestep_spacing is trailing",
            *(steps, timesteps[0], len(alphas)),
        )
    table = _TABLES[sampler](alphas, timesteps, options, eta)
    signal = np.sqrt(table.alphas)
    if schedule.prediction_type == "epsilon" and not np.all(signal):
        raise UserError(
            f"sampler {sampler!r} begins where this model's schedule leaves no signal, and the noise alone does not "
            "tell the picture: choose sampler 'euler'"
        )
    columns = dict.fromkeys(Step._fields, np.zeros(steps)) | table.coefficients
    columns |= {"timestep": timesteps, "signal": signal, "deviation": np.sqrt(1 - table.alphas)}
    return Plan(
        steps=Step(**{name: jnp.asarray(column, jnp.float32) for name, column in columns.items()}),
        initial_scale=jnp.asarray(table.initial_scale, jnp.float32),
        prediction_type=schedule.prediction_type,
        clip_range=float(options["clip_sample_range"]) if options.get("clip_sample") else None,
        stochastic=bool(np.any(columns["from_noise"])),
    )


class _Table(NamedTuple):
    """What distinguishes a sampler."""

    alphas: Float[np.ndarray, " n"]
    """Squared signal of the latents of each step."""
    coefficients: dict[str, np.ndarray]
    """By the names of `Step`; those left out are zero."""
    initial_scale: float = 1.0


def _timesteps(total: int, sampler: str, steps: int, options: dict[str, Any]) -> Float[np.ndarray, " steps"]:
    """Timesteps from the largest down: table 2 of Lin et al. 2023 (arXiv 2305.08891)."""
    spacing = options["timestep_spacing"]
    # DPM-Solver++ leaves out the last, which is next to no noise.
    count = steps + 1 if sampler == "dpm++" else steps
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, count)[::-1][:steps]
    elif spacing == "leading":
        timesteps = (np.arange(count) * float(total // count))[::-1][:steps] + options["steps_offset"]
    else:  # rounding errors can make the range one too long, with -1 as last timestep
        timesteps = np.round(np.arange(total, 0, -total / steps))[:steps] - 1
    timesteps = timesteps.astype(np.float32) if sampler in ("euler", "euler_a") else np.round(timesteps)
    if timesteps[0] >= total or np.any(np.diff(timesteps) == 0):
        raise UserError(f"steps = {steps} is more than sampler {sampler!r} can do with this model: choose fewer")
    return timesteps


def _ddim(
    alphas: Float[np.ndarray, " total"], timesteps: Float[np.ndarray, " n"], options: dict[str, Any], eta: float
) -> _Table:
    """Equations 12 and 16 of Song et al. 2020 (arXiv 2010.02502)."""
    index = timesteps.astype(int)
    # Not the next of the timesteps: diffusers goes back by the same number always.
    back = index - len(alphas) // len(timesteps)
    now = alphas[index]
    then = np.where(back >= 0, alphas[back], 1.0 if options["set_alpha_to_one"] else alphas[0])
    variance = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
    direction = np.sqrt(1 - then - variance) / np.sqrt(1 - now)
    coefficients = {
        "from_latents": direction,
        "from_prediction": -direction * np.sqrt(now),
        "from_clipped": np.sqrt(then),
        "from_noise": np.sqrt(variance),
    }
    return _Table(now, coefficients)


def _ddpm(
    alphas: Float[np.ndarray, " total"], timesteps: Float[np.ndarray, " n"], options: dict[str, Any], eta: float
) -> _Table:
    """Equations 6 and 7 of Ho et al. 2020 (arXiv 2006.11239)."""
    now = alphas[timesteps.astype(int)]
    then = np.append(now[1:], 1.0)
    beta = 1 - now / then
    variance = beta if options["variance_type"] == "fixed_large" else np.maximum((1 - then) / (1 - now) * beta, 1e-20)
    coefficients = {
        "from_latents": np.sqrt(now / then) * (1 - then) / (1 - now),
        "from_clipped": np.sqrt(then) * beta / (1 - now),
        "from_noise": np.where(timesteps > 0, np.sqrt(variance), 0),
    }
    return _Table(now, coefficients)


def _dpm_solver(
    alphas: Float[np.ndarray, " total"], timesteps: Float[np.ndarray, " n"], options: dict[str, Any], eta: float
) -> _Table:
    """Algorithm 2 of Lu et al. 2022 (arXiv 2211.01095): DPM-Solver++(2M), midpoint."""
    sigmas = _sigmas(alphas, timesteps, options)
    signal = 1 / np.sqrt(1 + sigmas**2)
    with np.errstate(divide="ignore"):
        width = -np.diff(np.log(sigmas))  # of a step in half the logarithm of the signal-to-noise ratio
    gain = -signal[1:] * np.expm1(-width)
    second = np.append(0, gain[1:] / 2 * width[1:] / width[:-1])
    few = options["lower_order_final"] and len(timesteps) < 15
    if few or options["euler_at_final"] or sigmas[-1] == 0:
        second[-1] = 0
    coefficients = {
        "from_latents": (sigmas * signal)[1:] / (sigmas * signal)[:-1],
        "from_prediction": gain + second,
        "from_previous": -second,
    }
    return _Table(signal[:-1] ** 2, coefficients)


def _euler(
    alphas: Float[np.ndarray, " total"], timesteps: Float[np.ndarray, " n"], options: dict[str, Any], eta: float
) -> _Table:
    """Algorithm 1 of Karras et al. 2022 (arXiv 2206.00364) without churn or second order."""
    sigmas = _sigmas(alphas, timesteps, options)
    return _to_noise_levels(sigmas[1:], np.zeros(len(timesteps)), sigmas, options)


def _euler_ancestral(
    alphas: Float[np.ndarray, " total"], timesteps: Float[np.ndarray, " n"], options: dict[str, Any], eta: float
) -> _Table:
    """Steps below the next level of noise, and fresh noise up to it (k-diffusion's `sample_euler_ancestral`)."""
    sigmas = _sigmas(alphas, timesteps, {**options, "final_sigmas_type": "zero"})
    now, then = sigmas[:-1], sigmas[1:]
    fresh = np.sqrt(then**2 * (now**2 - then**2) / now**2)
    return _to_noise_levels(np.sqrt(then**2 - fresh**2), fresh, sigmas, options)


def _to_noise_levels(
    reached: Float[np.ndarray, " n"],
    fresh: Float[np.ndarray, " n"],
    sigmas: Float[np.ndarray, " n+1"],
    options: dict[str, Any],
) -> _Table:
    """Euler steps from each sigma to the one `reached`, then `fresh` noise."""
    ratio = reached / sigmas[:-1]
    signal = 1 / np.sqrt(1 + sigmas**2)
    leaving = signal[1:].copy()
    leaving[-1] = 1  # the last latents are taken as they are
    # Noise alone has the largest sigma; only "leading" allows for the picture that is in it.
    scale = 1.0 if options["timestep_spacing"] == "leading" else sigmas[0] * signal[0]
    coefficients = {
        "from_latents": ratio * leaving / signal[:-1],
        "from_prediction": (1 - ratio) * leaving,
        "from_noise": fresh * leaving,
    }
    return _Table(signal[:-1] ** 2, coefficients, scale)


_TABLES: dict[str, Callable[..., _Table]] = {
    "ddim": _ddim,
    "ddpm": _ddpm,
    "dpm++": _dpm_solver,
    "euler": _euler,
    "euler_a": _euler_ancestral,
}


def _sigmas(
    alphas: Float[np.ndarray, " total"], timesteps: Float[np.ndarray, " n"], options: dict[str, Any]
) -> Float[np.ndarray, " n+1"]:
    """Noise over signal at each timestep, and after the last."""
    table = np.sqrt((1 - alphas) / alphas)
    last = table[0] if options["final_sigmas_type"] == "sigma_min" else 0.0
    return np.append(np.interp(timesteps, np.arange(len(table)), table), last)
