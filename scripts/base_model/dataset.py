"""The drawings as a data set of tensorflow-datasets, in ArrayRecord files, without TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from drawings import Concept, Drawings, core_concepts, cut, is_held_out
from icons import HANDS, draw_style
from names import emoji_table
from packages import Packages
from PIL import Image

SPLITS = ("train", "held_out")


class EmojiDrawings(tfds.core.GeneratorBasedBuilder):
    """Emoji by several hands, one drawing an example; what is held out is a split of its own.

    Only concepts that are neither variants of others nor like text are in it. `build_data.py` builds it.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The packages of `packages.VERSIONS`."}

    def __init__(self, *, packages: Packages | None = None, **arguments: Any) -> None:
        self._packages = packages
        super().__init__(file_format="array_record", **arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Emoji by eight hands, rasterised, with names and keywords.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 4), encoding_format="png"),
                    "style": tfds.features.Text(),
                    "code": tfds.features.Text(),
                    "name": tfds.features.Text(),
                    "keywords": tfds.features.Sequence(tfds.features.Text()),
                    "artist": tfds.features.Text(),
                    "licence": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        assert self._packages is not None, "pass packages to build; to read, there is read_dataset"
        table = emoji_table(self._packages)
        concepts = core_concepts(table)
        names = {code: table[code]["name"] for code in concepts}
        for style, hand in HANDS.items():
            for code, picture in draw_style(self._packages, style, names):
                if is_held_out(style, code) == (split == "held_out"):
                    concept = concepts[code]
                    yield (
                        f"{style}/{code}",
                        {
                            "image": _png(picture),
                            "style": style,
                            "code": code,
                            "name": concept.name,
                            "keywords": list(concept.keywords),
                            "artist": hand.artist,
                            "licence": hand.licence,
                        },
                    )


def _png(picture: Image.Image) -> io.BytesIO:
    """The file of a picture: tfds itself would ask TensorFlow to encode pixels."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    return file


def read_dataset(folder: Path, *splits: str) -> Drawings:
    """Reads drawings.

    Args:
        folder: that `build_data.py` wrote to.
        splits: `train`, `held_out`; both if none is named.

    Returns:
        the drawings, cut to their bounding boxes.

    Raises:
        SystemExit: if there is no data set.
    """
    if not (folder / EmojiDrawings.name).exists():
        raise SystemExit(f"there is no data set in {folder}: run build_data.py --output {folder} first")
    images, concepts = {}, {}
    for split in splits or SPLITS:
        source: Any = tfds.data_source(EmojiDrawings.name, split=split, data_dir=str(folder), download=False)
        for row in source:
            style, code, name = (row[key].decode() for key in ("style", "code", "name"))
            images[style, code] = cut(Image.fromarray(row["image"]))
            concepts[code] = Concept(code, name, tuple(word.decode() for word in row["keywords"]))
    return Drawings(images, concepts)
