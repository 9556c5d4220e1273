"""Whole models: folders that PyTorch wrote, in all the layouts of the hub, opened here and by PyTorch."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from twins import old_text_encoder, old_vae, open_twin, rewrite_json, rewrite_tensors, shake, write_tokenizer

import ti_jax
from ti_jax.diffusion.plan import plan
from ti_jax.errors import UserError
from ti_jax.pipeline import _natural_type
from ti_jax.weights import rules
from ti_jax.weights.loader import export_parameters

TABLES = {"text_encoder": rules.CLIP_TEXT, "unet": rules.UNET, "vae": rules.VAE}
WEIGHTS = {name: f"{name}/diffusion_pytorch_model.safetensors" for name in ("unet", "vae")} | {
    "text_encoder": "text_encoder/model.safetensors"
}


def close(ours, theirs):
    """Within 1e-4 of the scale of what PyTorch gives; ours are NHWC."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def same_weights(pipeline, pipe):
    """Every tensor of PyTorch's networks is exactly ours."""
    for name, table in TABLES.items():
        ours, theirs = export_parameters(pipeline.networks[name], table), getattr(pipe, name).state_dict()
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            np.testing.assert_array_equal(ours[key], tensor.numpy())


@pytest.mark.parametrize("twin", ["sd1_twin", "sd2_twin"])
@torch.no_grad()
def test_networks_give_what_torch_gives(twin, request):
    pipe, pipeline = request.getfixturevalue(twin)
    rng = np.random.default_rng(0)

    prompts = ["a red fox!", "two cats"]
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    ours = pipeline.tokenizers["text_encoder"](prompts, padding="max_length", max_length=pipeline.max_length).input_ids
    assert ids.tolist() == ours
    encoder = pipeline.networks["text_encoder"]
    pool = jnp.asarray(np.argmax(ours, axis=1), jnp.int32)
    encode = jax.jit(lambda encoder, ids, pool: encoder(encoder.embed(ids), pool))
    states = encode(encoder, jnp.asarray(ours, jnp.int32), pool)
    wanted = pipe.text_encoder(ids, output_hidden_states=True)
    close(states.last_hidden_state, wanted.last_hidden_state)
    close(states.penultimate_hidden_state, wanted.hidden_states[-2])
    close(states.pooled, wanted.pooler_output)

    h, w, c = pipeline.latent_shape()
    latents = rng.normal(size=(2, h, w, c)).astype(np.float32)
    torch_latents = torch.tensor(latents).permute(0, 3, 1, 2)
    timesteps = np.array([3, 911], np.int32)
    predicted = jax.jit(lambda unet, *x: unet(*x))(
        pipeline.networks["unet"], latents, timesteps, states.last_hidden_state
    )
    close(predicted, pipe.unet(torch_latents, torch.tensor(timesteps), wanted.last_hidden_state).sample)

    images = rng.uniform(-1, 1, (1, pipeline.resolution, pipeline.resolution, 3)).astype(np.float32)
    mean, log_variance = jax.jit(lambda vae, x: vae.encode(x))(pipeline.networks["vae"], images)
    posterior = pipe.vae.encode(torch.tensor(images).permute(0, 3, 1, 2)).latent_dist
    close(mean, posterior.mean)
    close(log_variance, posterior.logvar)
    decoded = jax.jit(lambda vae, x: vae.decode(x))(pipeline.networks["vae"], latents)
    close(decoded, pipe.vae.decode(torch_latents).sample)


def old_names(folder):
    rewrite_tensors(folder / WEIGHTS["text_encoder"], old_text_encoder)
    rewrite_tensors(folder / WEIGHTS["vae"], old_vae)


def fp16_variant(folder):
    for file in WEIGHTS.values():
        tensors = {name: tensor.half() for name, tensor in load_file(folder / file).items()}
        save_file(tensors, (folder / file).with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        (folder / file).unlink()


def shards(folder, variant=None):
    pipe = open_twin(folder)
    for name in WEIGHTS:
        (folder / WEIGHTS[name]).unlink()
        getattr(pipe, name).save_pretrained(folder / name, max_shard_size="40KB", variant=variant)
        assert len(list((folder / name).glob("*-of-*.safetensors"))) > 1


def shards_of_a_variant(folder):
    shards(folder, variant="fp16")


def bfloat16(folder):
    for file in WEIGHTS.values():
        rewrite_tensors(folder / file, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})


def pickled(folder):
    for file in WEIGHTS.values():
        name = "pytorch_model.bin" if "text" in file else "diffusion_pytorch_model.bin"
        torch.save(load_file(folder / file), (folder / file).with_name(name))
        (folder / file).unlink()


def old_tokenizer(folder):
    (folder / "tokenizer/tokenizer.json").unlink()
    write_tokenizer(folder / "tokenizer")


def keys_missing(folder):
    """As configs of the first diffusers: keys that came later, or have their default, are not there."""
    for key in (
        "act_fn",
        "center_input_sample",
        "freq_shift",
        "dual_cross_attention",
        "downsample_padding",
        "norm_eps",
    ):
        rewrite_json(folder / "unet/config.json", **{key: None})
    for key in ("scaling_factor", "force_upcast", "use_quant_conv", "mid_block_add_attention", "shift_factor"):
        rewrite_json(folder / "vae/config.json", **{key: None})
    for key in ("eos_token_id", "layer_norm_eps", "attention_dropout", "architectures"):
        rewrite_json(folder / "text_encoder/config.json", **{key: None})
    rewrite_json(folder / "scheduler/scheduler_config.json", num_train_timesteps=None, trained_betas=None)


def no_safety_checker_in_index(folder):
    rewrite_json(folder / "model_index.json", safety_checker=None, feature_extractor=None, image_encoder=None)


def a_safety_checker(folder):
    rewrite_json(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])


LAYOUTS = {
    layout.__name__: (layout, variant)
    for layout, variant in [
        (old_names, None),
        (fp16_variant, "fp16"),
        (shards, None),
        (shards_of_a_variant, "fp16"),
        (bfloat16, None),
        (pickled, None),
        (old_tokenizer, None),
        (keys_missing, None),
        (no_safety_checker_in_index, None),
        (a_safety_checker, None),
    ]
}


@pytest.fixture
def folder(sd2_twin, tmp_path):
    """A copy of the SD 2 twin, in the layout of today."""
    return shutil.copytree(sd2_twin[1].source, tmp_path / "model")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, folder):
    rewrite, variant = LAYOUTS[layout]
    rewrite(folder)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, variant=variant, safety_checker=None, torch_dtype=torch.float32, use_safetensors=layout != "pickled"
    )
    pipeline = ti_jax.load(folder, variant=variant, dtype="float32")
    same_weights(pipeline, pipe)
    assert pipeline.tokenizers["text_encoder"].get_vocab() == pipe.tokenizer.get_vocab()
    assert pipeline.networks["vae"].config.scaling_factor == pipe.vae.config.scaling_factor
    np.testing.assert_allclose(pipeline.schedule.alphas_cumprod, pipe.scheduler.alphas_cumprod, rtol=1e-6)


def test_convolutions_for_the_attention_of_the_autoencoder(sd2_twin, folder):
    """Which diffusers converts, but no longer loads."""
    rewrite_tensors(folder / WEIGHTS["vae"], lambda tensors: old_vae(tensors, convolutions=True))
    same_weights(ti_jax.load(folder), sd2_twin[0])


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [("DDIM", "ddim"), ("DDPM", "ddpm"), ("EulerDiscrete", "euler"), ("DPMSolverMultistep", "dpm++"), ("PNDM", None)],
)
def test_any_scheduler(kind, sampler, folder):
    """The index names the class, whatever the file of its settings says; where that has no offset there is one yet."""
    scheduler = getattr(diffusers, f"{kind}Scheduler")(beta_schedule="scaled_linear", beta_end=0.0123)
    scheduler.save_pretrained(folder / "scheduler")
    rewrite_json(folder / "scheduler/scheduler_config.json", steps_offset=None, timestep_spacing="leading")
    rewrite_json(folder / "model_index.json", scheduler=["diffusers", f"{kind}Scheduler"])
    schedule = ti_jax.load(folder).schedule
    np.testing.assert_allclose(schedule.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-6)
    assert schedule.prediction_type == "epsilon"
    if sampler:  # of ours there is none like PNDM
        theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).scheduler
        theirs.set_timesteps(20)
        np.testing.assert_array_equal(plan(schedule, sampler, 20).steps.timestep, theirs.timesteps.numpy())


def test_text_encoder_with_projection(folder):
    """The index decides, not the `architectures` of the encoder's own config."""
    config = transformers.CLIPTextConfig.from_pretrained(folder / "text_encoder")
    encoder = transformers.CLIPTextModelWithProjection(config).eval()
    shake(encoder)
    encoder.save_pretrained(folder / "text_encoder")
    rewrite_json(folder / "text_encoder/config.json", architectures=["CLIPModel"])
    rewrite_json(folder / "model_index.json", text_encoder=["transformers", "CLIPTextModelWithProjection"])
    ids = np.arange(77, dtype=np.int32)[None]
    ours = ti_jax.load(folder).networks["text_encoder"]
    with torch.no_grad():
        theirs = encoder(torch.tensor(ids, dtype=torch.long))
    pooled = jax.jit(lambda encoder, ids, pool: encoder(encoder.embed(ids), pool).pooled)
    close(pooled(ours, ids, np.array([76], np.int32)), theirs.text_embeds)


def truncated(folder):
    file = folder / WEIGHTS["unet"]
    file.write_bytes(file.read_bytes()[:-100])


def without(name, key):
    def change(folder):
        rewrite_tensors(folder / WEIGHTS[name], lambda tensors: {k: v for k, v in tensors.items() if k != key})

    return change


def with_tensor(name, key, *shape):
    return lambda folder: rewrite_tensors(folder / WEIGHTS[name], lambda tensors: {**tensors, key: torch.zeros(shape)})


def setting(file, **values):
    return lambda folder: rewrite_json(folder / file, **values)


def removed(name):
    def change(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def written(file, text):
    return lambda folder: (folder / file).write_text(text)


BROKEN = {
    "no index": (removed("model_index.json"), "is not a pipeline in diffusers format: it has no model_index.json"),
    "index is no JSON": (written("model_index.json", "{"), r"model_index\.json is not JSON"),
    "index is a list": (written("model_index.json", "[]"), r"model_index\.json does not hold a JSON object"),
    "other pipeline": (
        setting("model_index.json", _class_name="FluxPipeline"),
        "is a FluxPipeline, which cannot be loaded: only StableDiffusionPipeline, .* can",
    ),
    "index nests without end": (written("model_index.json", "[" * 100_000), r"model_index\.json is not JSON"),
    "odd part": (setting("model_index.json", unet=["diffusers"]), "has no unet: its model_index.json names none"),
    "no unet": (setting("model_index.json", unet=[None, None]), "has no unet"),
    "no vae named": (setting("model_index.json", vae=None), "has no vae"),
    "other vae": (setting("model_index.json", vae=["diffusers", "AutoencoderTiny"]), "its vae is a AutoencoderTiny"),
    "config is a folder": (
        lambda folder: (folder / "unet/config.json").rename(folder / "moved") and (folder / "unet/config.json").mkdir(),
        r"unet/config\.json cannot be read \(Is a directory\)",
    ),
    "no words": (setting("text_encoder/config.json", max_position_embeddings=0), "nothing can be built of the sizes"),
    "short tokenizer": (
        setting("tokenizer/tokenizer_config.json", model_max_length=-1),
        "damaged tokenizer .model_max_length = -1.",
    ),
    "whole numbers": (
        lambda folder: rewrite_tensors(
            folder / WEIGHTS["unet"], lambda tensors: {**tensors, "conv_in.bias": torch.ones(16, dtype=torch.int32)}
        ),
        r"unet: conv_in\.bias holds int32",
    ),
    "no config": (removed("unet/config.json"), r"unet/config\.json is missing: copy or download the whole model"),
    "no folder": (removed("vae"), r"vae/config\.json is missing"),
    "no weights": (removed(WEIGHTS["vae"]), r"vae has no diffusion_pytorch_model\.safetensors; it holds config\.json$"),
    "no tokenizer": (removed("tokenizer"), r"tokenizer/vocab\.json is missing"),
    "no scheduler": (removed("scheduler"), r"scheduler/scheduler_config\.json is missing"),
    "unknown option": (setting("unet/config.json", class_embed_type="timestep"), "class_embed_type = 'timestep'"),
    "depth": (setting("unet/config.json", in_channels=5), "its UNet takes 5 channels .* depth"),
    "other width": (
        setting("unet/config.json", cross_attention_dim=48),
        "context 48 wide, and .* gives 32",
    ),
    "too many words": (setting("text_encoder/config.json", vocab_size=9), "1514 words, .* text_encoder 9"),
    "truncated": (truncated, r"unet/diffusion_pytorch_model\.safetensors cannot be read .*: copy or download it again"),
    "missing tensor": (without("unet", "conv_in.bias"), r"unet \(1 problems?\):\n  conv_in\.bias \[16\] is missing"),
    "extra tensor": (with_tensor("vae", "ema", 3), r"vae \(1 problems?\):\n  ema \[3\] fits no parameter"),
    "other shape": (
        with_tensor("text_encoder", "final_layer_norm.bias", 31),
        r"text_encoder \(1 problems?\):\n  final_layer_norm\.bias has shape \[31\], which makes \[31\], not \[32\]",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(name, folder):
    change, message = BROKEN[name]
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        ti_jax.load(folder)
    assert str(folder) in str(caught.value) or "UNet: " in str(caught.value)


def test_sizes(sd1_twin):
    pipeline = sd1_twin[1]
    assert pipeline.max_length == 77
    assert pipeline.widths == {"text_encoder": 32}
    assert (pipeline.factor, pipeline.resolution) == (4, 32)
    assert pipeline.latent_shape() == (8, 8, 4)
    assert pipeline.latent_shape(64, 40) == (16, 10, 4)
    with pytest.raises(UserError, match="30 pixels are not a multiple of 4"):
        pipeline.latent_shape(32, 30)


@pytest.mark.parametrize(("version", "size"), [("0.6.0", 64), ("0.9.0", 8)])
def test_the_size_of_old_conversions(folder, version, size):
    """Before diffusers 0.9 they named the paper's, which its pipelines correct."""
    rewrite_json(folder / "unet/config.json", _diffusers_version=version)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    sizes = [unet.config.sample_size for unet in (pipe.unet, ti_jax.load(folder).networks["unet"])]
    assert sizes == [size, size]


def test_tokenizer_may_be_shorter_than_the_encoder(folder):
    rewrite_json(folder / "tokenizer/tokenizer_config.json", model_max_length=40)
    assert ti_jax.load(folder).max_length == 40


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        (SimpleNamespace(platform="cpu"), "float32"),
        (SimpleNamespace(platform="tpu"), "bfloat16"),
        (SimpleNamespace(platform="gpu", compute_capability="7.5"), "float16"),
        (SimpleNamespace(platform="gpu", compute_capability="8.0"), "bfloat16"),
        (SimpleNamespace(platform="gpu", compute_capability="10.0"), "bfloat16"),
        (SimpleNamespace(platform="gpu", compute_capability="gfx90a"), "bfloat16"),
    ],
)
def test_natural_type(device, dtype):
    assert _natural_type(device) == dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(folder, dtype):
    pipeline = ti_jax.load(folder, dtype=dtype)
    assert pipeline.precision == ti_jax.pipeline.Precision(dtype, dtype, dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(pipeline.networks)} == {dtype}


def test_unknown_dtype(folder):
    with pytest.raises(UserError, match="'float8' is not known: choose float32, bfloat16 or float16"):
        ti_jax.load(folder, dtype="float8")


def test_fingerprint(sd2_twin, folder):
    pipeline = sd2_twin[1]
    whole = pipeline.fingerprint
    old_names(folder)
    assert ti_jax.load(folder).fingerprint == whole  # the folder's name and layout do not matter

    others = [
        replace(pipeline, networks=_with_one_bit_changed(pipeline.networks)),
        ti_jax.load(folder, dtype="float16"),
    ]
    for file, values in [
        ("vae/config.json", {"scaling_factor": 0.2}),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}),
        ("scheduler/scheduler_config.json", {"beta_end": 0.0121}),
    ]:
        rewrite_json(folder / file, **values)
        others.append(ti_jax.load(folder))
    assert len({whole, *(other.fingerprint for other in others)}) == len(others) + 1


def _with_one_bit_changed(networks):
    leaves, structure = jax.tree.flatten(networks)
    leaves[7] = jnp.nextafter(leaves[7], 2.0)
    return jax.tree.unflatten(structure, leaves)


def test_tiny_is_whole():
    pipeline = ti_jax.load("tiny")
    assert pipeline.source == "tiny"
    assert pipeline.resolution == 64
    assert pipeline.max_length == 32
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(pipeline.networks))
    assert (Path(ti_jax.__file__).parent / "bundled/tiny/MODEL_CARD.md").exists()
