"""Samplers against torch diffusers' schedulers, fed with the same outputs and the same noise."""

import warnings

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ti_jax.diffusion.plan import plan
from ti_jax.diffusion.samplers import advance, sample
from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.errors import UserError

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
}
NOISY = {"ddpm": "scheduling_ddpm", "euler_a": "scheduling_euler_ancestral_discrete"}
"""Modules of diffusers that draw noise of their own."""
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETAS = [{}, STABLE_DIFFUSION, {"beta_schedule": "squaredcos_cap_v2"}]
SPACINGS = [{}, *({"timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace"))]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
SHAPE = (2, 3, 4, 2)  # n, h, w, c
KEYS = jax.random.split(jax.random.key(7), SHAPE[0])


def _reference(sampler, config, steps):
    """The scheduler with its arithmetic in float64: small steps cancel, so in float32 it is not exact enough itself."""
    scheduler = SCHEDULERS[sampler].from_config(config)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    with warnings.catch_warnings(action="ignore"):
        scheduler.set_timesteps(steps)
    return scheduler


def _tensor(array):
    return torch.tensor(np.asarray(array)).double()


@jax.jit
def _noise(index):
    """What `sample` draws in a step."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), SHAPE[1:]))(KEYS)


def _network(latents, timestep):
    """Some smooth function of both, in numpy or jax.numpy."""
    library = jnp if isinstance(latents, jax.Array) else np
    return library.sin(1.3 * latents + timestep / 300) + library.cos(0.7 * latents[..., ::-1])


@jax.jit
def _advance(run, i, latents, previous, output, fresh):
    return advance(run, jax.tree.map(lambda x: x[i], run.steps), latents, previous, output, fresh)


@jax.jit
def _sample(noise, run, keys):
    return sample(_network, noise, run, keys)


def _check(sampler, config, steps, *, eta=0.0, monkeypatch=None):
    """Each step from the reference's latents; then, with 10 steps, the whole run."""
    scheduler = _reference(sampler, config, steps)
    run = plan(NoiseSchedule.from_config(config), sampler, steps, eta=eta)
    np.testing.assert_array_equal(run.steps.timestep, np.float32(scheduler.timesteps))
    initial = jax.random.normal(jax.random.key(1), SHAPE)
    latents, previous = _tensor(initial) * scheduler.init_noise_sigma, jnp.zeros(SHAPE)
    # Diffusers' Euler schedulers round latents of the size of sigma to float32, whatever they come in.
    rounding = float(latents.abs().max()) * np.finfo(np.float32).eps if sampler.startswith("euler") else 0
    for i, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        output = _network(scaled.numpy(), float(timestep)).astype(np.float32)
        fresh = _noise(i) if run.stochastic else jnp.zeros(SHAPE)
        following, previous = _advance(run, i, jnp.float32(scaled), previous, jnp.asarray(output), fresh)
        if monkeypatch and sampler in NOISY:
            module = getattr(diffusers.schedulers, NOISY[sampler])
            monkeypatch.setattr(module, "randn_tensor", lambda *_, fresh=fresh, **__: _tensor(fresh))
        options = {"eta": eta, "variance_noise": _tensor(fresh)} if eta else {}
        latents = scheduler.step(_tensor(output), timestep, latents, **options).prev_sample
        last = i + 1 == len(scheduler.timesteps)
        expected = latents if last else scheduler.scale_model_input(latents, scheduler.timesteps[i + 1])
        _close(following, expected, rounding=rounding)
    if steps == 10:  # each number of steps compiles anew
        _close(_sample(initial, run, KEYS), latents, tolerance=1e-4, rounding=rounding)


def _close(actual, expected, *, tolerance=1e-5, rounding=0.0):
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance * np.abs(expected).max() + rounding)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "euler"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_deterministic_samplers(sampler, prediction_type, betas, spacing):
    _check(sampler, {"clip_sample": False, "prediction_type": prediction_type, **betas, **spacing}, 10)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_noisy_samplers(prediction_type, betas, spacing, monkeypatch):
    config = {"clip_sample": False, "prediction_type": prediction_type, **betas, **spacing}
    _check("ddpm", config, 10, monkeypatch=monkeypatch)
    if prediction_type != "sample":  # which diffusers' class has not
        _check("euler_a", config, 10, monkeypatch=monkeypatch)
    _check("ddim", config, 10, eta=1.0)
    _check("ddim", config, 10, eta=0.3)


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("spacing", SPACINGS[1:])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333])
def test_numbers_of_steps(sampler, spacing, steps, monkeypatch):
    config = {**STABLE_DIFFUSION, "steps_offset": 1, "clip_sample": False, **spacing}
    _check(sampler, config, steps, monkeypatch=monkeypatch)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler"])
@pytest.mark.parametrize("spacing", SPACINGS[1:])
def test_as_many_steps_as_in_training(sampler, spacing, monkeypatch):
    _check(sampler, {**STABLE_DIFFUSION, "num_train_timesteps": 100, **spacing}, 100, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("sampler", "prediction_type"),
    [*((sampler, "v_prediction") for sampler in SCHEDULERS), *((s, "sample") for s in SCHEDULERS if s != "euler_a")],
)
@pytest.mark.parametrize("spacing", SPACINGS[1:])
def test_zero_terminal_snr(sampler, spacing, prediction_type, monkeypatch):
    config = {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True, "prediction_type": prediction_type, **spacing}
    _check(sampler, config, 10, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddim", {"set_alpha_to_one": False}),
        ("ddim", {"set_alpha_to_one": False, "steps_offset": 1}),
        ("ddim", {"clip_sample": True}),
        ("ddim", {"clip_sample": True, "clip_sample_range": 0.5}),
        ("ddpm", {"clip_sample": True, "clip_sample_range": 0.5}),
        ("ddpm", {"variance_type": "fixed_large"}),
        ("ddpm", {"variance_type": "fixed_small_log"}),
        ("ddpm", {"variance_type": None}),
        ("dpm++", {"final_sigmas_type": "sigma_min"}),
        ("dpm++", {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
        ("dpm++", {"final_sigmas_type": "sigma_min", "euler_at_final": True, "lower_order_final": False}),
        ("dpm++", {"solver_type": "bh2"}),
        ("euler", {"final_sigmas_type": "sigma_min"}),
    ],
)
@pytest.mark.parametrize("steps", [10, 20])
def test_options(sampler, options, steps, monkeypatch):
    _check(sampler, {**STABLE_DIFFUSION, **options}, steps, monkeypatch=monkeypatch)


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("writer", ["PNDM", "EulerDiscrete", "DDPM", "DDIM", "UniPCMultistep", "HeunDiscrete"])
@pytest.mark.parametrize("saved", [False, True])
def test_config_of_another_class(sampler, writer, saved, monkeypatch):
    """Options that the writer's class has by default are carried when it saved them, and dropped when it did not."""
    config = dict(getattr(diffusers, f"{writer}Scheduler")(**STABLE_DIFFUSION).config)
    if saved:
        config.pop("_use_default_values")
    _check(sampler, config, 10, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("sampler", "options", "named"),
    [
        ("ddim", {"thresholding": True}, "thresholding = True"),
        ("ddim", {"timestep_spacing": "sideways"}, "sideways"),
        ("ddpm", {"variance_type": "learned_range"}, "learned_range"),
        ("dpm++", {"use_karras_sigmas": True, "solver_order": 3}, "use_karras_sigmas = True, solver_order = 3"),
        ("dpm++", {"algorithm_type": "sde-dpmsolver++"}, "sde-dpmsolver"),
        ("euler", {"interpolation_type": "log_linear"}, "log_linear"),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "no signal"),
        ("pndm", {}, "ddim, ddpm, dpm\\+\\+, euler, euler_a"),
    ],
)
def test_what_is_not_supported_is_named(sampler, options, named):
    with pytest.raises(UserError, match=named):
        plan(NoiseSchedule.from_config(options), sampler, 10)


def test_options_of_other_classes_do_not_matter():
    config = {"use_karras_sigmas": True, "solver_order": 3, "interpolation_type": "log_linear"}
    plan(NoiseSchedule.from_config(config), "ddim", 10)


@pytest.mark.parametrize(
    ("sampler", "steps", "eta"),
    [
        ("ddim", 0, 0.0),
        ("ddim", 1001, 0.0),
        ("ddim", 1000, 0.0),  # the first would be 1000
        ("dpm++", 1000, 0.0),
        ("ddim", 10, 1.5),
        ("euler", 10, 0.5),
    ],
)
def test_arguments_out_of_range(sampler, steps, eta):
    with pytest.raises(UserError, match="eta" if eta else "steps"):
        plan(NoiseSchedule.from_config({"steps_offset": 1}), sampler, steps, eta=eta)


@pytest.mark.parametrize("steps", [61, 103])
def test_trailing_steps_that_rounding_would_make_one_more(steps):
    timesteps = plan(NoiseSchedule.from_config({"timestep_spacing": "trailing"}), "ddim", steps).steps.timestep
    assert len(timesteps) == steps
    assert timesteps[-1] > 0


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_an_image_does_not_depend_on_its_batch(sampler):
    run = plan(NoiseSchedule.from_config({}), sampler, 5)
    initial = jax.random.normal(jax.random.key(1), SHAPE)
    both, second = _sample(initial, run, KEYS), _sample(initial[1:], run, KEYS[1:])
    np.testing.assert_allclose(both[1:], second, rtol=1e-6, atol=1e-6)


def test_one_compilation_serves_all_deterministic_samplers():
    traces = []

    @jax.jit
    def run_all(noise, run):
        traces.append(1)
        return sample(_network, noise, run, KEYS)

    schedule = NoiseSchedule.from_config({"clip_sample": False})
    for sampler in ("ddim", "dpm++", "euler"):
        run_all(jnp.ones(SHAPE), plan(schedule, sampler, 5))
    assert len(traces) == 1


def test_a_first_step_that_is_told_of_little_noise(caplog):
    """One step of SDXL-Turbo with the spacing of SDXL."""
    for spacing, said in (("leading", True), ("trailing", False)):
        caplog.clear()
        plan(
            NoiseSchedule.from_config({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": spacing}),
            "euler_a",
            1,
        )
        assert ("steps = 1: the first timestep is" in caplog.text) == said
