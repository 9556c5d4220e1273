"""Captions of scenes, in varied wording."""

from __future__ import annotations

import numpy as np
from drawings import Concept, Drawings
from scenes import Scene, alone
from treatments import FORMS

from ti_jax.data.captions import OBJECT_TEMPLATES, STYLE_TEMPLATES

STYLES: dict[str, tuple[str, ...]] = {
    "fluent-3d": ("3d render", "3d icon"),
    "fluent-flat": ("flat icon", "flat drawing"),
    "fluent-mono": ("line icon", "monochrome icon"),
    "noto": ("noto emoji",),
    "twemoji": ("twitter emoji",),
    "emojitwo": ("emojitwo emoji",),
}
"""Names of the styles that are seen in training."""
_PLAIN_FORMS = ("a picture of {}", "an icon of {}", "a drawing of {}", "an emoji of {}", "an image of {}", "{}", "{}")
_STYLE_FORMS = (
    "{article} {style} of {thing}",
    "{article} {style} of {thing}",
    "{thing}, {style}",
    "{thing} in the style of {article} {style}",
    "a picture of {thing} in the style of {article} {style}",
    "{thing} as {article} {style}",
)
_NUMBERS = {2: ("two",), 3: ("three",), 4: ("four", "several"), 9: ("many", "nine", "a lot of")}
_PLACE_FORMS = {
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "left": ("on the left",),
    "right": ("on the right",),
    "center": ("in the center", "in the middle"),
}
_PAIR_FORMS = ("{} and {}", "{} and {}", "{} next to {}", "{} beside {}", "{} to the left of {}")


def caption(scene: Scene, drawings: Drawings) -> str:
    """What a person might say of a scene.

    Args:
        scene: which.
        drawings: whose concepts it shows.

    Returns:
        a sentence in lower case, the same for the same scene.
    """
    rng = np.random.default_rng((*scene.seed, 2))
    names = [_name(drawings.concepts[placed.code], rng) for placed in scene.objects]
    if scene.layout == "one" and not scene.treatment and rng.random() < 0.25:
        words = str(rng.choice(OBJECT_TEMPLATES)).format(names[0])
    elif scene.layout == "one" and not scene.treatment and rng.random() < 0.06:
        words = str(rng.choice(STYLE_TEMPLATES)).format(rng.choice(STYLES[scene.style]))
    else:
        words = _in_style(_thing(scene, names, rng), scene, rng)
    if scene.named_background:
        words = f"{words} {scene.background.phrase(rng)}"
    return str(rng.choice(FORMS[scene.treatment])).format(words) if scene.treatment else words


def _name(concept: Concept, rng: np.random.Generator) -> str:
    """The concept's name, or sometimes a keyword."""
    return str(rng.choice(concept.keywords)) if concept.keywords and rng.random() < 0.15 else concept.name


def _thing(scene: Scene, names: list[str], rng: np.random.Generator) -> str:
    """The objects with their places or number."""
    if scene.layout == "pair":
        return str(rng.choice(_PAIR_FORMS)).format(*map(with_article, names))
    if scene.layout == "several":
        return f"{rng.choice(_NUMBERS[len(names)])} {plural(names[0])}"
    if scene.layout == "small":
        assert scene.place is not None
        forms = _PLACE_FORMS.get(scene.place, ("in the {}", "in the {} corner", "at the {}"))
        return f"{with_article('small ' + names[0])} {str(rng.choice(forms)).format(scene.place)}"
    return with_article(names[0])


def _in_style(thing: str, scene: Scene, rng: np.random.Generator) -> str:
    """Names the style in half of the captions."""
    if rng.random() < 0.5 or (scene.treatment and rng.random() < 0.6):
        return thing if scene.treatment else str(rng.choice(_PLAIN_FORMS)).format(thing)
    return in_style(thing, scene.style, rng)


def in_style(thing: str, style: str, rng: np.random.Generator) -> str:
    """A thing with its article, such as `an owl`, and its style."""
    words = str(rng.choice(STYLES[style]))
    return str(rng.choice(_STYLE_FORMS)).format(article=article(words), style=words, thing=thing)


def portrait(scene: Scene, drawings: Drawings) -> tuple[Scene, str]:
    """The first object of a scene alone, and a caption that names it and mostly its style: how a hand draws a thing.

    A third of the captions do not name the style, as the prompts of an inversion do not.
    """
    scene = alone(scene)
    rng = np.random.default_rng((*scene.seed, 3))
    name = _name(drawings.concepts[scene.objects[0].code], rng)
    words = in_style(with_article(name), scene.style, rng)
    return scene, str(rng.choice(OBJECT_TEMPLATES)).format(name) if rng.random() < 1 / 3 else words


def article(words: str) -> str:
    """`a` or `an`."""
    return "an" if words[:1] in "aeiou" else "a"


def with_article(words: str) -> str:
    """`a cat`, `an apple`."""
    return f"{article(words)} {words}"


def plural(name: str) -> str:
    """Several of a thing; as regular as it can be said without a dictionary."""
    if name.endswith(("s", "x", "ch", "sh")):
        return name if name.endswith("s") else f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else f"{name}s"
