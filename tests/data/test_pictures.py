"""Pictures of every kind, against numpy and Pillow's own operations."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from ti_jax.data.pictures import count_pictures, load_pictures, read_mask
from ti_jax.errors import UserError

RESOLUTION = 16


def _noise(height, width, channels=3, seed=0):
    """Smooth enough that a lossy format keeps it."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, channels), np.uint8).squeeze())
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _load(source, resolution=RESOLUTION, **options):
    return load_pictures(source, resolution=resolution, **options)


def _one(path, resolution=RESOLUTION, **options):
    (picture,) = _load(path, resolution, **options)
    return picture.pixels


def _resized(image, box=None):
    return np.asarray(image.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=box))


# What a viewer does to the stored rows (axis 0) and columns (axis 1), from the table of the EXIF standard.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation(tmp_path, orientation, suffix):
    stored = _noise(RESOLUTION, RESOLUTION)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, quality=100, subsampling=0)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        decoded = np.asarray(image)
    np.testing.assert_array_equal(_one(tmp_path / f"a.{suffix}"), TURNS[orientation](decoded))


def test_orientation_comes_before_the_crop(tmp_path):
    """A tall picture stored lying: the middle of what a viewer sees."""
    stored = _noise(RESOLUTION, 3 * RESOLUTION)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    seen = TURNS[6](stored)
    np.testing.assert_array_equal(_one(tmp_path / "a.png"), seen[RESOLUTION : 2 * RESOLUTION])


@pytest.mark.parametrize("size", [(40, 24), (24, 40), (33, 20), (16, 16), (7, 5)])
def test_crop_and_squash(tmp_path, size):
    width, height = size
    image = Image.fromarray(_noise(height, width))
    image.save(tmp_path / "a.png")
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    cropped = image.crop((left, top, left + side, top + side))
    np.testing.assert_array_equal(_one(tmp_path / "a.png"), _resized(cropped))
    np.testing.assert_array_equal(_one(tmp_path / "a.png", crop="squash"), _resized(image))


def test_shrinking_is_antialiased(tmp_path):
    """A fine chequerboard becomes grey, not moiré."""
    board = np.indices((128, 128)).sum(axis=0) % 2 * np.uint8(255)
    Image.fromarray(np.uint8(board)).save(tmp_path / "a.png")
    assert np.ptp(np.int32(_one(tmp_path / "a.png"))[2:-2, 2:-2]) <= 2


def _on_white(rgb, alpha):
    alpha = alpha[..., None] / 255
    return rgb * alpha + 255 * (1 - alpha)


def test_alpha_is_on_white(tmp_path):
    rgba = np.dstack([_noise(RESOLUTION, RESOLUTION), _noise(RESOLUTION, RESOLUTION, 1, seed=1)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    expected = _on_white(rgba[..., :3], rgba[..., 3])
    np.testing.assert_allclose(_one(tmp_path / "a.png"), expected, atol=1)


def test_gray_with_alpha_is_on_white(tmp_path):
    la = np.dstack([_noise(RESOLUTION, RESOLUTION, 1), _noise(RESOLUTION, RESOLUTION, 1, seed=1)])
    Image.fromarray(la, "LA").save(tmp_path / "a.png")
    expected = _on_white(np.dstack([la[..., 0]] * 3), la[..., 1])
    np.testing.assert_allclose(_one(tmp_path / "a.png"), expected, atol=1)


def test_colour_under_full_transparency_does_not_bleed(tmp_path):
    """Resizing before compositing would mix in the hidden colour."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :, 0] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (_one(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_transparency(tmp_path, suffix):
    palette = Image.fromarray(np.uint8(np.arange(RESOLUTION**2).reshape(RESOLUTION, RESOLUTION) % 3), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / f"a.{suffix}", transparency=1)
    colours = np.array([[255, 0, 0], [255, 255, 255], [0, 0, 255]])
    np.testing.assert_array_equal(_one(tmp_path / f"a.{suffix}"), colours[np.asarray(palette)])


@pytest.mark.parametrize(
    ("mode", "suffix", "black"),
    [("P", "png", 0), ("P", "gif", 0), ("L", "png", 0), ("I;16", "png", 0), ("LA", "png", (0, 0))],
)
def test_a_mask_is_read_whether_it_is_transparent_or_not(tmp_path, mode, suffix, black):
    """Black is clear here, as some editors write it."""
    mask = Image.new(mode, (8, 4), black)
    white = {"I;16": 65535, "LA": (255, 0)}.get(mode, 255)
    mask.paste(white, (4, 0, 8, 4))
    if mode == "P":
        mask.putpalette([value for value in range(256) for _ in range(3)])
    mask.save(tmp_path / f"mask.{suffix}", **({} if mode == "LA" else {"transparency": 0}))
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}"), [[0] * 4 + [255] * 4] * 4)


def test_cmyk(tmp_path):
    ink = Image.fromarray(_noise(RESOLUTION, RESOLUTION, 4), "CMYK")
    ink.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(_one(tmp_path / "a.tif"), np.asarray(ink.convert("RGB")))
    white = Image.new("CMYK", (RESOLUTION, RESOLUTION), (0, 0, 0, 0))
    white.save(tmp_path / "white.jpg", quality=100)
    assert _one(tmp_path / "white.jpg").min() >= 250


@pytest.mark.parametrize("dark", [False, True], ids=["bright", "dark"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, dark):
    wide = np.uint16(np.linspace(0, 200 if dark else 65535, RESOLUTION**2).reshape(RESOLUTION, RESOLUTION))
    Image.fromarray(wide).save(tmp_path / "a.png")
    expected = np.dstack([wide / 65535 * 255] * 3)
    np.testing.assert_allclose(_one(tmp_path / "a.png"), expected, atol=0.51)


def test_float_pictures(tmp_path):
    values = np.linspace(0, 1, RESOLUTION**2, dtype=np.float32).reshape(RESOLUTION, RESOLUTION)
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_allclose(_one(tmp_path / "a.tif"), np.dstack([values * 255] * 3), atol=0.51)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "YCbCr", "LAB"])
def test_other_modes(tmp_path, mode):
    image = Image.fromarray(_noise(RESOLUTION, RESOLUTION)).convert("RGB")
    try:
        image = image.convert(mode)
    except ValueError:  # Pillow has no such conversion
        pytest.skip(f"no {mode}")
    suffix = {"YCbCr": "jpg", "LAB": "tif"}.get(mode, "png")
    try:
        image.save(tmp_path / f"a.{suffix}", quality=100)
    except OSError:
        pytest.skip(f"{mode} is not written")
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        np.testing.assert_array_equal(_one(tmp_path / f"a.{suffix}"), np.asarray(stored.convert("RGB")))


def test_a_film_is_its_first_frame(tmp_path):
    red, blue = (Image.new("RGB", (RESOLUTION, RESOLUTION), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue, blue])
    np.testing.assert_array_equal(_one(tmp_path / "a.gif"), np.asarray(red))


def _save(path, seed=0):
    Image.fromarray(_noise(20, 20, seed=seed)).save(path)
    return path


def test_a_folder_in_the_order_of_names(tmp_path):
    for i, name in enumerate(["b.png", "a.JPG", "10.webp", "c.bmp"]):
        _save(tmp_path / name, seed=i)
    (tmp_path / "notes.txt").write_text("a <fox>")
    _save(tmp_path / ".hidden.png")
    (tmp_path / "more").mkdir()
    _save(tmp_path / "more" / "d.png")
    pictures = _load(tmp_path)
    assert [picture.name for picture in pictures] == ["10.webp", "a.JPG", "b.png", "c.bmp"]
    assert [picture.path for picture in pictures] == [tmp_path / picture.name for picture in pictures]
    assert all(picture.pixels.shape == (RESOLUTION, RESOLUTION, 3) for picture in pictures)
    assert [picture.name for picture in _load(str(tmp_path))] == [picture.name for picture in pictures]


def test_files_in_the_order_given(tmp_path):
    files = [str(_save(tmp_path / name)) for name in ("b.png", "a.png")]
    assert [picture.name for picture in _load(files)] == ["b.png", "a.png"]
    assert [picture.name for picture in _load([tmp_path, "bundled:fox"])][:2] == ["a.png", "b.png"]


def test_a_folder_called_like_a_picture_is_left_out(tmp_path):
    (tmp_path / "a.png").mkdir()
    _save(tmp_path / "b.png")
    assert [picture.name for picture in _load(tmp_path)] == ["b.png"]


@pytest.mark.parametrize("name", ["fox", "tabby", "blob"])
def test_bundled(name):
    assert len(_load(f"bundled:{name}", resolution=64)) == 5


@pytest.mark.parametrize("name", ["bundled:wolf", "bundled:", "bundled:../tiny", "bundled:fox/"])
def test_an_unknown_bundled_name_lists_the_known(name):
    with pytest.raises(UserError, match="the package has bundled:blob, bundled:fox, bundled:tabby"):
        _load(name)


@pytest.mark.parametrize("whole", [False, True], ids=["list", "array"])
def test_arrays(whole):
    arrays = [_noise(RESOLUTION, RESOLUTION, seed=i) for i in range(3)]
    pictures = _load(np.stack(arrays) if whole else arrays)
    assert [picture.path for picture in pictures] == [None] * 3
    for picture, array in zip(pictures, arrays, strict=True):
        np.testing.assert_array_equal(picture.pixels, array)
    assert len({picture.name for picture in pictures}) == 3


def test_size_and_crop_are_kept():
    """Of the picture as it was, turned; the corner in pixels of the resized one."""
    sizes = [(48, 24), (20, 60), (16, 16)]
    pictures = _load([_noise(*size) for size in sizes])
    assert [picture.size for picture in pictures] == sizes
    assert [picture.crop for picture in pictures] == [(RESOLUTION // 2, 0), (0, RESOLUTION), (0, 0)]
    assert [picture.crop for picture in _load([_noise(*size) for size in sizes], crop="squash")] == [(0, 0)] * 3


def test_arrays_of_different_sizes_are_made_square():
    wide = _noise(16, 32)
    (picture, _) = _load([wide, _noise(8, 8)])
    np.testing.assert_array_equal(picture.pixels, wide[:, 8:24])


BAD_ARRAYS = [
    np.zeros((8, 8, 3), np.float32),
    np.zeros((8, 8), np.uint8),
    np.zeros((8, 8, 4), np.uint8),
    np.zeros((3, 8, 8), np.uint8),
    np.zeros((0, 8, 3), np.uint8),
]


@pytest.mark.parametrize("array", BAD_ARRAYS, ids=str)
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError, match=r"picture 1 is .*: give uint8 \[h, w, 3\]"):
        _load([np.zeros((8, 8, 3), np.uint8), array])


def test_one_picture_as_an_array_is_taken_as_one():
    with pytest.raises(UserError, match=r"give uint8"):
        _load(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("source", [[], (), np.zeros((0, 8, 8, 3), np.uint8)], ids=["list", "tuple", "array"])
def test_nothing(source):
    with pytest.raises(UserError, match="there is no picture in"):
        _load(source)


@pytest.mark.parametrize("source", [None, 3, {"a.png": 1}])
def test_something_else(source):
    with pytest.raises(UserError):
        _load(source)


@pytest.mark.parametrize("source", [(array for array in [_noise(8, 8)]), None, 3], ids=["generator", "none", "number"])
def test_what_cannot_be_counted_is_refused(source):
    with pytest.raises(UserError, match="give a list"):
        count_pictures(source)


def test_what_else_is_in_a_folder_is_left_out_and_named_once(tmp_path, caplog):
    _save(tmp_path / "a.png")
    for name in ("scan.pdf", "phone.HEIC", "a.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more").mkdir()
    for source in (tmp_path, [str(tmp_path)]):
        caplog.clear()
        assert count_pictures(source) == 1
        assert [picture.name for picture in _load(source)] == ["a.png"]
        (message,) = (record.message for record in caplog.records)
        assert message.endswith(f"left out of {tmp_path}: phone.HEIC, scan.pdf")
    caplog.clear()
    _load(tmp_path / "a.png")
    assert not caplog.records


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder or picture .*gone"):
        _load(tmp_path / "gone")
    with pytest.raises(UserError, match=r"there is no folder or picture .*gone"):
        _load([str(tmp_path / "gone.png")])
    with pytest.raises(UserError, match=r"https://a/b\.png cannot be reached where it is: copy or download"):
        _load("https://a/b.png")


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(UserError, match=f"there is no picture in {tmp_path}"):
        _load(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match=r"its files: notes\.txt"):
        _load(tmp_path)


def _png():
    buffer = io.BytesIO()
    Image.fromarray(_noise(64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


CORRUPT = {
    "text": b"this is no picture",
    "empty": b"",
    "cut": _png()[:-200],
    "head": _png()[:20],
    "flipped": _png()[:60] + b"\x00\xff" * 20 + _png()[100:],
    "zero-size": _png()[:16] + b"\x00" * 8 + _png()[24:],
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_picture_is_named_or_skipped(tmp_path, caplog, kind):
    (tmp_path / "bad.png").write_bytes(CORRUPT[kind])
    _save(tmp_path / "good.png")
    with pytest.raises(UserError, match=r"bad\.png cannot be read .*--skip-bad") as caught:
        _load(tmp_path)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        pictures = _load(tmp_path, skip_bad=True)
    assert [picture.name for picture in pictures] == ["good.png"]
    assert "bad.png" in caplog.text
    (tmp_path / "good.png").unlink()
    with pytest.raises(UserError, match=r"none of the 1 pictures can be read: bad\.png"):
        _load(tmp_path, skip_bad=True)


def test_whatever_a_decoder_raises_names_the_picture(tmp_path, monkeypatch):
    _save(tmp_path / "a.png")

    def fail(image):
        raise RuntimeError("failed to decode")  # as AVIF's does

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(UserError, match=r"a\.png cannot be read \(failed to decode\)"):
        _load(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    _save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"bomb\.png cannot be read .*decompression bomb"):
        _load(tmp_path)
