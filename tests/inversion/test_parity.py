"""The loss, its gradient, and twenty whole steps against PyTorch diffusers with the concept as added tokens."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler

import ti_jax
from ti_jax.config import ConceptSpec, InversionConfig, InversionDefaults, OptimizerConfig, with_model_defaults
from ti_jax.data.captions import prompts_for
from ti_jax.inversion.bounds import Bounds
from ti_jax.inversion.draws import draw_examples, fixed_examples
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.prepare import prepare

PLACEHOLDER = "<fox>"
PROMPTS = ["a photo of <fox>", "<fox>, small, beside a <fox> on a blue background"]
STEPS, EVERY = 20, 5
GAMMA = 5.0


class TorchConcept:
    """The reference: placeholder tokens added to tokenizer and table, and a loss by diffusers' own parts."""

    def __init__(self, pipe, vectors):
        self.pipe = pipe
        tokens = [PLACEHOLDER, *(f"{PLACEHOLDER}_{i}" for i in range(1, len(vectors)))]
        self.expansion = " ".join(tokens)
        pipe.tokenizer.add_tokens(tokens)
        self.ids = pipe.tokenizer.convert_tokens_to_ids(tokens)
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
        self.table = pipe.text_encoder.get_input_embeddings().weight
        for module in (pipe.text_encoder, pipe.unet, pipe.vae):
            module.requires_grad_(False)
        self.table.requires_grad_(True)
        self.set(vectors)

    def set(self, vectors):
        with torch.no_grad():
            self.table[self.ids] = torch.tensor(np.asarray(vectors))

    def losses(self, prompts, latents, noise, timesteps):
        pipe, to_torch = self.pipe, lambda x: torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
        ids = pipe.tokenizer(
            [p.replace(PLACEHOLDER, self.expansion) for p in prompts],
            padding="max_length",
            max_length=pipe.text_encoder.config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        scheduler, timesteps = self.ddpm(), torch.tensor(np.asarray(timesteps), dtype=torch.long)
        latents, noise = to_torch(latents), to_torch(noise)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        predicted = pipe.unet(noisy, timesteps, pipe.text_encoder(ids)[0]).sample
        is_v = scheduler.config.prediction_type == "v_prediction"
        wanted = scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
        return ((predicted - wanted) ** 2).mean(dim=(1, 2, 3))

    def ddpm(self):
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.pipe.scheduler.config)

    def min_snr_weights(self, timesteps):
        """By which diffusers' training scripts multiply the losses of a model that predicts v."""
        from diffusers.training_utils import compute_snr

        snr = compute_snr(self.ddpm(), torch.tensor(np.asarray(timesteps), dtype=torch.long))
        return snr.clamp(max=GAMMA) / (snr + 1)

    def gradient(self, loss):
        self.table.grad = None
        loss.backward()
        return self.table.grad[self.ids]


@pytest.fixture(params=["sd1_twin", "sd2_twin"])
def twin(request):
    """A fresh torch pipeline, since tokens are added to it, and ours of the same weights."""
    from copy import deepcopy

    pipe, pipeline = request.getfixturevalue(request.param)
    return deepcopy(pipe), pipeline


def _vectors(pipeline, count):
    width = pipeline.widths["text_encoder"]
    return np.random.default_rng(1).normal(0, 0.3, (count, width)).astype(np.float32)


def _close(ours, theirs, tolerance):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("count", [1, 3])
def test_loss_and_gradient(twin, count):
    pipe, pipeline = twin
    vectors = _vectors(pipeline, count)
    rng = np.random.default_rng(2)
    h, w, c = pipeline.latent_shape()
    latents, noise = (rng.normal(size=(2, h, w, c)).astype(np.float32) for _ in range(2))
    timesteps = np.array([17, 803], np.int32)

    reference = TorchConcept(pipe, vectors)
    expected = reference.losses(PROMPTS, latents, noise, timesteps)
    concept = ti_jax.Concept(PLACEHOLDER, {"text_encoder": jnp.asarray(vectors)}, {})

    def total(concept):
        losses = ti_jax.denoising_loss(
            pipeline,
            concept,
            PROMPTS,
            latents=jnp.asarray(latents),
            noise=jnp.asarray(noise),
            timesteps=timesteps,
        )
        return jnp.sum(losses), losses

    gradient, losses = jax.grad(total, has_aux=True)(concept)
    _close(losses, expected.detach(), 1e-5)
    _close(gradient.vectors["text_encoder"], reference.gradient(expected.sum()), 1e-4)


@pytest.mark.parametrize(
    ("twin", "settings", "scale", "climb"),
    [
        # AdamW's own epsilon hides a gradient's scale, and with it whether it is clipped; this one does not. Two passes
        # draw as one batch does, and a loss that is scaled, as in float16, leaves no trace.
        (
            "sd1_twin",
            {
                "batch_size": 1,
                "gradient_accumulation": 2,
                "optimizer": OptimizerConfig(epsilon=1e-2, max_grad_norm=0.025),
            },
            2.0**10,
            False,
        ),
        # Uphill, so that the best vectors are not the last.
        (
            "sd2_twin",
            {
                "batch_size": 2,
                "min_snr_gamma": GAMMA,
                "optimizer": OptimizerConfig(schedule="cosine", warmup_steps=3),
            },
            1.0,
            True,
        ),
    ],
    indirect=["twin"],
)
def test_twenty_steps(twin, settings, scale, climb, monkeypatch):
    pipe, pipeline = twin
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(3)]
    config = with_model_defaults(
        InversionConfig(steps=STEPS, num_vectors=2, evaluate_every=EVERY, **settings), InversionDefaults()
    )
    monkeypatch.setattr("ti_jax.inversion.step.loss_scale", lambda unet, latents: scale)
    prepared = prepare(pipeline, ConceptSpec("fox", PLACEHOLDER, "random", pictures), config)
    if climb:
        prepared = replace(prepared, inputs=prepared.inputs._replace(learning_rate=-prepared.inputs.learning_rate))
    engine = Engine(pipeline, config, 1, Bounds.of(prepared))
    engine.put(0, prepared)
    logs = [engine.advance(EVERY).log for _ in range(STEPS // EVERY)]

    reference = TorchConcept(pipe, prepared.vectors["text_encoder"])
    epsilon, max_norm = config.optimizer.epsilon, config.optimizer.max_grad_norm
    adamw = {"lr": config.optimizer.learning_rate, "weight_decay": 0.0, "eps": epsilon, "maximize": climb}
    optimizer = torch.optim.AdamW([reference.table], **adamw)
    options = {"num_warmup_steps": config.optimizer.warmup_steps, "num_training_steps": STEPS}
    schedule = get_scheduler(config.optimizer.schedule, optimizer, **options)
    texts = prompts_for(prepared.pictures, PLACEHOLDER, "object", None).texts
    table = np.asarray(prepared.inputs.prompts["text_encoder"].ids)
    timesteps = pipeline.schedule.num_timesteps
    draw = jax.jit(draw_examples, static_argnums=3)

    def losses_of(examples):
        ids = np.asarray(examples.prompts["text_encoder"].ids)
        prompts = [texts[np.flatnonzero((table == row).all(axis=1))[0]] for row in ids]
        return reference.losses(prompts, examples.latents, examples.noise, examples.timesteps)

    def learned():
        return reference.table[reference.ids].detach().numpy().copy()

    size = config.fixed_set_size
    fixed = jax.jit(fixed_examples, static_argnums=(2, 3))(prepared.inputs, jnp.arange(size), size, timesteps)
    losses, norms, rates, fixed_losses, vectors = [], [], [], [], []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            fixed_losses.append(losses_of(fixed).mean().item())
            vectors.append(learned())
        if step == STEPS:
            break
        examples = draw(prepared.inputs, jnp.int32(step), jnp.arange(2), timesteps)
        loss = losses_of(examples)
        weights = reference.min_snr_weights(examples.timesteps) if config.min_snr_gamma else 1.0
        gradient = reference.gradient((weights * loss).mean())
        norms.append(gradient.norm().item())
        reference.table.grad = torch.zeros_like(reference.table)
        reference.table.grad[reference.ids] = gradient
        if max_norm is not None:
            # Of the concept's own rows, since all others are zero.
            torch.nn.utils.clip_grad_norm_([reference.table], max_norm)
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        losses.append(loss.mean().item())  # without weights, as it is logged
    assert max_norm is None or min(norms) < max_norm < max(norms)  # it clips some steps and leaves others
    _close(np.concatenate([log.loss[:-1, 0] for log in logs]), losses, 1e-4)
    np.testing.assert_allclose(np.concatenate([abs(log.learning_rate[:-1, 0]) for log in logs]), rates, rtol=1e-5)
    _close([logs[0].fixed_loss[0, 0], *(log.fixed_loss[-1, 0] for log in logs)], fixed_losses, 1e-4)
    state, initial = engine.read(0, 2), prepared.vectors["text_encoder"]
    assert np.abs(vectors[-1] - initial).max() > 0.01
    _close(state.vectors["text_encoder"] - initial, vectors[-1] - initial, 1e-4)
    best = int(np.argmin(fixed_losses))
    assert best == (0 if climb else len(vectors) - 1)
    assert state.best_step == best * EVERY
    _close(state.best_vectors["text_encoder"] - initial, vectors[best] - initial, 1e-4)
