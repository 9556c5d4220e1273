"""Prompts whose pictures can be judged, each with a scene that fits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from backgrounds import COLOURS, Background
from captions import STYLES, article, with_article
from drawings import Drawings
from scenes import GRIDS, PLACES, Placed, Scene, centre_of
from treatments import FORMS

MEASURES = 2
"""First number of the seeds; none of these scenes is seen in training."""
KINDS = ("colour", "place", "concept", "style", "pair", "treatment")


@dataclass(frozen=True)
class Case:
    """What is asked for.

    Args:
        kind: what is judged, one of `KINDS`.
        template: the prompt; `{name}` stands for the object, `{thing}` for it with its article.
        scene: that fits it; the object is its first.
        truth: the colour, the place, the style or the treatment; the name of the second object of a pair.
    """

    kind: str
    template: str
    scene: Scene
    truth: str

    @property
    def code(self) -> str:
        """Of the object."""
        return self.scene.objects[0].code

    def prompt(self, name: str) -> str:
        """The prompt for an object of a name, or for a learned word."""
        return self.template.format(name=name, thing=with_article(name))


def cases(drawings: Drawings, kind: str, count: int) -> list[Case]:
    """Cases of one kind; the truths take turns, the rest is drawn at random by the case's number.

    Args:
        drawings: whose concepts and styles are asked for.
        kind: one of `KINDS`.
        count: of cases.

    Returns:
        the cases.
    """
    return [_MAKERS[kind](drawings, _plain_scene(drawings, kind, i), i) for i in range(count)]


def _plain_scene(drawings: Drawings, kind: str, index: int) -> Scene:
    """One object, large, on white."""
    seed = (MEASURES, KINDS.index(kind), index)
    rng = np.random.default_rng(seed)
    code = str(rng.choice(list(drawings.styles)))
    return Scene(
        seed=seed,
        layout="one",
        style=str(rng.choice(drawings.styles[code])),
        objects=(Placed(code, 0.5, 0.5, 0.8),),
        background=Background("plain", ("white",)),
        named_background=False,
    )


def _colour(drawings: Drawings, scene: Scene, index: int) -> Case:
    colour = list(COLOURS)[index % len(COLOURS)]
    scene = replace(scene, background=Background("plain", (colour,)), named_background=True)
    return Case("colour", f"{{thing}} on a {colour} background", scene, colour)


def _place(drawings: Drawings, scene: Scene, index: int) -> Case:
    place, side = list(PLACES)[index % len(PLACES)], 0.36
    where = f"{'on' if place in ('left', 'right') else 'at' if place in ('top', 'bottom') else 'in'} the {place}"
    x, y = centre_of(place, side)
    scene = replace(scene, layout="small", objects=(Placed(scene.objects[0].code, x, y, side),), place=place)
    return Case("place", f"a small {{name}} {where}", scene, place)


def _concept(drawings: Drawings, scene: Scene, index: int) -> Case:
    return Case("concept", "a picture of {thing}", scene, drawings.concepts[scene.objects[0].code].name)


def _style(drawings: Drawings, scene: Scene, index: int) -> Case:
    style = list(STYLES)[index % len(STYLES)]
    having = [code for code, styles in drawings.styles.items() if style in styles]
    code = str(np.random.default_rng(scene.seed).choice(having))
    words = STYLES[style][0]
    scene = replace(scene, style=style, objects=(Placed(code, 0.5, 0.5, 0.8),))
    return Case("style", f"{article(words)} {words} of {{thing}}", scene, style)


def _pair(drawings: Drawings, scene: Scene, index: int) -> Case:
    others = [c for c, styles in drawings.styles.items() if scene.style in styles and c != scene.objects[0].code]
    second = str(np.random.default_rng(scene.seed).choice(others))
    codes = (scene.objects[0].code, second)
    placed = tuple(Placed(code, x, y, 0.44) for code, (x, y) in zip(codes, GRIDS[2], strict=True))
    name = drawings.concepts[second].name
    return Case("pair", f"{{thing}} and {with_article(name)}", replace(scene, layout="pair", objects=placed), name)


def _treatment(drawings: Drawings, scene: Scene, index: int) -> Case:
    treatment = list(FORMS)[index % len(FORMS)]
    return Case(
        "treatment", FORMS[treatment][0].replace("{}", "{thing}"), replace(scene, treatment=treatment), treatment
    )


_MAKERS: dict[str, Callable[[Drawings, Scene, int], Case]] = dict(
    zip(KINDS, (_colour, _place, _concept, _style, _pair, _treatment), strict=True)
)
