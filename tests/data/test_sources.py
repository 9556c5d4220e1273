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
    (tmp_path / "red_panda" / "initializer.txt").write_bytes("\ufeffbear\r\n".encode())
    assert concepts_from_folder(tmp_path)[1].initializer == "bear"
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


def test_an_initializer_that_is_no_text_is_named(tmp_path):
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "initializer.txt").write_bytes("füchse".encode("latin-1"))
    with pytest.raises(UserError, match=r"initializer\.txt cannot be read as text in UTF-8"):
        concepts_from_folder(tmp_path)


def test_an_initializer_of_yaml_is_a_path_from_the_file(tmp_path):
    """A run folder with one too; a word is a word, whatever lies beside the file."""
    for folder in ("runs/fox", "fox"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("fox.pt", "cat"):
        (tmp_path / file).write_bytes(b"")
    paths, words = ("runs/fox", "fox.pt"), ("cat", "fox", "a/b")
    inits = {**{path: str(tmp_path / path) for path in paths}, **{word: word for word in words}}
    lines = [f"  - {{name: c{i}, token: <c{i}>, init: {init}, pictures: p}}" for i, init in enumerate(inits)]
    (tmp_path / "concepts.yaml").write_text("\n".join(["concepts:", *lines]))
    assert [spec.initializer for spec in concepts_from_yaml(tmp_path / "concepts.yaml")] == list(inits.values())


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
        ("concepts: [{name: ../a, token: <a>, init: b, pictures: c}]", "is one of files"),
    ],
)
def test_yaml_that_is_wrong(tmp_path, text, message):
    (tmp_path / "concepts.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        concepts_from_yaml(tmp_path / "concepts.yaml")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """A set of three classes, prepared without TensorFlow; and its pictures, in the set's order, with their labels. The
    split `test` keeps its labels to itself; `odd` has a clear picture, and one of 16 bits that lies on its side."""
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
            exif = Image.Exif()
            exif[0x0112] = 6
            odd = [(Image.new("RGBA", (4, 4)), {}), (Image.fromarray(np.uint16([[65535, 0]])), {"exif": exif})]
            return {
                "train": self._generate_examples([(Image.fromarray(pixels), {}, label) for pixels, label in rows]),
                "test": self._generate_examples([(Image.fromarray(pixels), {}, -1) for pixels, _ in rows]),
                "odd": self._generate_examples([(*picture, 0) for picture in odd]),
            }

        def _generate_examples(self, pictures):
            for i, (picture, options, label) in enumerate(pictures):
                file = io.BytesIO()
                picture.save(file, format="PNG", **options)
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


def test_pictures_without_a_label_are_left_out(data_set):
    folder, _ = data_set
    specs = concepts_from_tfds("little_things", data_dir=str(folder), split="test+train", per_class=20)
    assert [len(spec.pictures) for spec in specs] == [5, 5, 4]
    with pytest.raises(UserError, match="no picture in test of little_things has a label: choose another --split"):
        concepts_from_tfds("little_things", data_dir=str(folder), split="test")


def test_pictures_of_a_data_set_are_read_as_those_of_a_folder(data_set):
    (spec,) = concepts_from_tfds("little_things", data_dir=str(data_set[0]), split="odd")
    found = sorted((picture.tolist() for picture in spec.pictures), key=len)
    assert found == [[[[255] * 3], [[0] * 3]], [[[255] * 3] * 4] * 4]


def test_a_set_that_is_not_there_says_how_to_make_it(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=r"tfds build nothing --file_format=array_record --data_dir="):
        concepts_from_tfds("nothing", data_dir=str(tmp_path))
