"""Measures on scenes whose truth is known: they must find it."""

from types import SimpleNamespace

import classifier
import export
import jax
import measure
import numpy as np
import pytest
import subjects
from backgrounds import COLOURS
from captions import STYLES
from cases import KINDS, cases
from judges import ClipJudge
from pixels import background_colour, object_place
from scenes import PLACES, SIZE
from treatments import TREATMENTS


@pytest.mark.parametrize("kind", KINDS)
def test_cases(kind, seen):
    group = cases(seen, kind, 30)
    assert group == cases(seen, kind, 30)
    prompts = [case.prompt(seen.concepts[case.code].name) for case in group]
    assert all(seen.concepts[case.code].name in prompt for case, prompt in zip(group, prompts, strict=True))
    assert all("<fox>" in case.prompt("<fox>") for case in group)
    wanted = {"colour": set(COLOURS), "place": set(PLACES), "style": set(STYLES), "treatment": set(TREATMENTS)}
    assert {case.truth for case in group} >= wanted.get(kind, set())
    assert len({case.scene.seed for case in group}) == 30


@pytest.mark.parametrize(("kind", "read"), [("colour", background_colour), ("place", object_place)])
def test_pixels_tell_the_truth(kind, read, seen):
    group = cases(seen, kind, 108)
    answers = [read(picture) for picture in measure.drawn(seen)(group)]
    assert np.mean([answer == case.truth for answer, case in zip(answers, group, strict=True)]) >= 0.95


@pytest.mark.parametrize("covered", [0, SIZE * 3 // 4])
def test_what_is_no_small_thing_has_no_place(covered):
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    picture[4 : 4 + covered, 4 : 4 + covered] = 0
    assert object_place(picture) is None


class Oracle:
    """A CLIP that knows what each picture was drawn for; texts are near that share words."""

    def __init__(self, prompts_of_pictures):
        self.prompts = prompts_of_pictures
        self.words = {}

    def text_vectors(self, texts):
        vectors = np.zeros((len(texts), 400))
        for row, text in zip(vectors, texts, strict=True):
            for word in text.split():
                row[self.words.setdefault(word, len(self.words))] = 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)

    def image_vectors(self, pictures):
        return self.text_vectors([self.prompts[picture.tobytes()] for picture in pictures])


@pytest.fixture
def shares(seen, request):
    """Of a model that draws, of cases of a kind, what the one asks for that stands so many places farther on."""
    prompts = {}

    def draw_cases(group):
        pictures = np.random.default_rng(len(prompts)).integers(0, 256, (len(group), 8, 8, 3), dtype=np.uint8)
        for case, picture in zip([*group[request.param :], *group[: request.param]], pictures, strict=True):
            prompts[picture.tobytes()] = case.prompt(seen.concepts[case.code].name)
        return pictures

    return measure.measure(draw_cases, seen, {"clip": ClipJudge(Oracle(prompts), seen)}, 12)


@pytest.mark.parametrize("shares", [0], indirect=True)
def test_a_faultless_model_is_found_faultless(shares):
    assert shares.pop("styles mistaken by clip") == {}
    judged = {name: share for name, share in shares.items() if name.endswith("clip")}
    assert judged == dict.fromkeys(judged, 1.0)
    assert len(judged) == 5
    assert shares["colour"] < 0.5  # these pictures are noise


@pytest.mark.parametrize("shares", [1], indirect=True)
def test_a_model_that_draws_something_else_is_found_wrong(shares):
    assert shares["style by clip"] == shares["treatment by clip"] == 0
    assert sum(shares["styles mistaken by clip"].values()) == 12
    assert shares["pair by clip"] < 0.5
    assert shares["concept top-1 by clip"] < 0.5  # by chance the next case may ask for the same thing


def test_nearest_names(seen):
    """By text and by drawings, each name once, from a CLIP that sees pixels and no text."""

    def image_vectors(pictures):
        ink = 255.0 - np.stack(pictures).reshape(len(pictures), -1)
        return ink / np.linalg.norm(ink, axis=1, keepdims=True)

    no_text = SimpleNamespace(
        image_vectors=image_vectors, text_vectors=lambda texts: np.zeros((len(texts), 3 * SIZE**2))
    )
    judge = ClipJudge(no_text, seen)
    code = list(seen.concepts)[-1]
    picture = subjects.picture(seen, seen.styles[code][0], code)
    names = judge.nearest_names(picture[None], 1)
    assert names == [judge.names[0], seen.concepts[code].name]
    assert judge.nearest_names(picture[None], len(judge.names)) == judge.names


def test_ranks_that_are_wrong(seen):
    prompts, names = {}, [concept.name for concept in seen.concepts.values()]
    judge = ClipJudge(Oracle(prompts), seen)
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    prompts[picture[0].tobytes()] = f"a {names[0]}"
    assert measure.concept_ranks(judge, picture, names[:1]) == [0]
    assert measure.concept_ranks(judge, picture, names[1:2]) >= [1]


def test_the_classifier_is_read_back(seen, tmp_path, monkeypatch):
    for name, value in {"_CHANNELS": (8, 8, 8), "_GROUPS": 2, "_UNSEEN": 4}.items():
        monkeypatch.setattr(classifier, name, value)
    written = classifier.classifier_stage(seen, steps=1).start().average
    export.write_classifier(tmp_path / "classifier.safetensors", written)
    judge = classifier.load_classifier(tmp_path / "classifier.safetensors", seen)
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    assert judge.concepts(pictures).shape == (3, len(seen.concepts)) == (3, len(judge.names))
    assert judge.styles(pictures, []).shape == (3, len(STYLES))
    for ours, theirs in zip(jax.tree.leaves(judge.model), jax.tree.leaves(written), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float16))
