"""`evaluate` on a random model, against transformers' CLIP on the same pictures."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import ti_jax
from ti_jax.evaluation.evaluate import without_word

QUICK = {"num_images": 2, "steps": 2}


@pytest.fixture(scope="module")
def pipeline(sd1_twin):
    return sd1_twin[1]


@pytest.fixture(scope="module")
def concept(pipeline):
    rows = pipeline.token_tables["text_encoder"][[5, 9]]
    return ti_jax.Concept("<fox>", {"text_encoder": rows})


@pytest.fixture(scope="module")
def pictures():
    return list(np.random.default_rng(1).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def scores(pipeline, concept, pictures, clip):
    return ti_jax.evaluate(pipeline, concept, pictures, clip=clip, **QUICK)


def test_scores_are_those_of_transformers(scores, pipeline, concept, pictures, theirs):
    prompts = ["a photo of <fox>", "a photo of <fox> on the moon", "an oil painting of <fox>"]
    drawn = ti_jax.generate(pipeline, prompts, concepts=[concept], num_images=2, steps=2)
    side = pipeline.resolution
    squares = [Image.fromarray(p).crop((0, 5, 30, 35)).resize((side, side), Image.Resampling.BICUBIC) for p in pictures]
    given, first, *others = (theirs(pictures=x) for x in ([np.asarray(s) for s in squares], *np.split(drawn, 3)))
    texts = theirs(texts=["a photo of on the moon", "an oil painting of"])
    assert scores.image_similarity == pytest.approx((first @ given.T).mean(), abs=1e-5)
    assert scores.pictures_similarity == pytest.approx(
        np.mean([given[0] @ given[1], given[0] @ given[2], given[1] @ given[2]]), abs=1e-5
    )
    for score, images, text in zip(scores.prompts, others, texts, strict=True):
        average = images.mean(axis=0)
        assert score.text_similarity == pytest.approx(average @ text / np.linalg.norm(average), abs=1e-5)
        assert score.mean_text_similarity == pytest.approx((images @ text).mean(), abs=1e-5)
    assert scores.text_similarity == pytest.approx(np.mean([score.text_similarity for score in scores.prompts]))


def test_what_it_says(scores, clip_folder):
    assert scores.concept == "<fox>"
    assert scores.clip == str(clip_folder)
    assert [(score.prompt, score.text) for score in scores.prompts] == [
        ("a photo of <fox> on the moon", "a photo of on the moon"),
        ("an oil painting of <fox>", "an oil painting of"),
    ]
    assert scores.settings["prompt"] == "a photo of {}"
    json.dumps(dataclasses.asdict(scores))


def test_a_picture_alone_and_prompts_of_ones_own(pipeline, concept, pictures, clip_folder):
    scores = ti_jax.evaluate(pipeline, concept, pictures[:1], clip=clip_folder, prompts=["{} in red"], **QUICK)
    assert scores.pictures_similarity is None
    assert [score.text for score in scores.prompts] == ["in red"]


@pytest.mark.parametrize("options", [{"prompts": ["a cat"]}, {"prompts": []}, {"num_images": 0}], ids=str)
def test_nothing_to_score(options, pipeline, concept, pictures, clip):
    with pytest.raises(ti_jax.UserError, match=r"has no \{\} for the word|give 1 or more"):
        ti_jax.evaluate(pipeline, concept, pictures, clip=clip, **options)


def test_the_word_is_deleted():
    assert without_word("A photo of {} on the moon") == "A photo of on the moon"
    assert without_word("{}, a {}") == ", a"


def test_command(run, tmp_path, monkeypatch, pipeline, concept, pictures, clip_folder, scores):
    from ti_jax.cli.common import Common

    monkeypatch.setattr(Common, "load_pipeline", lambda self: pipeline)
    concept.save(tmp_path / "fox.safetensors")
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"pictures/{i}.png")
    options = ("fox.safetensors", "pictures", "--clip", clip_folder, "--num-images", 2, "--steps", 2)
    status, out, _ = run("evaluate", *options, "--json", "--output", "here")
    assert status == 0
    report = json.loads(out)
    assert report == json.loads((tmp_path / "here/evaluation.json").read_text())
    assert report["image_similarity"] == pytest.approx(scores.image_similarity, abs=1e-6)
    assert report["prompts"][0]["prompt"] == "a photo of <fox> on the moon"

    status, out, _ = run("evaluate", *options, "--prompt", "{} in red")
    assert status == 0
    assert f"image similarity  {scores.image_similarity:.3f}  (its pictures among themselves" in out
    assert out.splitlines()[-1].endswith("  in red")
