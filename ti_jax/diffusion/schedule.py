"""The forward process: how much noise at which timestep, and what the network is asked to predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from ti_jax.diffusion.config import read_options
from ti_jax.errors import UserError

PredictionType = Literal["epsilon", "v_prediction", "sample"]

_MOST_TIMESTEPS = 10**6
_SAID_BY_TABLE = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoiseSchedule:
    """A noise schedule: a pytree whose only leaf is the table."""

    alphas_cumprod: Float32[Array, " timesteps"]
    """Share of the signal's variance left at each timestep, falling from about 1 to about 0."""
    prediction_type: PredictionType = field(default="epsilon", metadata={"static": True})
    options: tuple[tuple[str, Any], ...] = field(default=(), metadata={"static": True})
    """What else the config sets, for the samplers; what it leaves out is each sampler's own default."""

    @property
    def num_timesteps(self) -> int:
        """Of training: timesteps are in [0, num_timesteps)."""
        return self.alphas_cumprod.shape[0]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """The schedule of a diffusers scheduler config, as `from_config` of another scheduler class carries it over.

        The table is rounded as diffusers rounds it: betas in float32, their product accumulated in float64.

        Args:
            config: the object in `scheduler_config.json`, of any class with a table of betas (DDIM, DDPM, PNDM, Euler,
                DPM-Solver, ...). Missing keys take diffusers' defaults.

        Returns:
            the schedule.

        Raises:
            UserError: naming the option that is not known or not supported.
        """
        options = read_options(config)
        prediction = options.get("prediction_type", "epsilon")
        if prediction not in get_args(PredictionType):
            raise UserError(
                f"scheduler config: prediction_type = {prediction!r} is not supported: "
                f"only {', '.join(get_args(PredictionType))} are"
            )
        betas = _betas(options)
        if options.get("rescale_betas_zero_snr"):
            betas = _rescale_zero_terminal_snr(betas)
        kept = sorted((key, value) for key, value in options.items() if key not in _SAID_BY_TABLE)
        table = jnp.asarray(_cumulative_product(np.float32(1) - betas))
        return cls(table, cast(PredictionType, prediction), tuple(kept))


def add_noise(
    schedule: NoiseSchedule,
    latents: Float32[Array, "b h w c"],
    noise: Float32[Array, "b h w c"],
    timesteps: Int[Array, " b"],
) -> Float32[Array, "b h w c"]:
    """Draws from the forward process at given timesteps: equation 4 of DDPM (Ho et al. 2020, arXiv 2006.11239).

    Args:
        schedule: of the noise.
        latents: without noise, scaled.
        noise: standard normal.
        timesteps: in [0, num_timesteps).

    Returns:
        sqrt(a) * latents + sqrt(1 - a) * noise, where a is the cumulative alpha of each timestep.
    """
    signal, deviation = _scales(schedule, timesteps)
    return signal * latents + deviation * noise


def target(
    schedule: NoiseSchedule,
    latents: Float32[Array, "b h w c"],
    noise: Float32[Array, "b h w c"],
    timesteps: Int[Array, " b"],
) -> Float32[Array, "b h w c"]:
    """What the network should predict, by the schedule's prediction type.

    Args:
        schedule: of the noise.
        latents: without noise, scaled.
        noise: that was added.
        timesteps: in [0, num_timesteps).

    Returns:
        the noise; or the latents; or the velocity sqrt(a) * noise - sqrt(1 - a) * latents (section 4 of Salimans & Ho
        2022, arXiv 2202.00512).
    """
    if schedule.prediction_type == "epsilon":
        return noise
    if schedule.prediction_type == "sample":
        return latents
    signal, deviation = _scales(schedule, timesteps)
    return signal * noise - deviation * latents


def snr(schedule: NoiseSchedule, timesteps: Int[Array, "*b"]) -> Float32[Array, "*b"]:
    """Signal-to-noise ratio a / (1 - a) at given timesteps; zero at the last of a zero-terminal-SNR schedule.

    Args:
        schedule: of the noise.
        timesteps: in [0, num_timesteps).

    Returns:
        the ratio of variances.
    """
    alphas = schedule.alphas_cumprod[timesteps]
    return alphas / (1 - alphas)


def min_snr_weights(schedule: NoiseSchedule, timesteps: Int[Array, "*b"], gamma: float) -> Float32[Array, "*b"]:
    """Min-SNR-gamma loss weights (Hang et al. 2023, arXiv 2303.09556, section 3.4).

    Args:
        schedule: of the noise; its prediction type says what the error is of.
        timesteps: in [0, num_timesteps).
        gamma: where the signal-to-noise ratio is cut off, > 0; 5 in the paper.

    Returns:
        what each example's mean squared error is multiplied by: min(snr, gamma) for `sample`, the same over snr for
        `epsilon` (1, its limit, where the ratio is zero), the same over snr + 1 for `v_prediction`.
    """
    ratio = snr(schedule, timesteps)
    clipped = jnp.minimum(ratio, gamma)
    if schedule.prediction_type == "sample":
        return clipped
    if schedule.prediction_type == "v_prediction":
        return clipped / (ratio + 1)
    return jnp.where(ratio > 0, clipped / jnp.where(ratio > 0, ratio, 1), 1)


def _scales(
    schedule: NoiseSchedule, timesteps: Int[Array, " b"]
) -> tuple[Float32[Array, "b 1 1 1"], Float32[Array, "b 1 1 1"]]:
    """Scales of signal and noise."""
    alphas = schedule.alphas_cumprod[timesteps][:, None, None, None]
    return jnp.sqrt(alphas), jnp.sqrt(1 - alphas)


def _betas(options: Mapping[str, Any]) -> Float32[np.ndarray, " timesteps"]:
    """The variance added at each timestep."""
    steps = options.get("num_train_timesteps", 1000)
    start, end = options.get("beta_start", 0.0001), options.get("beta_end", 0.02)
    kind = options.get("beta_schedule", "linear")
    trained = options.get("trained_betas")
    if type(steps) is not int or not 0 < steps <= _MOST_TIMESTEPS:
        raise UserError(f"scheduler config: num_train_timesteps = {steps!r} is no number of timesteps")
    for beta in (start, end, *(() if trained is None else trained)):
        if not isinstance(beta, int | float) or not 0 <= beta <= 1:
            raise UserError(f"scheduler config: a beta is {beta!r}, and they are between 0 and 1")
    if trained is not None:
        if len(trained) != steps:
            raise UserError(f"scheduler config: {len(trained)} trained_betas, but num_train_timesteps = {steps}")
        return np.asarray(trained, np.float32)
    if kind == "linear":
        return np.linspace(start, end, steps).astype(np.float32)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, steps).astype(np.float32) ** 2
    if kind == "squaredcos_cap_v2":
        return _cosine_betas(steps)
    raise UserError(
        f"scheduler config: beta_schedule = {kind!r} is not supported: "
        "only linear, scaled_linear, squaredcos_cap_v2 are"
    )


def _cosine_betas(steps: int) -> Float32[np.ndarray, " timesteps"]:
    """Betas of the cosine schedule: equation 17 of Nichol & Dhariwal 2021 (arXiv 2102.09672)."""
    times = np.arange(steps + 1) / steps
    signal = np.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - signal[1:] / signal[:-1], 0.999).astype(np.float32)


def _rescale_zero_terminal_snr(betas: Float32[np.ndarray, " timesteps"]) -> Float32[np.ndarray, " timesteps"]:
    """Betas that leave no signal at the last timestep: algorithm 1 of Lin et al. 2023 (arXiv 2305.08891)."""
    signal = np.sqrt(_cumulative_product(np.float32(1) - betas))
    first, last = signal[0], signal[-1]
    alphas_cumprod = ((signal - last) * (first / (first - last))) ** 2
    alphas = np.append(alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1])
    return np.float32(1) - alphas


def _cumulative_product(values: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    return np.cumprod(values, dtype=np.float64).astype(np.float32)
