"""What is written opens in diffusers and transformers, with the same results; and the tokenizer."""

import dataclasses
import functools

import clip
import diffusers
import export
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
import unet
import vae
import words
from flax import nnx
from torch_pair import check, draws, nchw, nhwc, run

import ti_jax
from ti_jax.models.clip import CLIPTextModel
from ti_jax.models.clip_vision import CLIPModel
from ti_jax.models.unet import UNet2DConditionModel
from ti_jax.models.vae import AutoencoderKL
from ti_jax.weights.loader import abstract_network


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_autoencoder(tmp_path):
    config = dataclasses.replace(vae.CONFIG, block_out_channels=(8, 16, 16), scaling_factor=0.7)
    ours = AutoencoderKL(config, rngs=nnx.Rngs(0))
    export.write_vae(tmp_path, ours, config, dtype="float32")
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    assert theirs.config.scaling_factor == 0.7
    images = draws(1, 16, 16, 3)
    check(run(ours, jnp.asarray(images), method="encode")[0], nhwc(theirs.encode(nchw(images)).latent_dist.mean), 1e-4)
    latents = draws(1, 4, 4, 4)
    check(run(ours, jnp.asarray(latents), method="decode"), nhwc(theirs.decode(nchw(latents)).sample), 1e-4)


def test_unet(tmp_path):
    config = dataclasses.replace(unet.CONFIG, block_out_channels=(16, 32, 32))
    ours = UNet2DConditionModel(config, rngs=nnx.Rngs(0))
    export.write_unet(tmp_path, ours, config, dtype="float32")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path)
    latents, context, times = draws(1, 8, 8, 4), draws(1, 5, 128), np.asarray([600])
    expected = theirs(nchw(latents), torch.tensor(times), torch.tensor(context)).sample
    check(run(ours, jnp.asarray(latents), jnp.asarray(times), jnp.asarray(context)), nhwc(expected), 1e-4)


def test_text_encoder(tmp_path, tokenizer):
    ours = words.small_embeddings(CLIPTextModel(words.TEXT, rngs=nnx.Rngs(0)))
    export.write_text_encoder(tmp_path, ours, words.TEXT, dtype="float32")
    theirs = transformers.CLIPTextModel.from_pretrained(tmp_path)
    ids, ends = words.ids_of(tokenizer, ["a photo of a penguin", ""])
    output = run(ours, ours.embed(jnp.asarray(ids)), jnp.asarray(ends))
    expected = theirs(torch.tensor(ids).long())
    check(output.last_hidden_state, expected.last_hidden_state, 1e-4)
    check(output.pooled, expected.pooler_output, 1e-4)


def test_clip(tmp_path, tokenizer):
    ours = CLIPModel(clip.CONFIG, rngs=nnx.Rngs(0))
    export.write_clip(tmp_path, ours, clip.CONFIG, dtype="float32")
    theirs = transformers.CLIPModel.from_pretrained(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    prepared = transformers.CLIPImageProcessor.from_pretrained(tmp_path)(list(pictures), return_tensors="pt")
    ids, ends = words.ids_of(tokenizer, ["a red apple", "a small key in the top left"])
    expected = theirs(input_ids=torch.tensor(ids).long(), pixel_values=prepared["pixel_values"])
    check(clip.image_vectors(ours, pictures), expected.image_embeds, 1e-4)
    check(clip.text_vectors(ours, ids, ends), expected.text_embeds, 1e-4)
    tokenizer.save_pretrained(tmp_path)
    judge = ti_jax.load_clip(tmp_path)
    check(judge.image_vectors(list(pictures)), expected.image_embeds, 1e-4)
    check(judge.text_vectors(["a red apple", "a small key in the top left"]), expected.text_embeds, 1e-4)


def test_the_pipeline_opens(tmp_path, tokenizer):
    for name, kind, config, write in [
        ("vae", AutoencoderKL, vae.CONFIG, export.write_vae),
        ("unet", UNet2DConditionModel, unet.CONFIG, export.write_unet),
        ("text_encoder", CLIPTextModel, words.TEXT, export.write_text_encoder),
    ]:
        shapes = abstract_network(functools.partial(kind, config))
        write(tmp_path / name, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), config)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    export.write_pipeline(tmp_path)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    ours, bundled = ti_jax.load(tmp_path), ti_jax.load("tiny")
    assert ours.resolution == bundled.resolution == 64
    assert ours.inversion_defaults == bundled.inversion_defaults


def test_no_text_is_unknown_to_the_tokenizer(tokenizer):
    for text in ("a red apple", "Ünï日🦊 <fox>", "x" * 10, "3d render, 1/2"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids
        assert tokenizer.eos_token_id not in ids
    assert tokenizer("a photo of a penguin")["input_ids"][:1] == [tokenizer.bos_token_id] == [0]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert len(tokenizer.tokenize("a photo of a penguin")) == 5
