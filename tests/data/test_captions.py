"""Templates and captions."""

import hashlib

import numpy as np
import pytest
from etils import epath

from ti_jax.data.captions import OBJECT_TEMPLATES, STYLE_TEMPLATES, prompts_for, read_templates
from ti_jax.data.pictures import Picture
from ti_jax.errors import UserError


def _pictures(folder, count=2):
    pixels = np.zeros((4, 4, 3), np.uint8)
    return [Picture(f"{i}.png", pixels, (4, 4), (0, 0), epath.Path(folder) / f"{i}.png") for i in range(count)]


@pytest.mark.parametrize(
    ("templates", "count", "digest"),
    [(OBJECT_TEMPLATES, 27, "371f97a75395160f"), (STYLE_TEMPLATES, 19, "e7ec2b1750c5ab55")],
)
def test_templates_are_those_of_diffusers(templates, count, digest):
    """`imagenet_templates_small` and `imagenet_style_templates_small` of its example script, in order."""
    assert len(templates) == count
    assert all(template.count("{}") == 1 for template in templates)
    assert hashlib.sha256("\n".join(templates).encode()).hexdigest().startswith(digest)


@pytest.mark.parametrize(
    ("kind", "model", "expected"),
    [
        ("object", None, OBJECT_TEMPLATES),
        ("style", ("an icon of {}",), STYLE_TEMPLATES),
        ("model", ("an icon of {}",), ("an icon of {}",)),
        ("model", None, OBJECT_TEMPLATES),
        ("object", ("an icon of {}",), OBJECT_TEMPLATES),
    ],
)
def test_templates_are_shared_by_all_pictures(tmp_path, kind, model, expected):
    prompts = prompts_for(_pictures(tmp_path, 3), "<fox>", kind, None, model)
    assert prompts.texts == [template.replace("{}", "<fox>") for template in expected]
    assert prompts.first == [0, 0, 0]
    assert prompts.count == [len(expected)] * 3


def test_a_template_file_wins(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("\ufeff# mine\n\n  a sketch of {}  \na <Fox> beside {}\r\n{}\n", encoding="utf-8")
    for kind in ("object", "captions"):
        prompts = prompts_for(_pictures(tmp_path), "<fox>", kind, str(file))
        assert prompts.texts == ["a sketch of <fox>", "a <Fox> beside <fox>", "<fox>"]
        assert prompts.count == [3, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a {}\na photo\n", r"line 2 of .*templates\.txt has neither \{\} nor <fox>: 'a photo'"),
        (b"# only this\n\n", r"no template in .*templates\.txt"),
        (b"", r"no template in .*templates\.txt"),
        (b"caf\xe9 {}", r"templates\.txt cannot be read as text in UTF-8"),
        (None, r"there is no file .*templates\.txt"),
    ],
)
def test_a_bad_template_file_is_named(tmp_path, content, message):
    file = tmp_path / "templates.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_templates(file, "<fox>")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_template_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read as text"):
        read_templates(tmp_path, "<fox>")


def test_a_bare_word_in_a_longer_one_does_not_count(tmp_path):
    (tmp_path / "templates.txt").write_text("a foxtrot")
    with pytest.raises(UserError, match="neither"):
        read_templates(tmp_path / "templates.txt", "fox")


def test_captions_beside_the_pictures(tmp_path):
    (tmp_path / "0.txt").write_text("a <fox>,\n  sitting\n")
    (tmp_path / "1.txt").write_text("{} at night", encoding="utf-8-sig")
    prompts = prompts_for(_pictures(tmp_path), "<fox>", "captions")
    assert prompts.texts == ["a <fox>, sitting", "<fox> at night"]
    assert prompts.first == [0, 1]
    assert prompts.count == [1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"1\.png has no caption: write one in .*1\.txt"),
        (b"a cat", r"the caption in .*1\.txt does not hold <fox>: 'a cat'"),
        (b"", r"the caption in .*1\.txt does not hold <fox>"),
        (b"caf\xe9 <fox>", r"1\.txt cannot be read as text"),
    ],
)
def test_a_bad_caption_is_named(tmp_path, content, message):
    (tmp_path / "0.txt").write_text("a <fox>")
    if content is not None:
        (tmp_path / "1.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        prompts_for(_pictures(tmp_path), "<fox>", "captions")


def test_arrays_have_no_captions():
    picture = Picture("picture 0", np.zeros((4, 4, 3), np.uint8), (4, 4), (0, 0))
    with pytest.raises(UserError, match="arrays have none"):
        prompts_for([picture], "<fox>", "captions")
