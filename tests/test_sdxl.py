"""SDXL end to end against torch diffusers' `StableDiffusionXLPipeline`: pictures, and the loss and its gradients."""

from copy import deepcopy
from dataclasses import replace

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_pair import check

import ti_jax
from ti_jax.config import ConceptSpec, InversionDefaults, with_model_defaults
from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.inversion.draws import concept_key
from ti_jax.inversion.prepare import initial_vectors_of, prepare

WORD = "<fox>"
PROMPTS = ["a photo of <fox> on a green background", "a cat, <fox>"]
SAMPLERS = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}
STEPS = 4
SIZES = np.array([[40, 64, 3, 0, 32, 32], [32, 32, 0, 5, 32, 32]], np.float32)


def concept_of(pipeline, count=2):
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(0, 0.3, (count, width)).astype(np.float32) for name, width in pipeline.widths.items()}
    return ti_jax.Concept(WORD, vectors)


def with_word(pipe, concept):
    """A copy of PyTorch's pipeline that knows the word."""
    pipe = deepcopy(pipe)
    pipe.set_progress_bar_config(disable=True)
    for name, vectors in concept.vectors.items():
        pipe.load_textual_inversion(
            {WORD: torch.tensor(vectors)},
            token=WORD,
            text_encoder=getattr(pipe, name),
            tokenizer=getattr(pipe, name.replace("text_encoder", "tokenizer")),
        )
    return pipe


@pytest.mark.parametrize(
    ("sampler", "guidance", "negative", "zeros"),
    [
        ("ddim", 5.0, None, True),
        ("ddim", 5.0, "", False),
        ("ddim", 5.0, "blue, <fox>", True),
        ("euler", 5.0, None, True),
        ("euler", 1.0, None, True),
    ],
    ids=["zeros", "encoded", "negative", "euler", "unguided"],
)
def test_pictures(sdxl_twin, sampler, guidance, negative, zeros):
    """Zeros stand for an empty negative prompt, unless the model's index says that it is encoded."""
    pipe, pipeline = sdxl_twin
    assert pipeline.zeros_for_empty_prompt
    concept = concept_of(pipeline)
    latents = np.random.default_rng(1).normal(size=(2, 8, 12, 4)).astype(np.float32)
    images = ti_jax.generate(
        replace(pipeline, zeros_for_empty_prompt=zeros),
        PROMPTS,
        concepts=[concept],
        latents=latents,
        sampler=sampler,
        steps=STEPS,
        guidance=guidance,
        negative_prompt=negative or "",
    )

    pipe = with_word(pipe, concept)
    pipe.scheduler = SAMPLERS[sampler].from_config(pipe.scheduler.config, clip_sample=False)
    expected = pipe(
        PROMPTS,
        negative_prompt=None if negative is None else [negative] * 2,
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
        height=32,
        width=48,
        output_type="np",
    ).images
    expected = np.round(expected * 255)
    assert expected.std() > 10
    assert np.abs(images - expected).max() <= 2


def test_one_step_without_guidance_as_turbo_takes(sdxl_twin):
    """The scheduler of `stabilityai/sdxl-turbo`: Euler ancestral with trailing timesteps."""
    pipe, pipeline = sdxl_twin
    turbo = {**pipe.scheduler.config, "timestep_spacing": "trailing", "clip_sample": False}
    latents = np.random.default_rng(1).normal(size=(2, 8, 12, 4)).astype(np.float32)
    options = {"sampler": "euler_a", "steps": 1, "guidance": 0.0}
    images = ti_jax.generate(
        replace(pipeline, schedule=NoiseSchedule.from_config(turbo)), ["a cat", "a dog"], latents=latents, **options
    )
    pipe = deepcopy(pipe)
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(turbo)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        ["a cat", "a dog"],
        guidance_scale=0.0,
        num_inference_steps=1,
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
        height=32,
        width=48,
        output_type="np",
    ).images
    assert np.abs(images - np.round(expected * 255)).max() <= 2


def torch_losses(pipe, latents, noise, timesteps, sizes):
    """By diffusers' own parts, as its training script for SDXL puts them together."""
    embeds, _, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    latents, noise = (torch.tensor(x).permute(0, 3, 1, 2) for x in (latents, noise))
    timesteps = torch.tensor(timesteps, dtype=torch.long)
    predicted = pipe.unet(
        scheduler.add_noise(latents, noise, timesteps),
        timesteps,
        encoder_hidden_states=embeds,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.tensor(sizes)},
    ).sample
    return ((predicted - noise) ** 2).mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("twin", "sizes"), [("sdxl_twin", None), ("sdxl_twin_that_pools_at_the_end", SIZES)], ids=["own size", "given"]
)
def test_loss_and_gradients_of_both_encoders(twin, sizes, request):
    pipe, pipeline = request.getfixturevalue(twin)
    concept = concept_of(pipeline)
    rng = np.random.default_rng(2)
    latents, noise = (rng.normal(size=(2, 8, 8, 4)).astype(np.float32) for _ in range(2))
    timesteps = np.array([17, 803], np.int32)

    def total(concept):
        losses = ti_jax.denoising_loss(
            pipeline, concept, PROMPTS, latents=latents, noise=noise, timesteps=timesteps, sizes=sizes
        )
        return jnp.sum(losses), losses

    gradient, losses = jax.grad(total, has_aux=True)(concept)

    pipe = with_word(pipe, concept)
    tables = {name: getattr(pipe, name).get_input_embeddings().weight for name in concept.vectors}
    for module in (pipe.text_encoder, pipe.text_encoder_2, pipe.unet):
        module.requires_grad_(False)
    for table in tables.values():
        table.requires_grad_(True)
    own = np.broadcast_to(np.array([32, 32, 0, 0, 32, 32], np.float32), (2, 6))
    expected = torch_losses(pipe, latents, noise, timesteps, own if sizes is None else sizes)
    expected.sum().backward()
    check(losses, expected.detach(), 1e-5)
    for name, table in tables.items():
        check(gradient.vectors[name], table.grad[-2:], 1e-4)


def test_float16_leaves_the_autoencoder_alone(sdxl_twin):
    pipeline = ti_jax.load(sdxl_twin[1].source, dtype="float16")
    types = {name: {x.dtype.name for x in jax.tree.leaves(net)} for name, net in pipeline.networks.items()}
    assert types.pop("vae") == {"float32"}
    assert set.union(*types.values()) == {"float16"}


def test_random_words_are_drawn_apart_for_each_encoder(sdxl_twin):
    pipeline = sdxl_twin[1]
    spec = ConceptSpec("fox", WORD, "random", "nowhere")
    vectors = initial_vectors_of(pipeline, spec, ti_jax.InversionConfig(num_vectors=8), concept_key(0, "fox"))
    drawn = [(vectors[name] - table.mean(axis=0)) / table.std(axis=0) for name, table in pipeline.token_tables.items()]
    width = min(draws.shape[1] for draws in drawn)
    assert abs(np.corrcoef(*(draws[:, :width].ravel() for draws in drawn))[0, 1]) < 0.3


def test_an_inversion_learns_vectors_of_both_encoders(sdxl_twin):
    """Each picture is told its own size and crop; each encoder's norms are held at its own median."""
    pipeline = sdxl_twin[1]
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 50), (32, 32), (80, 64))]
    config = ti_jax.InversionConfig(steps=2, batch_size=2, num_vectors=2, evaluate_every=2, norm_control="median")
    prepared = prepare(
        pipeline, ConceptSpec("fox", WORD, "random", pictures), with_model_defaults(config, InversionDefaults())
    )
    assert prepared.inputs.sizes.tolist() == [[40, 50, 0, 4, 32, 32], [32, 32, 0, 0, 32, 32], [80, 64, 4, 0, 32, 32]]
    result = ti_jax.invert(pipeline, pictures, placeholder=WORD, initializer="random", config=config, name="fox")
    for name, vectors in result.concept.vectors.items():
        moved = np.abs(vectors - prepared.vectors[name])
        assert vectors.shape == (2, pipeline.widths[name])
        assert moved.max() > 1e-3
        of_vocabulary = np.median(np.linalg.norm(pipeline.token_tables[name], axis=1))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), of_vocabulary, rtol=1e-5)
    np.testing.assert_allclose(result.history.norm, 1.0, rtol=1e-5)
