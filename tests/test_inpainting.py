"""Inpainting models against torch diffusers' pipelines for them: folders, single files, pictures; what is refused."""

from copy import deepcopy

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from original_layout import original_layout
from PIL import Image
from safetensors.torch import save_file
from torch_pair import check, nhwc, same_weights
from twins import shake

import ti_jax
from ti_jax.errors import UserError
from ti_jax.inpainting import encode_scene

PIPELINES = {
    "sd1_twin": diffusers.StableDiffusionInpaintPipeline,
    "sd2_twin": diffusers.StableDiffusionInpaintPipeline,
    "sdxl_twin": diffusers.StableDiffusionXLInpaintPipeline,
}
PROMPTS = ["a photo of <fox> on a green background", "a cat, <fox>"]
SIZE = (32, 48)


def make_twin(kind, usual, folder):
    """A random inpainting pipeline, PyTorch's and ours, of the same files: the usual twin with another UNet."""
    torch.manual_seed(5)
    unet = diffusers.UNet2DConditionModel.from_config({**usual.unet.config, "in_channels": 9}).eval()
    shake(unet)
    options = {"add_watermarker": False} if kind == "sdxl_twin" else {"requires_safety_checker": False}
    PIPELINES[kind](**{**usual.components, "unet": unet}, **options).save_pretrained(folder)
    pipe = PIPELINES[kind].from_pretrained(folder, local_files_only=True)
    return pipe, ti_jax.load(folder, dtype="float32")


@pytest.fixture(scope="module", params=PIPELINES)
def twin(request, tmp_path_factory):
    return make_twin(request.param, request.getfixturevalue(request.param)[0], tmp_path_factory.mktemp("inpainting"))


@pytest.fixture(scope="module")
def sd1(sd1_twin, tmp_path_factory):
    return make_twin("sd1_twin", sd1_twin[0], tmp_path_factory.mktemp("inpainting"))


@pytest.fixture
def scene():
    """A picture and a mask with soft edges, of sizes of their own."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40]
    mask = np.clip(300 - 14 * np.hypot(rows - 17, columns - 22), 0, 255).astype(np.uint8)
    return rng.integers(0, 256, (50, 70, 3), np.uint8), mask


@pytest.fixture
def mean_latents(monkeypatch):
    """diffusers takes the mean of the posterior, as we do, where it would draw a sample."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)


def concept_of(pipeline):
    rng = np.random.default_rng(0)
    return ti_jax.Concept(
        "<fox>", {name: rng.normal(0, 0.3, (2, width)).astype(np.float32) for name, width in pipeline.widths.items()}
    )


def draw(pipeline, image, mask, **options):
    defaults = {"steps": 4, "height": SIZE[0], "width": SIZE[1], "concepts": [concept_of(pipeline)]}
    return ti_jax.generate(pipeline, PROMPTS, image=image, mask=mask, **{**defaults, **options})


@pytest.mark.parametrize(
    ("twin", "sampler", "guidance"),
    [("sd1_twin", "euler", 1.0), ("sd2_twin", "ddim", 5.0), ("sdxl_twin", "ddim", 5.0)],
    indirect=["twin"],
)
def test_pictures(twin, scene, mean_latents, sampler, guidance):
    pipe, pipeline = deepcopy(twin[0]), twin[1]
    pipe.set_progress_bar_config(disable=True)
    latents = np.random.default_rng(1).normal(size=(2, 8, 12, 4)).astype(np.float32)
    images = draw(pipeline, *scene, latents=latents, sampler=sampler, guidance=guidance)

    for name, vectors in concept_of(pipeline).vectors.items():
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
        pipe.load_textual_inversion(
            {"<fox>": torch.tensor(vectors)}, token="<fox>", text_encoder=getattr(pipe, name), tokenizer=tokenizer
        )
    kind = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}[sampler]
    pipe.scheduler = kind.from_config(pipe.scheduler.config, clip_sample=False)
    picture, mask = (Image.fromarray(part) for part in scene)
    expected = pipe(
        PROMPTS,
        image=picture,
        mask_image=mask,
        strength=1.0,
        guidance_scale=guidance,
        num_inference_steps=4,
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
        height=SIZE[0],
        width=SIZE[1],
        output_type="np",
    ).images
    expected = np.round(expected * 255)
    assert expected.std() > 10
    assert np.abs(images - expected).max() <= 2
    nothing_to_paint = draw(pipeline, scene[0], scene[1] * 0, latents=latents, sampler=sampler, guidance=guidance)
    assert np.abs(images.astype(int) - nothing_to_paint).max() > 10, "the mask is of no effect"


@pytest.mark.parametrize("kind", ["bool", "zero and one", "share", "levels"])
def test_kinds_of_masks(sd1, kind):
    pipeline = sd1[1]
    paint = np.zeros(SIZE, bool)
    paint[10:, 20:] = True
    mask = {
        "bool": paint,
        "zero and one": paint.astype(np.uint8),
        "share": np.where(paint, 0.5, 0.49),
        "levels": np.where(paint, np.uint8(128), np.uint8(127)),
    }[kind]
    image = np.full((*SIZE, 3), 200, np.uint8)
    scene = np.asarray(encode_scene(pipeline, image, mask, *SIZE))
    np.testing.assert_array_equal(scene[..., 0], paint[::4, ::4])
    hidden = np.where(paint[..., None], 127.5, image) / 127.5 - 1
    with torch.no_grad():
        expected = sd1[0].vae.encode(torch.tensor(hidden, dtype=torch.float32).permute(2, 0, 1)[None]).latent_dist.mean
    check(scene[..., 1:], nhwc(expected)[0] * sd1[0].vae.config.scaling_factor, 1e-4)


def test_single_files(twin, tmp_path):
    pipe, pipeline = twin
    file = tmp_path / "model.safetensors"
    save_file(original_layout(pipe), file)
    ours = ti_jax.load(file, config=pipeline.source, dtype="float32")
    assert ours.inpaints
    same_weights(ours, pipe)
    same_weights(ours, type(pipe).from_single_file(str(file), config=pipeline.source, local_files_only=True))


def test_command(sd1, scene, run, tmp_path):
    picture, mask = (Image.fromarray(part) for part in scene)
    picture.save(tmp_path / "room.png")
    mask.putalpha(7)  # which says nothing
    mask.save(tmp_path / "mask.png")
    drawing = {"steps": 4, "sampler": "euler", "guidance": 1.0, "height": SIZE[0], "width": SIZE[1]}
    options = ("--model", sd1[1].source, *(part for key, value in drawing.items() for part in (f"--{key}", value)))
    scene_options = ("--image", "room.png", "--mask", "mask.png")
    status, _, error = run("generate", "a cat", "a dog", *options, *scene_options, "--output", "out")
    assert status == 0, error
    drawn = np.asarray(Image.open(tmp_path / "out/0000.png"))
    expected = ti_jax.generate(sd1[1], ["a cat", "a dog"], image=scene[0], mask=scene[1], **drawing)
    np.testing.assert_array_equal(drawn, expected[0])
    assert run("generate", "a cat", *options, *scene_options[:2])[::2] == (
        1,
        f"ti-jax: {sd1[1].source} is an inpainting model: give image and mask (--image, --mask)\n",
    )
    status, _, error = run("generate", "a cat", *options, "--image", "room.png", "--mask", "none.png")
    assert (status, "none.png cannot be read" in error) == (1, True)


IMAGE, MASK = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (None, MASK, "give image and mask"),
        (IMAGE, None, "give image and mask"),
        (IMAGE[..., 0], MASK, r"image is uint8 \[8, 8\]: give uint8"),
        (IMAGE / 2, MASK, "image is float64"),
        (IMAGE, IMAGE, r"mask is uint8 \[8, 8, 3\]: give numbers"),
        (IMAGE, MASK * -1.0, "mask has values from -1 to -1"),
        (IMAGE, MASK * np.nan, "mask has values from nan"),
        (IMAGE, MASK[:0], "mask is bool"),
        (IMAGE, "mask.png", "mask is <U8"),
    ],
)
def test_bad_scenes(sd1, image, mask, message):
    with pytest.raises(UserError, match=message):
        draw(sd1[1], image, mask)


def test_other_models_take_no_scene(sd1_twin):
    with pytest.raises(UserError, match="is not an inpainting model: leave image and mask out"):
        draw(sd1_twin[1], IMAGE, MASK)


def test_inpainting_models_only_draw(sd1):
    pipeline, concept = sd1[1], concept_of(sd1[1])
    zeros = np.zeros((2, 8, 8, 4), np.float32)
    calls = [
        lambda: ti_jax.invert(pipeline, [IMAGE], placeholder="<fox>", initializer="cat"),
        lambda: ti_jax.invert_many(pipeline, [ti_jax.ConceptSpec("fox", "<fox>", "cat", [IMAGE])]),
        lambda: ti_jax.denoising_loss(
            pipeline, concept, PROMPTS, latents=zeros, noise=zeros, timesteps=np.array([1, 2], np.int32)
        ),
    ]
    for call in calls:
        with pytest.raises(UserError, match="is an inpainting model: learn the word with the model it was made"):
            call()
