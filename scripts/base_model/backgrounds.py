"""Backgrounds of scenes, and the words for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (220, 30, 40),
    "green": (30, 150, 60),
    "blue": (30, 80, 220),
    "yellow": (250, 220, 40),
    "orange": (250, 140, 20),
    "purple": (130, 40, 180),
    "pink": (250, 150, 190),
    "gray": (128, 128, 128),
    "brown": (120, 72, 36),
    "cyan": (40, 210, 220),
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "sky": ("in the sky", "in front of the sky"),
    "grass": ("on the grass", "on grass", "in the grass"),
    "night": ("at night", "in the night", "under the stars"),
    "water": ("in the water", "on the water", "in the sea"),
    "checkerboard": ("on a checkerboard", "on a checkerboard background"),
}
_COLOUR_JITTER = 10


@dataclass(frozen=True)
class Background:
    """What is behind the objects.

    Args:
        kind: plain, gradient, or one of `SETTINGS`.
        colours: names; one if plain, two from top to bottom if a gradient, none in a setting.
    """

    kind: str
    colours: tuple[str, ...] = ()

    def phrase(self, rng: np.random.Generator) -> str:
        """Words for it, such as `on a blue background`."""
        if self.kind == "plain":
            form = rng.choice(["on a {} background", "on a {} background", "with a {} background", "in front of {}"])
            return form.format(self.colours[0])
        if self.kind == "gradient":
            return f"on a {self.colours[0]} and {self.colours[1]} gradient"
        return str(rng.choice(SETTINGS[self.kind]))

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Its pixels, uint8 [size, size, 3]."""
        if self.kind in ("plain", "gradient"):
            top, bottom = (_jittered(name, rng) for name in (self.colours[0], self.colours[-1]))
            picture = _between(top, bottom if self.kind == "gradient" else top, size)
        else:
            picture = _PAINTERS[self.kind](rng, size)
        return np.clip(picture, 0, 255).astype(np.uint8)


def random_background(rng: np.random.Generator) -> Background:
    """A background for a caption to name."""
    kind = str(rng.choice(["plain", "gradient", "setting"], p=[0.7, 0.1, 0.2]))
    if kind == "plain":
        return Background(kind, (str(rng.choice(list(COLOURS))),))
    if kind == "gradient":
        first, second = rng.choice(list(COLOURS), 2, replace=False)
        return Background(kind, (str(first), str(second)))
    return Background(str(rng.choice(list(SETTINGS))))


def _jittered(name: str, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(COLOURS[name], np.float32) + rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, 3)


def _between(top: np.ndarray, bottom: np.ndarray, size: int) -> np.ndarray:
    share = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return np.broadcast_to((1 - share) * top + share * bottom, (size, size, 3)).copy()


def _sky(rng: np.random.Generator, size: int) -> np.ndarray:
    """Blue, lighter below, with a few white clouds."""
    picture = _between(np.array([90, 170, 240]), np.array([190, 225, 250]), size)
    rows, columns = np.mgrid[:size, :size] / size
    for _ in range(rng.integers(2, 5)):
        y, x, width = rng.uniform(0, 0.9), rng.uniform(0, 1), rng.uniform(0.08, 0.2)
        cloud = np.exp(-((((columns - x) / width) ** 2 + ((rows - y) / (0.4 * width)) ** 2) ** 2))
        picture += cloud[..., None] * (255 - picture)
    return picture


def _grass(rng: np.random.Generator, size: int) -> np.ndarray:
    """A meadow below a light sky."""
    horizon = int(size * rng.uniform(0.35, 0.55))
    picture = _between(np.array([170, 215, 250]), np.array([215, 235, 250]), size)
    blades = rng.uniform(-22, 22, (size - horizon, size, 1)) * np.array([0.6, 1.0, 0.5])
    picture[horizon:] = np.array([85, 165, 60]) + blades
    return picture


def _night(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dark blue with stars."""
    picture = _between(np.array([8, 10, 40]), np.array([30, 35, 85]), size)
    rows, columns = rng.integers(0, size, (2, int(rng.integers(15, 35))))
    picture[rows, columns] = rng.uniform(160, 255, (len(rows), 1))
    return picture


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    """Blue with lighter waves."""
    rows, columns = np.mgrid[:size, :size] / size * 2 * np.pi
    phase, number = rng.uniform(0, 2 * np.pi), rng.integers(5, 8)
    waves = np.sin(number * rows + 0.6 * np.sin(3 * columns + phase))
    return np.array([45, 130, 200]) + 28 * waves[..., None] * np.array([0.8, 1.0, 0.9])


def _checkerboard(rng: np.random.Generator, size: int) -> np.ndarray:
    """Light and dark gray squares of an eighth of the picture."""
    side = size // 8
    rows, columns = np.mgrid[:size, :size] // side
    light = (rows + columns + rng.integers(2)) % 2
    return np.where(light[..., None] == 1, 235.0, 150.0) * np.ones(3)


_PAINTERS = {"sky": _sky, "grass": _grass, "night": _night, "water": _water, "checkerboard": _checkerboard}
