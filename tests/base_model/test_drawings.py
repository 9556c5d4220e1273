"""What may be seen in training."""

import json
import os
from pathlib import Path

import pytest
from drawings import (
    HELD_OUT_CHARACTERS,
    HELD_OUT_CONCEPTS,
    HELD_OUT_STYLES,
    HOLDOUT,
    core_concepts,
    cut,
    held_out_part,
    is_held_out,
    training_part,
)
from PIL import Image


def test_every_drawing_is_either_seen_or_held_out(drawings):
    seen, kept = training_part(drawings), held_out_part(drawings)
    assert set(seen.images) | set(kept.images) == set(drawings.images)
    assert not set(seen.images) & set(kept.images)
    assert set(seen.concepts) == {code for _, code in seen.images}


def test_held_out_concepts_characters_and_styles_are_not_seen(seen):
    assert not HELD_OUT_STYLES & {style for style, _ in seen.images}
    assert not (HELD_OUT_CONCEPTS | HELD_OUT_CHARACTERS) & set(seen.concepts)


def test_the_list_of_what_is_held_out():
    assert (len(HELD_OUT_CONCEPTS), len(HELD_OUT_CHARACTERS), len(HELD_OUT_STYLES)) == (64, 9, 2)
    assert is_held_out("noto", "1f415")
    assert is_held_out("blob", "1f34e")
    assert not is_held_out("noto", "1f34e")


def test_keywords_are_not_names_of_other_concepts():
    row = {"variant": None, "text_like": False}
    table = {
        "1": {**row, "name": "poodle", "keywords": ["dog", "pet", "PUPPY", "key"]},
        "2": {**row, "name": "key", "keywords": ["pet", "lock"]},
        "3": {**row, "name": "lock", "keywords": ["pet"]},
        "4": {**row, "name": "hamster", "keywords": ["pet"]},
        "5": {**row, "name": "letter", "keywords": [], "text_like": True},
        "6": {**row, "name": "woman: poodle", "keywords": [], "variant": "gender"},
    }
    concepts = core_concepts(table)
    assert set(concepts) == {"1", "2", "3", "4"}
    assert concepts["1"].keywords == ("puppy",)  # dog is held out, pet means four things, key is a thing


def test_margins_are_cut_off():
    canvas = Image.new("RGBA", (96, 96))
    canvas.paste((200, 10, 10, 255), (20, 30, 60, 50))
    assert cut(canvas).size == (40, 20)
    assert cut(canvas.resize((960, 960), Image.Resampling.NEAREST)).size == (80, 40)


@pytest.mark.skipif("TI_JAX_SHARED_DATA" not in os.environ, reason="wants TI_JAX_SHARED_DATA")
def test_the_list_is_the_one_that_was_agreed():
    shared = Path(os.environ["TI_JAX_SHARED_DATA"])
    assert json.loads((shared / "holdout.json").read_text()) == HOLDOUT
    concepts = core_concepts(json.loads((shared / "emoji.json").read_text()))
    assert len(concepts) == 1310
    assert set(concepts) >= HELD_OUT_CONCEPTS | HELD_OUT_CHARACTERS
    names = set(HOLDOUT["concepts"].values())
    assert not any(names & {*c.keywords} for c in concepts.values())
    assert not any(names & {c.name} for code, c in concepts.items() if code not in HELD_OUT_CONCEPTS)
