"""The study of what inversion does for what was held out."""

from pathlib import Path
from types import SimpleNamespace

import inversions
import jax.numpy as jnp
import numpy as np
import pytest
import subjects
import write_held_out
from drawings import HOLDOUT, Drawings
from PIL import Image

import ti_jax
from ti_jax.data.sources import concepts_from_folder


def test_every_held_out_concept_has_another_word_to_begin_with_and_a_caption():
    names = set(HOLDOUT["concepts"].values())
    assert set(subjects.WORDS) == names
    tokenizer = ti_jax.load("tiny").tokenizers["text_encoder"]
    for initializer, caption in subjects.WORDS.values():
        assert len(tokenizer(initializer, add_special_tokens=False).input_ids) == 1
        assert initializer not in names
        assert len(tokenizer(caption).input_ids) <= 32


def test_a_picture_is_one_thing_on_white(drawings):
    picture = subjects.picture(drawings, "noto", "1f511")
    assert picture.shape == (64, 64, 3)
    assert (picture[0] == 255).all()
    assert (picture[32, 32] != 255).any()


def test_held_out_concepts_are_written_as_a_catalogue(drawings, monkeypatch, tmp_path):
    monkeypatch.setattr(subjects, "HOLDOUT", {"concepts": {"1f415": "dog"}})
    monkeypatch.setattr(write_held_out, "read_dataset", lambda folder: drawings)
    monkeypatch.setattr("sys.argv", ["write_held_out.py", "--output", str(tmp_path / "catalogue")])
    write_held_out.main()
    (spec,) = concepts_from_folder(tmp_path / "catalogue")
    assert (spec.name, spec.initializer) == ("dog", "wolf")
    (subject,) = subjects.concept_subjects(drawings)
    pictures = [np.asarray(Image.open(file)) for file in sorted(Path(spec.pictures).glob("*.png"))]
    np.testing.assert_array_equal(pictures, subject.shown)


def test_characters(drawings):
    """The fox is shown by the pictures that are bundled; other pictures of it are left for the judges."""
    codes = HOLDOUT["characters"]["codepoints"]
    cat = drawings.images["noto", "1f63a"]
    cats = Drawings({("noto", code): cat for code in codes}, {})
    square = '<path fill="#{}" d="M8 8h16v16H8z"/>'
    icons = {name: {"body": square.format(f"{i}00")} for i, name in enumerate(subjects.FOX)}
    packages = SimpleNamespace(json=lambda name, file: {"width": 32, "height": 32, "icons": icons})
    tabby, fox = subjects.character_subjects(cats, packages)
    assert (tabby.name, len(tabby.shown), len(tabby.others)) == ("tabby", 5, 4)
    assert (fox.name, len(fox.shown), len(fox.others)) == ("fox", 5, 4)
    np.testing.assert_allclose(np.concatenate([fox.shown, fox.others])[:, 32, 32, 0], np.arange(9) * 17, atol=1)
    bundled = Path(ti_jax.__file__).parent / "bundled" / "concepts" / "fox"
    assert set(subjects.FOX[: subjects.SHOWN]) == {file.stem for file in bundled.glob("*.png")}


def test_the_nearest_subject_is_found():
    """With a judge whose features are mean colours."""
    judge = SimpleNamespace(features=lambda images: jnp.mean(images, axis=(1, 2)) + 1.0)
    colours = {"red": (250, 10, 10), "blue": (10, 10, 250)}
    pictures = {name: np.tile(np.asarray(value, np.uint8), (2, 8, 8, 1)) for name, value in colours.items()}
    # What an inversion was shown says nothing here: the colours stand the other way round.
    known = [
        subjects.Subject(name, "concept", "thing", (), pictures[shown], pictures[name])
        for name, shown in (("red", "blue"), ("blue", "red"))
    ]
    retrieval = inversions.Retrieval(judge, known)
    mixed = np.concatenate([pictures["red"], pictures["blue"][:1]])
    assert retrieval.share(mixed, "red") == pytest.approx(2 / 3)
    assert retrieval.share(mixed, "blue") == pytest.approx(1 / 3)


def test_totals():
    def row(word, other):
        scores = {"word": word, "initializer": other, "name": other, "caption": other}
        return {"kind": "concept", "name": "x", **{f"similarity of {who}": score for who, score in scores.items()}}

    found = inversions.totals([row(0.8, 0.5), row(0.4, 0.5)])["concept"]
    assert found["similarity of word"] == pytest.approx(0.6)
    assert found["likelier than name"] == 1
    assert found["subjects"] == 2


def test_what_a_picture_shows():
    plain = np.full((64, 64, 3), (220, 30, 40), np.uint8)
    assert inversions._answer("colour", plain, None) == "red"
    plain[4:16, 4:16] = 255
    assert inversions._answer("place", plain, None) == "top left"
    assert inversions._answer("treatment", plain, "mosaic") == "mosaic"
