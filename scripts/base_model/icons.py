"""Drawings of emoji by several hands, from packages of icons."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from packages import Packages, code_of, tidy_code
from PIL import Image

SIDE = 96
"""Pixels of the canvas."""


@dataclass(frozen=True)
class Hand:
    """Who drew a style: the package it comes from, the artists, and the licence they give."""

    package: str
    artist: str
    licence: str


HANDS = {
    "fluent-3d": Hand("@lobehub/fluent-emoji-3d", "Microsoft", "MIT"),
    "fluent-flat": Hand("@iconify-json/fluent-emoji-flat", "Microsoft", "MIT"),
    "fluent-mono": Hand("@iconify-json/fluent-emoji-high-contrast", "Microsoft", "MIT"),
    "noto": Hand("@iconify-json/noto", "Google", "Apache-2.0"),
    "twemoji": Hand("@iconify-json/twemoji", "Twitter, Inc and other contributors", "CC-BY-4.0"),
    "emojitwo": Hand("@iconify-json/emojione", "EmojiTwo contributors", "CC-BY-4.0"),
    "blob": Hand("@iconify-json/noto-v1", "Google", "Apache-2.0"),
    "fxemoji": Hand("@iconify-json/fxemoji", "Mozilla", "CC-BY-4.0"),
}
"""By style. The artists' own licences; a package's may be another, of its code."""
_ODD_NAMES = json.loads((Path(__file__).parent / "icon_names.json").read_text())
"""By style and code, icons not called after what they show; None where the one of that name shows something else."""


def draw_style(packages: Packages, style: str, names: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """The drawings of one hand.

    Args:
        packages: fetched.
        style: a key of `HANDS`.
        names: of the emoji that are wanted, by code.

    Returns:
        codes with RGBA pictures.
    """
    if style == "fluent-3d":
        yield from _fluent_3d(packages, names)
        return
    icons = packages.json(HANDS[style].package, "icons.json")
    for code, icon in icon_names(packages, style, names).items():
        yield code, rasterise(icons, icon)


def _fluent_3d(packages: Packages, names: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """Only what Microsoft's own list has; the package holds flags by others too."""
    listed = {code_of(row["glyph"]) for row in packages.json("fluentui-emoji-js", "emojiData.json")}
    # Some are there twice, with and without the selector of presentation.
    files = {tidy_code(stem): content for stem, content in packages.files(HANDS["fluent-3d"].package, ".webp")}
    for code in names:
        if code in files and code in listed:
            picture = Image.open(io.BytesIO(files[code])).convert("RGBa")
            yield code, picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGBA")


def icon_names(packages: Packages, style: str, names: dict[str, str]) -> dict[str, str]:
    """Which icon shows an emoji: by the package's own table of characters if it has one, otherwise by name.

    Args:
        packages: fetched.
        style: a key of `HANDS`, not `fluent-3d`.
        names: of the emoji, by code.

    Returns:
        icons by code, for the emoji that there are.
    """
    icons = packages.json(HANDS[style].package, "icons.json")
    known = {*icons["icons"], *icons.get("aliases", {})}
    found = _by_character(packages, style) or _by_name(packages, known, names) | _ODD_NAMES[style]
    return {code: found[code] for code in names if found.get(code) in known}


def _by_name(packages: Packages, icons: set[str], names: dict[str, str]) -> dict[str, str | None]:
    """Icons called as the emoji is, as it is in Noto, or as Unicode formally calls it."""
    squashed = {_squash(icon): icon for icon in sorted(icons, reverse=True)}
    noto = _by_character(packages, "noto")
    formal = {
        tidy_code(code): name for code, name in packages.json("emojibase-data", "meta/unicode-names.json").items()
    }
    found: dict[str, str | None] = {}
    for code, name in names.items():
        calls = (_squash(words) for words in (name, noto.get(code, ""), formal.get(code, "")))
        found[code] = next((squashed[words] for words in calls if words in squashed), None)
    return found


def _by_character(packages: Packages, style: str) -> dict[str, str]:
    return {tidy_code(code): icon for code, icon in packages.json(HANDS[style].package, "chars.json").items()}


def _squash(words: str) -> str:
    return re.sub(r"[^a-z0-9]", "", words.lower())


def rasterise(icons: dict[str, Any], name: str) -> Image.Image:
    """An icon in the middle of a square of `SIDE` pixels.

    Args:
        icons: Iconify's JSON.
        name: of an icon or of an alias of one.

    Returns:
        RGBA.
    """
    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = {**{key: icons[key] for key in ("width", "height") if key in icons}, **icons["icons"][name]}
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon['width']} {icon['height']}"
    size = f'width="{SIDE}" height="{SIDE}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {size}>{icon["body"]}</svg>'
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
