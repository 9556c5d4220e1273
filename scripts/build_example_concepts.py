"""Draws the example concepts that ship with the package (`bundled:fox`, `bundled:tabby`, `bundled:blob`).

The drawings come as SVG inside packages of the npm registry. Fetch them, then draw:

    mkdir icons && cd icons
    npm pack @iconify-json/fxemoji@1.2.2 @iconify-json/noto@1.2.9 @iconify-json/noto-v1@1.2.5
    cd ..
    python scripts/build_example_concepts.py icons

Needs the extra `[data]` for resvg-py. Drawing twice gives the same pixels. Who drew them, and under which
licence: `ti_jax/bundled/NOTICE.md`.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

logger = logging.getLogger(__name__)

CONCEPTS_FOLDER = Path(__file__).resolve().parents[1] / "ti_jax" / "bundled" / "concepts"


@dataclass(frozen=True)
class ConceptSource:
    """Where a concept's pictures come from: one npm tarball and the names of icons in it."""

    tarball: str
    icons: tuple[str, ...]


SOURCES = {
    # A character that no bundled model has seen, in a style it has not seen.
    "fox": ConceptSource(
        "iconify-json-fxemoji-1.2.2.tgz", ("foxgrin", "foxsmiling", "foxwry", "foxkissing", "foxcrying")
    ),
    # A character that no bundled model has seen, in a style it has.
    "tabby": ConceptSource(
        "iconify-json-noto-1.2.9.tgz",
        (
            "grinning-cat",
            "grinning-cat-with-smiling-eyes",
            "cat-with-wry-smile",
            "kissing-cat",
            "crying-cat",
        ),
    ),
    # A style that no bundled model has seen, on things it has.
    "blob": ConceptSource(
        "iconify-json-noto-v1-1.2.5.tgz", ("grinning-face", "penguin", "automobile", "strawberry", "octopus")
    ),
}


def read_icon_set(tarball: Path) -> dict[str, Any]:
    """The Iconify JSON of a packed `@iconify-json` package.

    Args:
        tarball: a file that `npm pack` made.

    Returns:
        the icon set; `icons` maps names to SVG bodies.
    """
    with tarfile.open(tarball) as archive:
        member = archive.extractfile("package/icons.json")
        assert member is not None, f"{tarball} has no package/icons.json"
        return json.load(member)


def rasterise(icon_set: Mapping[str, Any], name: str, *, size: int) -> Image.Image:
    """One icon with its transparent margin cut off.

    Args:
        icon_set: as `read_icon_set` gives it.
        name: of the icon.
        size: pixels of the longer side of the icon's canvas.

    Returns:
        RGBA, as large as what is drawn.
    """
    icon = icon_set["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icon_set["width"]), icon.get("height", icon_set["height"])
    scale = size / max(width, height)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}" '
        f'width="{round(width * scale)}" height="{round(height * scale)}">{icon["body"]}</svg>'
    )
    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    return drawn.crop(drawn.getchannel("A").getbbox())


def compose(drawing: Image.Image, *, side: int, fill: float, colors: int) -> Image.Image:
    """A drawing in the middle of a white square, with few enough colours for a small file.

    Args:
        drawing: RGBA without margin: icon sets differ in their margins, which would be learned as style.
        side: pixels of the square.
        fill: the drawing's longer side as a fraction of the square's, in (0, 1].
        colors: of the palette, at most 256.

    Returns:
        a palette picture, `side` x `side`.
    """
    scale = fill * side / max(drawing.size)
    small = drawing.resize((round(drawing.width * scale), round(drawing.height * scale)), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(small, ((side - small.width) // 2, (side - small.height) // 2))
    return square.convert("RGB").quantize(colors, dither=Image.Dither.NONE)


def build(icons_folder: Path, output: Path) -> None:
    """Draws every concept of `SOURCES`.

    Args:
        icons_folder: holds the tarballs.
        output: gets a folder of PNG files a concept.
    """
    for concept, source in SOURCES.items():
        icon_set = read_icon_set(icons_folder / source.tarball)
        folder = output / concept
        folder.mkdir(parents=True, exist_ok=True)
        for name in source.icons:
            drawing = rasterise(icon_set, name, size=1024)
            path = folder / f"{name}.png"
            compose(drawing, side=256, fill=0.875, colors=128).save(path, optimize=True)
            logger.info("%s: %d bytes", path, path.stat().st_size)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path, help="folder with the npm tarballs")
    parser.add_argument("--output", type=Path, default=CONCEPTS_FOLDER, help="folder to write to")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(arguments.icons, arguments.output)


if __name__ == "__main__":
    main()
