"""The paper's latent-diffusion model end to end against torch diffusers' `LDMTextToImagePipeline`."""

import shutil
from copy import deepcopy
from pathlib import Path

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_pair import check

import ti_jax
from ti_jax.errors import UserError

WORD, TOKENS = "<fox>", ["<fox>", "<fox>_1"]
PROMPTS = ["a photo of a small <fox>", "Two foxes, <fox>!"]


@pytest.fixture
def twin(ldm_twin):
    """PyTorch's pipeline with the word added, ours, and the word."""
    pipe, pipeline = deepcopy(ldm_twin[0]), ldm_twin[1]
    pipe.set_progress_bar_config(disable=True)
    vectors = np.random.default_rng(0).normal(0, 0.3, (2, pipeline.widths["text_encoder"])).astype(np.float32)
    pipe.tokenizer.add_tokens(TOKENS)
    table = torch.cat([pipe.bert.model.embed_tokens.weight.detach(), torch.tensor(vectors)])
    pipe.bert.model.embed_tokens = torch.nn.Embedding.from_pretrained(table, freeze=True)
    assert len(table) == len(pipe.tokenizer)
    return pipe, pipeline, ti_jax.Concept(WORD, {"text_encoder": vectors})


def expanded(prompts):
    return [prompt.replace(WORD, " ".join(TOKENS)) for prompt in prompts]


def test_ids(twin):
    pipe, pipeline, _ = twin
    ours = pipeline.tokenize(PROMPTS, {WORD: 2})["text_encoder"]
    wanted = np.asarray(pipe.tokenizer(expanded(PROMPTS), padding="max_length", max_length=77).input_ids)
    first = pipe.tokenizer.convert_tokens_to_ids(WORD)
    assert pipeline.max_length == 77
    np.testing.assert_array_equal(np.where(ours.vector_index < 0, ours.ids, ours.vector_index + first), wanted)


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_pictures(twin, guidance):
    pipe, pipeline, concept = twin
    latents = np.random.default_rng(1).normal(size=(2, 8, 8, 4)).astype(np.float32)
    images = ti_jax.generate(
        pipeline, PROMPTS, concepts=[concept], latents=latents, sampler="ddim", steps=4, guidance=guidance
    )
    expected = pipe(
        expanded(PROMPTS),
        guidance_scale=guidance,
        num_inference_steps=4,
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
        height=64,
        width=64,
        output_type="np",
    ).images
    expected = np.round(expected * 255)
    assert expected.std() > 10
    assert np.abs(images - expected).max() <= 2


def test_loss_and_gradient(twin):
    pipe, pipeline, concept = twin
    rng = np.random.default_rng(2)
    latents, noise = (rng.normal(size=(2, 8, 8, 4)).astype(np.float32) for _ in range(2))
    timesteps = np.array([17, 803], np.int32)

    def total(concept):
        losses = ti_jax.denoising_loss(pipeline, concept, PROMPTS, latents=latents, noise=noise, timesteps=timesteps)
        return jnp.sum(losses), losses

    gradient, losses = jax.grad(total, has_aux=True)(concept)

    for module in (pipe.bert, pipe.unet):
        module.requires_grad_(False)
    table = pipe.bert.model.embed_tokens.weight.requires_grad_(True)
    ids = pipe.tokenizer(expanded(PROMPTS), padding="max_length", max_length=77, return_tensors="pt").input_ids
    torch_latents, torch_noise = (torch.tensor(x).permute(0, 3, 1, 2) for x in (latents, noise))
    steps = torch.tensor(timesteps, dtype=torch.long)
    noisy = diffusers.DDPMScheduler.from_config(pipe.scheduler.config).add_noise(torch_latents, torch_noise, steps)
    expected = ((pipe.unet(noisy, steps, pipe.bert(ids)[0]).sample - torch_noise) ** 2).mean(dim=(1, 2, 3))
    expected.sum().backward()
    check(losses, expected.detach(), 1e-5)
    check(gradient.vectors["text_encoder"], table.grad[-2:], 1e-4)


def test_file_of_a_word(twin, tmp_path):
    """Its width is that of SDXL's second encoder in the published model; the file still says whose it is."""
    concept = ti_jax.Concept(WORD, {"text_encoder": np.ones((2, 1280), np.float32)})
    concept.save(tmp_path / "fox.safetensors")
    assert list(ti_jax.Concept.load(tmp_path / "fox.safetensors").vectors) == ["text_encoder"]


def test_another_tokenizer(ldm_twin, tmp_path):
    """Such as bert-base-uncased for a model that came without one; here `vocab.txt` alone."""
    source = Path(ldm_twin[1].source)
    model = shutil.copytree(source, tmp_path / "model")
    (tmp_path / "words").mkdir()
    shutil.move(model / "tokenizer/vocab.txt", tmp_path / "words")
    shutil.rmtree(model / "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer/vocab\.json is missing"):
        ti_jax.load(model)
    pipeline = ti_jax.load(model, tokenizer=tmp_path / "words")
    (ours, theirs) = (p.tokenize(PROMPTS, {WORD: 2})["text_encoder"] for p in (pipeline, ldm_twin[1]))
    np.testing.assert_array_equal(ours.ids, theirs.ids)
