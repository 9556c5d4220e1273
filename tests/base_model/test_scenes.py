"""Scenes and their captions."""

import re

import numpy as np
import pytest
from backgrounds import COLOURS, Background
from captions import STYLES, caption, plural, portrait, with_article
from scenes import PLACES, SIZE, draw, random_scene
from treatments import TREATMENTS

SCENES = 300


@pytest.fixture(scope="module")
def scenes(seen):
    return [random_scene(seen, (0, i)) for i in range(SCENES)]


def test_a_scene_belongs_to_its_seed(seen, scenes):
    again = [random_scene(seen, (0, i)) for i in range(SCENES)]
    assert scenes == again
    assert caption(scenes[3], seen) == caption(again[3], seen)
    np.testing.assert_array_equal(draw(scenes[3], seen), draw(again[3], seen))
    others = [random_scene(seen, (1, i)) for i in range(20)]
    assert all(a.objects != b.objects for a, b in zip(scenes, others, strict=False))


def test_pictures_are_of_one_size(seen, scenes):
    for scene in scenes[:60]:
        picture = draw(scene, seen)
        assert picture.shape == (SIZE, SIZE, 3)
        assert picture.dtype == np.uint8


def test_captions_name_what_is_there(seen, scenes):
    for scene in scenes:
        words = caption(scene, seen)
        if not re.search("in the style of|style", words):  # a style's own templates name no thing
            for placed in scene.objects:
                name = seen.concepts[placed.code].name
                assert name in words or plural(name) in words
        if scene.place:
            assert scene.place.split()[-1] in words or "middle" in words
        if scene.named_background:
            assert all(colour in words for colour in scene.background.colours)
        if scene.treatment:
            assert scene.treatment in words or "blurr" in words
        elif scene.treatment is None:
            assert not any(treatment in words for treatment in TREATMENTS)


def test_captions_name_no_other_style(seen, scenes):
    for scene in scenes:
        others = [name for style, names in STYLES.items() if style != scene.style for name in names]
        assert not any(name in caption(scene, seen) for name in others)


def test_every_kind_of_scene_is_there(scenes):
    assert {scene.layout for scene in scenes} == {"one", "small", "pair", "several"}
    assert {scene.treatment for scene in scenes} == {None, *TREATMENTS}
    assert {scene.place for scene in scenes} >= {None, "top left", "top right", "bottom left", "bottom right"}
    assert {scene.style for scene in scenes} == set(STYLES)
    assert len({scene.background.kind for scene in scenes}) == 7


def test_a_portrait_mostly_names_its_style_and_shows_one_thing(seen, scenes):
    named = []
    for scene in scenes:
        shown, words = portrait(scene, seen)
        (placed,) = shown.objects
        assert (placed.code, shown.style) == (scene.objects[0].code, scene.style)
        assert shown.background == Background("plain", ("white",))
        concept = seen.concepts[placed.code]
        assert any(name in words for name in (concept.name, *concept.keywords))
        named.append(any(style in words for style in STYLES[scene.style]))
    assert 0.5 < np.mean(named) < 0.8


@pytest.mark.parametrize("colour", COLOURS)
def test_a_named_background_has_its_colour(colour):
    picture = Background("plain", (colour,)).draw(np.random.default_rng(0), SIZE)
    distances = {name: np.abs(picture.reshape(-1, 3).mean(0) - value).sum() for name, value in COLOURS.items()}
    assert min(distances, key=distances.get) == colour


def test_a_small_object_is_in_its_place(seen, scenes):
    checked = 0
    for scene in scenes:
        if scene.place is None or scene.treatment or scene.background.kind != "plain":
            continue
        picture = draw(scene, seen).astype(int)
        changed = np.abs(picture - picture[SIZE // 2 - 10, 2 if scene.place == "right" else -3]).sum(-1) > 30
        if not changed.any() or changed.mean() > 0.5:
            continue  # drawn in the background's colour
        checked += 1
        rows, columns = np.nonzero(changed)
        x, y = PLACES[scene.place]
        assert abs(columns.mean() / SIZE - (0.2 + 0.6 * x)) < 0.12
        assert abs(rows.mean() / SIZE - (0.2 + 0.6 * y)) < 0.12
    assert checked > 10


def test_words():
    assert with_article("owl") == "an owl"
    assert [plural(x) for x in ("cat", "cherry", "fox", "grapes", "key")] == [
        "cats",
        "cherries",
        "foxes",
        "grapes",
        "keys",
    ]
