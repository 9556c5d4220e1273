"""Concepts from folders, YAML and data sets."""

import io

import numpy as np
import pytest
from PIL import Image

from ti_jax.config import ConceptSpec
from ti_jax.data.pictures import count_pictures, load_pictures
from ti_jax.data.sources import concepts_from_folder, concepts_from_tfds, concepts_from_yaml
from ti_jax.errors import UserError


def _picture(file, color=(10, 20, 30)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(file)


def test_a_folder_of_folders(tmp_path):
    for name in ("red_panda", "old car", ".hidden"):
        _picture(tmp_path / name / "0.png")
    (tmp_path / "old car" / "initializer.txt").write_text("car\n")
    (tmp_path / "notes.txt").write_text("not a concept")
    assert concepts_from_folder(tmp_path) == [
        ConceptSpec("old-car", "<old-car>", "car", str(tmp_path / "old car")),
        ConceptSpec("red_panda", "<red_panda>", "red panda", str(tmp_path / "red_panda")),
    ]
    assert {spec.initializer for spec in concepts_from_folder(tmp_path, init="thing")} == {"thing"}
    assert concepts_from_folder(tmp_path, token="{name}-word")[0].placeholder == "old-car-word"


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        concepts_from_folder(tmp_path / "none")
    _picture(tmp_path / "0.png")
    with pytest.raises(UserError, match="holds no folders"):
        concepts_from_folder(tmp_path)
    _picture(tmp_path / "fox/0.png")
    with pytest.raises(UserError, match=r"put \{name\} into it"):
        concepts_from_folder(tmp_path, token="<word>")


def test_yaml(tmp_path):
    _picture(tmp_path / "pictures/fox/0.png")
    (tmp_path / "mine.txt").write_text("a photo of {}")
    file = tmp_path / "concepts.yaml"
    file.write_text(
        """
concepts:
  - {name: fox, token: <fox>, init: animal, pictures: pictures/fox, steps: 7, learning_rate: 1e-2, templates: mine.txt}
  - {token: "<ink>", init: drawing, pictures: "bundled:blob", prompts: style, num_vectors: 2}
  - {token: "<pair>", init: animal, pictures: [pictures/fox/0.png]}
"""
    )
    assert concepts_from_yaml(file) == [
        ConceptSpec(
            "fox",
            "<fox>",
            "animal",
            str(tmp_path / "pictures/fox"),
            steps=7,
            learning_rate=1e-2,
            templates=str(tmp_path / "mine.txt"),
        ),
        ConceptSpec("ink", "<ink>", "drawing", "bundled:blob", prompts="style", num_vectors=2),
        ConceptSpec("pair", "<pair>", "animal", [str(tmp_path / "pictures/fox/0.png")]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concepts: {", "cannot be read as YAML"),
        ("pictures: here", "one key, `concepts`"),
        ("concepts: [fox]", "concept 1 .* is not a mapping"),
        ("concepts: [{token: <a>, init: b, pictures: c, step: 3}]", "unknown key 'step': did you mean steps"),
        ("concepts: [{token: <a>, pictures: c}]", "concept 1 .* lacks init"),
        ("concepts: [{token: <a>, init: b, pictures: c, steps: many}]", "steps cannot be 'many'"),
        ("concepts: [{token: <a>, init: b, pictures: c, steps: 0}]", "steps must be 1 or more"),
        ("concepts: [{token: <a>, init: b, pictures: c, prompts: loud}]", "prompts must be one of"),
        ("concepts: [{name: ../a, token: <a>, init: b, pictures: c}]", "is one of files"),
    ],
)
def test_yaml_that_is_wrong(tmp_path, text, message):
    (tmp_path / "concepts.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        concepts_from_yaml(tmp_path / "concepts.yaml")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """A set of three classes, prepared without TensorFlow; and its pictures, in the set's order."""
    tfds = pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
    rows = [(rng.integers(0, 256, (9, 7, 3), np.uint8), i % 3) for i in range(14)]

    class LittleThings(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                        "label": tfds.features.ClassLabel(names=["red panda", "owl", "tree_frog"]),
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, (pixels, label) in enumerate(rows):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, format="PNG")
                file.seek(0)
                yield i, {"image": file, "label": label}

    folder = tmp_path_factory.mktemp("data")
    builder = LittleThings(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return folder, rows


def test_a_data_set_is_one_concept_a_class(data_set):
    folder, rows = data_set
    specs = concepts_from_tfds("little_things", data_dir=str(folder), split="train", per_class=3)
    assert [(spec.name, spec.placeholder, spec.initializer) for spec in specs] == [
        ("red-panda", "<red-panda>", "red panda"),
        ("owl", "<owl>", "owl"),
        ("tree_frog", "<tree_frog>", "tree frog"),
    ]
    for label, spec in enumerate(specs):
        assert count_pictures(spec.pictures) == 3
        known = [pixels for pixels, its in rows if its == label]
        for picture in spec.pictures:
            assert any(np.array_equal(picture, pixels) for pixels in known)
        assert len(load_pictures(spec.pictures, resolution=16)) == 3


def test_a_set_that_is_not_there_says_how_to_make_it(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=r"tfds build nothing --file_format=array_record --data_dir="):
        concepts_from_tfds("nothing", data_dir=str(tmp_path))
