"""The update against torch's AdamW and diffusers' schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler

from ti_jax.config import OptimizerConfig
from ti_jax.inversion.optimizer import (
    gradient_transformation,
    optimizer_update,
    rescale_norms,
    scheduled_rate,
    vector_norms,
)

STEPS = 12


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_two_slots_follow_torch_adamw(schedule, warmup, max_grad_norm):
    config = OptimizerConfig(
        schedule=schedule, warmup_steps=warmup, max_grad_norm=max_grad_norm, weight_decay=0.1, epsilon=1e-6
    )
    rng = np.random.default_rng(0)
    start = rng.normal(size=(2, 3, 5)).astype(np.float32)
    gradients = rng.normal(size=(STEPS, 2, 3, 5)).astype(np.float32)
    peak = np.array([0.05, 0.2], np.float32)

    expected = np.empty_like(start)
    for slot in range(2):
        parameter = torch.nn.Parameter(torch.tensor(start[slot]))
        optimizer = torch.optim.AdamW([parameter], lr=float(peak[slot]), eps=1e-6, weight_decay=0.1)
        name = "constant_with_warmup" if schedule == "constant" else schedule
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS)
        for gradient in gradients[:, slot]:
            parameter.grad = torch.tensor(gradient)
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_([parameter], max_grad_norm)
            optimizer.step()
            scheduler.step()
        expected[slot] = parameter.detach().numpy()

    transformation = gradient_transformation(config)
    vectors = {"text_encoder": jnp.asarray(start)}
    state = jax.vmap(transformation.init)(vectors)
    for step, gradient in enumerate(gradients):
        rate = scheduled_rate(
            config, jnp.asarray(peak), jnp.full((2,), step, jnp.int32), jnp.full((2,), STEPS, jnp.int32)
        )
        vectors, state = optimizer_update(transformation, {"text_encoder": jnp.asarray(gradient)}, state, vectors, rate)
    np.testing.assert_allclose(vectors["text_encoder"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_rescaled_vectors_keep_direction_and_padding_stays_zero():
    vectors = jnp.asarray([[[3.0, 4.0], [0.0, 0.0]]])
    mask = jnp.asarray([[True, False]])
    rescaled = rescale_norms(vectors, mask, jnp.float32(10.0))
    np.testing.assert_allclose(rescaled, [[[6.0, 8.0], [0.0, 0.0]]], rtol=1e-6)
    np.testing.assert_allclose(vector_norms(rescaled), [[10.0, 0.0]], rtol=1e-6)
