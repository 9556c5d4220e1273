"""Scenes: which drawings go where on which background, drawn at random by key, and their pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from backgrounds import Background, random_background
from drawings import Drawings
from PIL import Image, ImageChops
from treatments import TREATMENTS

SIZE = 64
"""Pixels in height and in width of a scene."""
PLACES: dict[str, tuple[float, float]] = {
    "top left": (0.0, 0.0),
    "top right": (1.0, 0.0),
    "bottom left": (0.0, 1.0),
    "bottom right": (1.0, 1.0),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "center": (0.5, 0.5),
}
"""Where a small object is, as shares of the free width and height."""
_COMMON_PLACES = ("top left", "top right", "bottom left", "bottom right")
GRIDS: dict[int, tuple[tuple[float, float], ...]] = {
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.5, 0.27), (0.27, 0.73), (0.73, 0.73)),
    4: ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
    9: tuple((x, y) for y in (0.18, 0.5, 0.82) for x in (0.18, 0.5, 0.82)),
}
"""Centres of several copies, by their number."""
_DARK = 90.0


@dataclass(frozen=True)
class Placed:
    """An object in a scene: what, and the centre and longer side of its drawing as shares of the scene's side."""

    code: str
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    Args:
        seed: of the random details of its picture and caption.
        layout: `one`, `small`, `pair` or `several`.
        style: of all its drawings.
        objects: in the order a caption names them.
        background: behind them.
        named_background: whether the caption tells the background; one that is not told is plain.
        place: of a small object, a key of `PLACES`.
        treatment: of the whole picture, a key of `TREATMENTS`.
    """

    seed: tuple[int, ...]
    layout: str
    style: str
    objects: tuple[Placed, ...]
    background: Background
    named_background: bool
    place: str | None = None
    treatment: str | None = None


def random_scene(drawings: Drawings, seed: tuple[int, ...]) -> Scene:
    """The scene that belongs to a seed.

    Args:
        drawings: to take from.
        seed: integers, such as (number of the data set, index of the scene).

    Returns:
        the scene; the same for the same drawings and seed.
    """
    rng = np.random.default_rng(seed)
    layout = str(rng.choice(["one", "small", "pair", "several"], p=[0.55, 0.2, 0.17, 0.08]))
    codes = list(drawings.styles)
    first, second = (codes[i] for i in rng.integers(len(codes), size=2))
    style = str(rng.choice(drawings.styles[first]))
    if (style, second) not in drawings.images:
        second = first
    named = bool(rng.random() < 0.55)
    scene = Scene(
        seed=seed,
        layout=layout,
        style=style,
        objects=(),
        background=random_background(rng) if named else _quiet_background(rng),
        named_background=named,
        treatment=str(rng.choice(list(TREATMENTS))) if rng.random() < 0.12 else None,
    )
    return _arrange(scene, first, second, rng)


def _quiet_background(rng: np.random.Generator) -> Background:
    """What is behind objects when nothing is said of it: mostly white."""
    return Background("plain", ("white" if rng.random() < 0.8 else str(rng.choice(["gray", "blue", "green", "pink"])),))


def _arrange(scene: Scene, first: str, second: str, rng: np.random.Generator) -> Scene:
    """Puts the objects in."""
    if scene.layout == "one":
        x, y = 0.5 + rng.uniform(-0.05, 0.05, 2)
        return replace(scene, objects=(Placed(first, x, y, rng.uniform(0.72, 0.95)),))
    if scene.layout == "small":
        place = str(rng.choice(_COMMON_PLACES if rng.random() < 0.6 else list(PLACES)))
        side = rng.uniform(0.3, 0.42)
        x, y = centre_of(place, side)
        return replace(scene, objects=(Placed(first, x, y, side),), place=place)
    if scene.layout == "pair" and second != first:
        sides = rng.uniform(0.4, 0.47, 2)
        placed = (
            Placed(code, x, 0.5, side) for code, (x, _), side in zip((first, second), GRIDS[2], sides, strict=True)
        )
        return replace(scene, objects=tuple(placed))
    number = int(rng.choice(list(GRIDS)))
    side = (0.28 if number == 9 else 0.42) * rng.uniform(0.9, 1.05)
    return replace(scene, layout="several", objects=tuple(Placed(first, x, y, side) for x, y in GRIDS[number]))


def centre_of(place: str, side: float) -> tuple[float, float]:
    """The centre of a small object of a side in a named place; all of them shares of the scene's side."""
    x, y = (side / 2 + 0.03 + share * (0.94 - side) for share in PLACES[place])
    return x, y


def alone(scene: Scene) -> Scene:
    """A scene of the first object only, large and on white: nothing but concept and style tells such scenes apart."""
    only = Placed(scene.objects[0].code, 0.5, 0.5, 0.85)
    white = Background("plain", ("white",))
    return replace(
        scene, layout="one", objects=(only,), background=white, named_background=False, place=None, treatment=None
    )


def draw(scene: Scene, drawings: Drawings) -> np.ndarray:
    """The picture of a scene, uint8 [SIZE, SIZE, 3]."""
    rng = np.random.default_rng((*scene.seed, 1))
    backdrop = scene.background.draw(rng, SIZE)
    picture = Image.fromarray(backdrop)
    light_ink = scene.style == "fluent-mono" and float(backdrop.mean()) < _DARK  # black strokes would not be seen
    for placed in scene.objects:
        drawing = drawings.images[scene.style, placed.code]
        scale = placed.side * SIZE / max(drawing.size)
        size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
        small = drawing.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        corner = (round(placed.x * SIZE - size[0] / 2), round(placed.y * SIZE - size[1] / 2))
        _paste(picture, small, corner, light_ink=light_ink)
    return np.asarray(TREATMENTS[scene.treatment](picture) if scene.treatment else picture)


def _paste(picture: Image.Image, drawing: Image.Image, corner: tuple[int, int], *, light_ink: bool) -> None:
    """Puts a premultiplied drawing over a picture."""
    alpha = drawing.getchannel("A" if drawing.mode == "RGBA" else "a")
    ink = Image.merge("RGB", [alpha] * 3 if light_ink else drawing.split()[:3])
    box = (*corner, corner[0] + drawing.width, corner[1] + drawing.height)
    behind = ImageChops.multiply(picture.crop(box), Image.merge("RGB", [ImageChops.invert(alpha)] * 3))
    picture.paste(ImageChops.add(behind, ink), box)
