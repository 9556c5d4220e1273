"""Pictures against torch diffusers' `StableDiffusionPipeline`, and what `generate` promises."""

from copy import deepcopy

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ti_jax
from ti_jax import generation
from ti_jax.errors import UserError
from ti_jax.weights.hub import resolve

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
}
PROMPTS = ["a small cat in the top left", "a red apple and a pizza on a blue background"]
PROMPTS_WITH_WORD = ["a photo of <fox> on a green background", "a cat, <fox>"]
STEPS = 10  # and two prompts with one word of three vectors: as often as can be, so that little is compiled


@pytest.fixture
def pipeline(sd1_twin):
    return sd1_twin[1]


def _generate(pipeline, prompts, **options):
    return ti_jax.generate(pipeline, prompts, **{"concepts": [_concept(pipeline)], "steps": STEPS, **options})


def _concept(pipeline, placeholder="<fox>", count=3, seed=0):
    """A word about as far from the others as they are from each other."""
    width = pipeline.widths["text_encoder"]
    table = np.asarray(pipeline.networks["text_encoder"].embed(jnp.arange(100)))
    vectors = np.random.default_rng(seed).normal(table.mean(0), table.std(0), (count, width))
    return ti_jax.Concept(placeholder, {"text_encoder": vectors.astype(np.float32)})


def _assert_near(ours, theirs, levels):
    assert ours.shape == theirs.shape
    assert theirs.std() > 10, "a flat picture would hide a difference"
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= levels


@pytest.mark.parametrize("twin", ["sd1_twin", "sd2_twin"])
@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize(
    ("prompts", "guidance", "negative_prompt"),
    [(PROMPTS, 5.0, ""), (PROMPTS, 1.0, ""), (PROMPTS_WITH_WORD, 5.0, ""), (PROMPTS_WITH_WORD, 7.5, "blue, <fox>")],
    ids=["prompts", "unguided", "word", "negative word"],
)
def test_pictures_are_those_of_diffusers(twin, sampler, prompts, guidance, negative_prompt, request, tmp_path):
    pipe, pipeline = request.getfixturevalue(twin)
    _check_pictures(pipe, pipeline, sampler, prompts, guidance, negative_prompt, tmp_path)


def test_pictures_of_the_bundled_model_are_those_of_diffusers(tmp_path):
    folder = resolve("tiny", variant=None, revision=None)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    _check_pictures(pipe, ti_jax.load("tiny"), "ddim", PROMPTS_WITH_WORD, 5.0, "a dog", tmp_path)


def _check_pictures(pipe, pipeline, sampler, prompts, guidance, negative_prompt, folder):
    latents = np.random.default_rng(1).normal(size=(2, *pipeline.latent_shape())).astype(np.float32)
    images = _generate(
        pipeline, prompts, sampler=sampler, guidance=guidance, negative_prompt=negative_prompt, latents=latents
    )

    pipe = deepcopy(pipe)  # a word is added to it
    pipe.set_progress_bar_config(disable=True)
    _concept(pipeline).save(folder / "fox.safetensors")
    pipe.load_textual_inversion(folder / "fox.safetensors", token="<fox>")
    pipe.scheduler = SCHEDULERS[sampler].from_config(pipe.scheduler.config, clip_sample=False)
    expected = pipe(
        prompts,
        negative_prompt=[negative_prompt] * len(prompts),
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
        output_type="pil",
    ).images
    _assert_near(images, np.stack([np.asarray(image) for image in expected]), 2)


def test_a_word_with_the_vector_of_another_is_that_other(pipeline):
    (cat,) = pipeline.tokenizers["text_encoder"]("cat", add_special_tokens=False).input_ids
    vector = np.asarray(pipeline.networks["text_encoder"].embed(jnp.array([cat])))
    words = [_concept(pipeline, count=2), ti_jax.Concept("<cat>", {"text_encoder": vector})]
    images, expected = (
        _generate(pipeline, ["<fox>", f"a {cat} and <fox>"], concepts=words) for cat in ("<cat>", "cat")
    )
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm"}, {"eta": 1.0}])
def test_a_picture_does_not_depend_on_its_batch(pipeline, options):
    by_two = _generate(pipeline, [*PROMPTS, "a dog"], batch_size=2, seed=5, **options)
    alone = _generate(pipeline, [*PROMPTS, "a dog"], batch_size=1, seed=5, **options)
    _assert_near(by_two, alone, 1)


def test_num_images_and_seed(pipeline):
    images = _generate(pipeline, PROMPTS, num_images=2, batch_size=2)
    repeated = _generate(pipeline, [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, batch_size=2)
    np.testing.assert_array_equal(images, repeated)
    assert len({image.tobytes() for image in images}) == 4
    assert not np.array_equal(images[:2], _generate(pipeline, PROMPTS, seed=1))


def test_size(pipeline):
    size = pipeline.resolution
    images = ti_jax.generate(pipeline, "a cat", steps=1, height=size, width=2 * size)
    assert images.shape == (1, size, 2 * size, 3)
    assert images.dtype == np.uint8


def test_guidance_of_one_and_below_is_none(pipeline):
    expected = _generate(pipeline, PROMPTS, guidance=1.0)
    np.testing.assert_array_equal(expected, _generate(pipeline, PROMPTS, guidance=0.3, negative_prompt="a dog"))


def test_new_words_prompts_and_seeds_do_not_compile_again(pipeline, monkeypatch):
    _generate(pipeline, PROMPTS)
    monkeypatch.setattr(generation, "sample", lambda *_: pytest.fail("traced again"))
    _generate(pipeline, PROMPTS_WITH_WORD, concepts=[_concept(pipeline, seed=1)], seed=1, negative_prompt="a dog")
    star = _concept(pipeline, "<star>")
    _generate(pipeline, ["<star>", "a cat", "a dog"], concepts=[star], guidance=3.0, sampler="dpm++", batch_size=2)
    _generate(pipeline, ["<star> and <fox>", "<star> alone"], concepts=[star, _concept(pipeline)])
    _generate(pipeline, PROMPTS, concepts=[], seed=2)


def test_a_prompt_that_is_too_long_is_cut_off_with_a_warning(pipeline, caplog):
    _generate(pipeline, ["a cat " * 50, "a dog"])
    assert "cut off" in caplog.text


def test_a_word_that_no_prompt_holds_is_named(pipeline, caplog):
    words = [_concept(pipeline, word, count) for word, count in (("<fox>", 2), ("<star>", 3), ("<ink>", 1))]
    options = {"concepts": words}
    _generate(pipeline, ["a <Fox>", "a cat"], negative_prompt="<ink>", **options)
    (message,) = [record.message for record in caplog.records if "no prompt holds" in record.message]
    assert "<star>" in message
    caplog.clear()
    _generate(pipeline, ["a fox, <stars>", "a star in <ink>, <star>"], **options)
    (message,) = [record.message for record in caplog.records if "no prompt holds" in record.message]
    assert "<fox>" in message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prompts": []}, "nothing to draw"),
        ({"num_images": 0}, "num_images"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"sampler": "plms"}, "plms"),
        ({"eta": 0.5, "sampler": "euler"}, "eta"),
        ({"height": 17}, "17"),
        ({"latents": np.zeros((2, 8, 8, 4), np.float32)}, "latents"),
        ({"latents": np.zeros((1, 8, 8, 3), np.float32)}, "latents"),
    ],
)
def test_bad_arguments(pipeline, options, named):
    with pytest.raises(UserError, match=named):
        ti_jax.generate(pipeline, **{"prompts": ["a cat"], **options})


def test_words_that_do_not_fit(pipeline):
    with pytest.raises(UserError, match="<Fox>"):
        ti_jax.generate(pipeline, "a", concepts=[_concept(pipeline), _concept(pipeline, "<Fox>")])
    for first, second in (("caf\u00e9", "cafe\u0301"), ("<caf\u00e9>", "<CAFE\u0301>")):
        with pytest.raises(
            UserError, match=r"two concepts have the word .*: write one of them anew with ti-jax convert"
        ):
            ti_jax.generate(pipeline, "a", concepts=[_concept(pipeline, first), _concept(pipeline, second)])
    fitting = np.zeros((1, pipeline.widths["text_encoder"]), np.float32)
    for strange in {"text_encoder": np.zeros((1, 7))}, {"text_encoder": fitting, "text_encoder_2": fitting}:
        with pytest.raises(UserError, match="another model"):
            ti_jax.generate(pipeline, "a", concepts=[ti_jax.Concept("<fox>", strange)])
