"""The forward process against torch diffusers' schedulers and closed forms."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ti_jax.diffusion.schedule import NoiseSchedule, add_noise, min_snr_weights, snr, target
from ti_jax.errors import UserError

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETAS = [
    {},
    STABLE_DIFFUSION,
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": np.geomspace(1e-4, 0.05, 200).tolist(), "num_train_timesteps": 200},
    {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True},
    {"num_train_timesteps": 37, "rescale_betas_zero_snr": True},
]
WRITERS = ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "LMSDiscrete",
           "HeunDiscrete", "UniPCMultistep", "DEISMultistep", "KDPM2Discrete", "DPMSolverSinglestep"]  # fmt: skip


def _close(actual, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def _examples(schedule):
    latents, noise = np.random.default_rng(0).normal(size=(2, 5, 4, 4, 3)).astype(np.float32)
    last = schedule.num_timesteps - 1
    return jnp.asarray(latents), jnp.asarray(noise), jnp.array([0, 1, last // 2, last - 1, last])


@pytest.mark.parametrize("betas", BETAS)
def test_table(betas):
    reference = diffusers.DDPMScheduler(**betas)
    schedule = NoiseSchedule.from_config(reference.config)
    # Rescaling subtracts numbers near each other, which leaves the rounding of the larger ones.
    rounding = np.finfo(np.float32).eps if "rescale_betas_zero_snr" in betas else 0
    np.testing.assert_allclose(schedule.alphas_cumprod, reference.alphas_cumprod, rtol=2e-6, atol=rounding)
    assert schedule.alphas_cumprod.dtype == jnp.float32


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_noise_and_target(betas, prediction_type):
    reference = diffusers.DDPMScheduler(**betas, prediction_type=prediction_type)
    schedule = NoiseSchedule.from_config(reference.config)
    latents, noise, timesteps = _examples(schedule)
    torch_arguments = [torch.tensor(np.asarray(x)) for x in (latents, noise, timesteps)]
    _close(add_noise(schedule, latents, noise, timesteps), reference.add_noise(*torch_arguments))
    expected = {"epsilon": noise, "sample": latents, "v_prediction": reference.get_velocity(*torch_arguments)}
    _close(target(schedule, latents, noise, timesteps), expected[prediction_type])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' use of numpy
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("options", [{}, {**STABLE_DIFFUSION, "num_train_timesteps": 500}])
def test_config_of_any_class(writer, options):
    """As a DDPMScheduler made from the same config, defaults of the writer dropped as diffusers drops them."""
    config = getattr(diffusers, f"{writer}Scheduler")(**options).config
    reference = diffusers.DDPMScheduler.from_config(config)
    schedule = NoiseSchedule.from_config(config)
    np.testing.assert_allclose(schedule.alphas_cumprod, reference.alphas_cumprod, rtol=2e-6)
    assert schedule.prediction_type == reference.config.prediction_type
    # What is saved as a file holds the writer's defaults; they are carried.
    saved = {key: value for key, value in config.items() if key != "_use_default_values"}
    reference = diffusers.DDPMScheduler.from_config(saved)
    np.testing.assert_allclose(NoiseSchedule.from_config(saved).alphas_cumprod, reference.alphas_cumprod, rtol=2e-6)


def test_config_of_the_first_versions():
    """Keys that the schedulers of 2022 wrote."""
    old = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "tensor_format": "pt"}
    reference = diffusers.DDIMScheduler(500, 0.00085, 0.012, "scaled_linear")
    schedule = NoiseSchedule.from_config({**old, "timesteps": 500, "timestep_values": None})
    np.testing.assert_allclose(schedule.alphas_cumprod, reference.alphas_cumprod, rtol=2e-6)
    for was, is_now in ((True, "epsilon"), (False, "sample")):
        assert NoiseSchedule.from_config({**old, "predict_epsilon": was}).prediction_type == is_now
    with pytest.raises(UserError, match=r"timestep_values = \[1\]|timestep_values = \(1,\)"):
        NoiseSchedule.from_config({**old, "timestep_values": [1]})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"beta_schedule": "sigmoid"}, "sigmoid"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"beta_strat": 0.1}, "beta_strat = 0.1"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"trained_betas": [0.1, "a"]}, "a beta is 'a'"),
        ({"beta_end": 7}, "a beta is 7"),
        ({"beta_start": None}, "a beta is None"),
        ({"beta_end": float("nan")}, "a beta is nan"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps = 1000000000000"),
        ({"num_train_timesteps": 0}, "num_train_timesteps = 0"),
    ],
)
def test_what_is_not_supported_is_named(config, named):
    with pytest.raises(UserError, match=named):
        NoiseSchedule.from_config(config)


def test_signal_to_noise_ratio():
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    alphas = np.asarray(schedule.alphas_cumprod, np.float64)
    np.testing.assert_allclose(snr(schedule, jnp.arange(1000)), alphas / (1 - alphas), rtol=1e-4)


@pytest.mark.parametrize("rescale", [False, True])
def test_min_snr_weights(rescale):
    """Each is the same weight on the squared error of the latents, expressed in what is predicted."""
    timesteps = jnp.array([0, 100, 500, 998])
    weights = {}
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        schedule = NoiseSchedule.from_config(
            {**STABLE_DIFFUSION, "prediction_type": prediction_type, "rescale_betas_zero_snr": rescale}
        )
        weights[prediction_type] = np.asarray(min_snr_weights(schedule, timesteps, 5.0), np.float64)
    alphas = np.asarray(schedule.alphas_cumprod, np.float64)[timesteps]
    np.testing.assert_allclose(weights["sample"], np.minimum(alphas / (1 - alphas), 5), rtol=1e-4)
    # x0 = (xt - sqrt(1 - a) eps) / sqrt(a) = sqrt(a) xt - sqrt(1 - a) v
    np.testing.assert_allclose(weights["epsilon"] * alphas / (1 - alphas), weights["sample"], rtol=1e-4)
    np.testing.assert_allclose(weights["v_prediction"] / (1 - alphas), weights["sample"], rtol=1e-4)


@pytest.mark.parametrize(("prediction_type", "expected"), [("epsilon", 1), ("v_prediction", 0), ("sample", 0)])
def test_min_snr_weight_without_signal(prediction_type, expected):
    schedule = NoiseSchedule.from_config({"prediction_type": prediction_type, "rescale_betas_zero_snr": True})
    assert min_snr_weights(schedule, jnp.array([999]), 5.0)[0] == expected


def test_schedule_is_a_pytree():
    """A jitted function takes it as an argument; two of one kind share a compilation."""
    traces = []

    @jax.jit
    def ratio(schedule, timesteps):
        traces.append(1)
        return snr(schedule, timesteps)

    for config in ({}, STABLE_DIFFUSION, {"beta_schedule": "squaredcos_cap_v2"}):
        ratio(NoiseSchedule.from_config(config), jnp.array([3]))
    assert len(traces) == 1
