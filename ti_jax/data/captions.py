"""What explains the pictures: the paper's templates, the user's own, or a caption beside each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from etils import epath

from ti_jax.concepts.prompts import fold, placeholder_pattern
from ti_jax.config import DataConfig
from ti_jax.data.pictures import Picture
from ti_jax.errors import UserError

# Radford et al. 2021, by way of Gal et al. 2022, appendix D, and diffusers' `textual_inversion.py`.
OBJECT_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
STYLE_TEMPLATES: tuple[str, ...] = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped painting in the style of {}",
    "a good painting in the style of {}",
    "a close-up painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)


@dataclass(frozen=True)
class Prompts:
    """The prompts of a concept; picture i is explained by texts first[i], ..., first[i] + count[i] - 1."""

    texts: list[str]
    first: list[int]
    count: list[int]


def prompts_for(
    pictures: Sequence[Picture],
    placeholder: str,
    kind: Literal["model", "object", "style", "captions"],
    templates_file: str | None = None,
    model_templates: Sequence[str] | None = None,
) -> Prompts:
    """The prompts that explain pictures.

    Args:
        pictures: which.
        placeholder: the word that every prompt holds.
        kind: the model's templates, those for a thing or for a style, or the text file beside each picture.
        templates_file: templates to use instead.
        model_templates: what the model understands; the templates for a thing if None.

    Returns:
        texts, and which of them belong to which picture.

    Raises:
        UserError: if a template or caption is missing, or does not hold the word; the file is named.
    """
    if templates_file is None and kind == "captions":
        texts = [_caption(picture, placeholder) for picture in pictures]
        return Prompts(texts, list(range(len(texts))), [1] * len(texts))
    if templates_file is not None:
        templates = read_templates(templates_file, placeholder)
    elif kind == "style":
        templates = STYLE_TEMPLATES
    else:
        templates = (model_templates if kind == "model" else None) or OBJECT_TEMPLATES
    texts = [template.replace("{}", placeholder) for template in templates]
    return Prompts(texts, [0] * len(pictures), [len(texts)] * len(pictures))


def count_prompts(data: DataConfig, placeholder: str, model_templates: Sequence[str] | None) -> int:
    """How many templates explain each picture, or 0 if each has a caption of its own; errors are those of
    `prompts_for`."""
    return len(prompts_for([], placeholder, data.prompts, data.templates, model_templates).texts)


def read_templates(file: epath.PathLike, placeholder: str) -> tuple[str, ...]:
    """Templates of a text file, one a line; empty lines and lines that begin with # are left out.

    Args:
        file: in UTF-8; `{}`, or the placeholder itself, stands for the word.
        placeholder: the word.

    Returns:
        the lines.

    Raises:
        UserError: if there is no such file, no line in it, or a line without the word.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(read_text(epath.Path(file)).splitlines(), start=1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not lines:
        raise UserError(f"there is no template in {file}")
    for number, line in lines:
        if "{}" not in line and not _holds(line, placeholder):
            raise UserError(f"line {number} of {file} has neither {{}} nor {placeholder}: {line!r}")
    return tuple(line for _, line in lines)


def _caption(picture: Picture, placeholder: str) -> str:
    if picture.path is None:
        raise UserError("captions are read beside picture files: arrays have none, so use templates")
    file = picture.path.with_suffix(".txt")
    if not file.exists():
        raise UserError(f"the picture {picture.path} has no caption: write one in {file}, or use templates")
    caption = " ".join(read_text(file).split()).replace("{}", placeholder)
    if not _holds(caption, placeholder):
        raise UserError(f"the caption in {file} does not hold {placeholder}: {caption!r}")
    return caption


def _holds(text: str, placeholder: str) -> bool:
    pattern = placeholder_pattern({placeholder: 1})
    return pattern is not None and pattern.search(fold(text)) is not None


def read_text(file: epath.Path) -> str:
    """The text of a file in UTF-8, without the mark that some editors put first.

    Raises:
        UserError: if there is no such file, or it is no such text; it is named.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text in UTF-8 ({error})") from error
