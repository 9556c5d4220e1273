"""Pictures from wherever the user has them, as squares of pixels."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ti_jax.errors import UserError
from ti_jax.files import locate

logger = logging.getLogger(__name__)

_BUNDLED = epath.Path(__file__).parent.parent / "bundled" / "concepts"

# Modes that do not say what white is: the least of these values that the picture does not exceed, or 65535.
_WIDE = {"I": (255.0,), "F": (1.0, 255.0)}

Crop = Literal["center", "squash"]


@dataclass(frozen=True, eq=False)
class Picture:
    """A training picture."""

    name: str
    pixels: UInt8[np.ndarray, "resolution resolution 3"]
    size: tuple[int, int]
    """Height and width before it was made square."""
    crop: tuple[int, int]
    """Top and left of the square, in pixels of the resized picture."""
    path: epath.Path | None = None
    """Where it was read from; None for an array."""


def load_pictures(source: Any, *, resolution: int, crop: Crop = "center", skip_bad: bool = False) -> list[Picture]:
    """Pictures, made square.

    Args:
        source: a folder (its picture files in the order of their names, hidden ones left out), one or several files,
            `bundled:NAME`, or arrays uint8 [h, w, 3] (or one array [n, h, w, 3]). Of what else is in a folder, but for
            text, it warns.
        resolution: side in pixels.
        crop: cut out the middle square, or squash the whole picture into one.
        skip_bad: leave out files that cannot be read, with a warning.

    Returns:
        at least one picture.

    Raises:
        UserError: if there is no such folder or file, no picture in it, or one that cannot be read; it is named.
    """
    if isinstance(source, str | os.PathLike) or (isinstance(source, list | tuple) and _are_paths(source)):
        paths = _paths(source)
        _warn_of_others(source)
        pictures = [p for p in (_read(path, resolution, crop, skip_bad) for path in paths) if p is not None]
        if not pictures:
            raise UserError(f"none of the {len(paths)} pictures can be read: {', '.join(p.name for p in paths[:5])}")
        return pictures
    if not isinstance(source, Iterable):
        raise UserError(f"pictures are a folder, files, bundled:NAME or arrays, not {type(source).__name__}")
    return [
        _square(f"picture {i}", _from_array(array, i), resolution, crop) for i, array in enumerate(source)
    ] or _no_pictures("the list of arrays")


def count_pictures(source: Any) -> int:
    """How many pictures `load_pictures` will read at most, without opening one.

    Args:
        source: as it takes it.

    Raises:
        UserError: if there is no such folder or file, no picture in it, or nobody can tell how many, as of a generator.
    """
    if isinstance(source, str | os.PathLike) or (isinstance(source, list | tuple) and _are_paths(source)):
        return len(_paths(source))
    if not isinstance(source, Sized):
        raise UserError(f"how many pictures a {type(source).__name__} has is not known: give a list of them")
    return len(source)


def read_picture(path: epath.PathLike) -> UInt8[np.ndarray, "height width 3"]:
    """A picture file at its own size, turned as its EXIF data say, on white where it is transparent.

    Raises:
        UserError: if it cannot be read.
    """
    return np.asarray(_converted(path, _rgb))


def read_mask(path: epath.PathLike) -> UInt8[np.ndarray, "height width"]:
    """A picture file at its own size in grey, 255 where it is white, whether that is transparent or not.

    Raises:
        UserError: if it cannot be read.
    """

    def grey(image: Image.Image) -> Image.Image:
        image.info.pop("transparency", None)
        return _rgb(image.convert("RGB") if image.has_transparency_data else image).convert("L")

    return np.asarray(_converted(path, grey))


def _converted(path: epath.PathLike, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(epath.Path(path).read_bytes())) as image:
            return convert(ImageOps.exif_transpose(image))
    except Exception as error:  # a decoder raises what the damage happens to cause
        raise UserError(f"the picture {path} cannot be read ({error})") from error


def _no_pictures(where: Any) -> list[Any]:
    raise UserError(f"there is no picture in {where}")


def _are_paths(source: Iterable[Any]) -> bool:
    return all(isinstance(item, str | os.PathLike) for item in source)


def _paths(source: Any) -> list[epath.Path]:
    if isinstance(source, list | tuple):
        return [path for item in source for path in _paths(item)] or _no_pictures("the list")
    text = str(source)
    if text.startswith("bundled:"):
        folder = _BUNDLED / text.removeprefix("bundled:")
        if not text.removeprefix("bundled:").isidentifier() or not folder.is_dir():
            known = ", ".join(sorted(f"bundled:{p.name}" for p in _BUNDLED.iterdir() if p.is_dir()))
            raise UserError(f"there is no {text}: the package has {known}")
        return _paths(folder)
    path = locate(text)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"there is no folder or picture {path}")
    files = _files(path)
    found = [p for p in files if _is_picture(p)]
    return found or _no_pictures(f"{path} (its files: {', '.join(p.name for p in files[:5]) or 'none'})")


def _files(folder: epath.Path) -> list[epath.Path]:
    """The files in a folder by name, without hidden ones."""
    return [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]


def _is_picture(file: epath.Path) -> bool:
    """Whether it is called like one that Pillow opens; some, such as PDF, it only writes."""
    return Image.registered_extensions().get(file.suffix.lower()) in Image.OPEN


def _warn_of_others(source: Any) -> None:
    """Names the files in folders that are neither pictures nor text, such as captions."""
    for folder in map(epath.Path, source if isinstance(source, list | tuple) else [source]):
        files = _files(folder) if folder.is_dir() else []
        others = [p.name for p in files if not _is_picture(p) and p.suffix.lower() != ".txt"]
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            logger.warning("no pictures that can be read, left out of %s: %s%s", folder, ", ".join(others[:5]), more)


def _read(path: epath.Path, resolution: int, crop: Crop, skip_bad: bool) -> Picture | None:
    try:
        # Whole: a decoder reads in small pieces, each of them a request to a bucket.
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return replace(_square(path.name, image, resolution, crop), path=path)
    except Exception as error:  # a decoder raises what the damage happens to cause
        message = f"the picture {path} cannot be read ({error})"
        if skip_bad:
            logger.warning("%s: left out", message)
            return None
        raise UserError(f"{message}: replace or remove it, or leave out such pictures by --skip-bad") from error


def _from_array(array: Any, index: int) -> Image.Image:
    pixels = np.asarray(array)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UserError(f"picture {index} is {pixels.dtype} {list(pixels.shape)}: give uint8 [h, w, 3]")
    return Image.fromarray(pixels)


def _square(name: str, image: Image.Image, resolution: int, crop: Crop) -> Picture:
    """In RGB, then cut or squashed, bicubic and antialiased."""
    image = to_rgb(image)
    size, corner = (image.height, image.width), (0, 0)
    if crop == "center":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        corner = (top * resolution // side, left * resolution // side)
    pixels = np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC))
    return Picture(name, pixels, size, corner)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture in RGB: turned as its EXIF data say, scaled from more than 8 bits, on white where it is transparent."""
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in _WIDE:  # Pillow would cut these off at 255, not scale them
        wide = np.nan_to_num(np.asarray(image, np.float64))
        top = next((top for top in _WIDE.get(image.mode, ()) if wide.max() <= top), 65535.0)
        return Image.fromarray(np.uint8(np.round(np.clip(wide / top, 0, 1) * 255))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
