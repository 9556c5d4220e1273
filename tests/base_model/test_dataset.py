"""The data set, from small packages made here; and the real one, where it lies."""

import io
import json
import os
import tarfile
from pathlib import Path

import build_data
import numpy as np
import pytest
from dataset import EmojiDrawings, read_dataset
from drawings import HELD_OUT_CONCEPTS, is_held_out
from icons import HANDS, draw_style, icon_names, rasterise
from names import emoji_table
from packages import VERSIONS, Packages, code_of, tidy_code
from PIL import Image

# A thing, a thing that is held out, an emoji with a selector, a woman among equals, a letter, and a flag.
EMOJI = {
    "🍎": ("Red Apple", "food-fruit"),
    "🐕": ("dog", "animal-mammal"),
    "☂️": ("umbrella", "sky-weather"),
    "👩‍🚀": ("woman astronaut", "person-role"),
    "#️⃣": ("keycap #", "keycap"),
    "🇫🇷": ("flag France", "country-flag"),
}
DRAWN = {"1f34e": "red apple", "1f415": "dog", "2602": "umbrella"}
SQUARE = '<path fill="#c81e1e" d="M0 0h{0}v{0}H0z"/>'


def _packages(folder: Path) -> Packages:
    """Every package, with three icons each, whose squares grow."""
    groups = sorted({group for _, group in EMOJI.values()})
    codes = {emoji: code_of(emoji) for emoji in EMOJI}
    files = {
        "unicode-emoji-json": {
            "data-by-emoji.json": {
                emoji: {"name": name, "group": "Flags" if name.startswith("flag") else "Objects"}
                for emoji, (name, _) in EMOJI.items()
            }
        },
        "emojilib": {
            "dist/emoji-en-US.json": {"🍎": ["fruit", "mac\N{NO-BREAK SPACE}book", ":d", "RED apple", "crêpe"]}
        },
        "emojibase-data": {
            "meta/groups.json": {"subgroups": {str(i): group for i, group in enumerate(groups)}},
            "meta/unicode-names.json": {"2602": "UMBRELLA"},
            "en/data.json": [
                {"hexcode": codes[emoji].upper().zfill(8), "subgroup": groups.index(group), "tags": ["a_tag", "fruit"]}
                for emoji, (_, group) in EMOJI.items()
            ],
        },
        "fluentui-emoji-js": {"emojiData.json": [{"glyph": "🍎"}, {"glyph": "☂️"}]},
        "@lobehub/fluent-emoji-3d": {f"assets/{code}.webp": _webp() for code in ("1f34e", "1f415", "2602-fe0f")},
    }
    for hand in list(HANDS.values())[1:]:
        icons = {"red-apple": 24, "dog": 12, "umbrella": 6}
        drawn = {name: {"body": SQUARE.format(side)} for name, side in icons.items()}
        by_character = {"1f34e": "red-apple", "1f415": "dog", "2602-fe0f": "umbrella"}
        named = hand.package in ("@iconify-json/noto-v1", "@iconify-json/fxemoji", "@iconify-json/emojione")
        files[hand.package] = {
            "icons.json": {"width": 24, "height": 24, "icons": drawn, "aliases": {"brolly": {"parent": "umbrella"}}},
            "chars.json": {} if named else by_character,
        }
    packages = Packages(folder)
    for name, contents in files.items():
        with tarfile.open(packages.tarball(name), "w:gz") as archive:
            for path, content in contents.items():
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return packages


def _webp() -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (256, 256), (200, 30, 30, 255)).save(file, "WEBP", lossless=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return _packages(tmp_path_factory.mktemp("packages"))


def test_code_points_are_written_in_one_way():
    assert code_of("☂️") == tidy_code("2602-FE0F") == "2602"
    assert code_of("#️⃣") == tidy_code("0023-FE0F-20E3") == "23-20e3"


def test_names(packages):
    table = emoji_table(packages)
    assert set(table) == {"1f34e", "1f415", "2602", "1f469-200d-1f680", "23-20e3"}
    assert table["1f34e"]["name"] == "red apple"
    assert table["1f34e"]["keywords"] == ["a tag", "fruit", "mac book", "crepe"]
    assert {code for code, row in table.items() if row["text_like"]} == {"23-20e3"}
    assert {code: row["variant"] for code, row in table.items() if row["variant"]} == {"1f469-200d-1f680": "gender"}


def test_icons_are_found_by_character_or_by_name(packages):
    by_character = {code: name.replace(" ", "-") for code, name in DRAWN.items()}
    assert icon_names(packages, "twemoji", DRAWN) == by_character
    assert icon_names(packages, "blob", DRAWN) == by_character
    # This hand's icon of that name shows a closed one.
    assert icon_names(packages, "fxemoji", DRAWN) == {"1f34e": "red-apple"}


def test_three_dimensional_ones_are_only_those_of_the_artists_list(packages):
    assert [code for code, _ in draw_style(packages, "fluent-3d", DRAWN)] == ["1f34e", "2602"]


def test_an_icon_is_drawn_in_its_box(packages):
    icons = {
        "width": 20,
        "icons": {"a": {"body": SQUARE.format(10), "height": 10, "left": -5}},
        "aliases": {"b": {"parent": "a"}},
    }
    picture = np.asarray(rasterise(icons, "b"))
    assert picture.shape == (96, 96, 4)
    assert tuple(picture[48, 48]) == (200, 30, 30, 255)
    rows, columns = np.nonzero(picture[..., 3] > 128)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 71, 24, 71)


def test_what_is_built_is_read_back(packages, tmp_path):
    EmojiDrawings(packages=packages, data_dir=str(tmp_path)).download_and_prepare()
    train, held_out = (read_dataset(tmp_path, split) for split in ("train", "held_out"))
    assert set(train.concepts) == {"1f34e", "2602"}
    assert ("noto", "1f415") in held_out.images
    assert ("blob", "1f34e") in held_out.images
    assert not any(is_held_out(*key) for key in train.images)
    assert all(is_held_out(*key) for key in held_out.images)
    assert train.concepts["1f34e"].keywords == ("a tag", "fruit", "mac book", "crepe")
    assert train.images["twemoji", "1f34e"].getpixel((40, 40)) == (200, 30, 30, 255)
    assert set(read_dataset(tmp_path).images) == set(train.images) | set(held_out.images)


def test_without_a_data_set_it_says_what_to_run(tmp_path):
    with pytest.raises(SystemExit, match="run build_data"):
        read_dataset(tmp_path, "train")


def test_every_hand_has_its_licence():
    notice = (Path(__file__).parents[2] / "ti_jax/bundled/NOTICE.md").read_text()
    for hand in HANDS.values():
        assert hand.package in VERSIONS
        assert hand.licence in notice
        assert hand.artist.split()[0].rstrip(",") in notice


@pytest.mark.skipif("TI_JAX_SHARED_DATA" not in os.environ, reason="wants TI_JAX_SHARED_DATA")
def test_the_expected_counts_are_those_that_were_agreed():
    import zipfile

    from drawings import core_concepts

    shared = Path(os.environ["TI_JAX_SHARED_DATA"])
    core = core_concepts(json.loads((shared / "emoji.json").read_text()))
    paths = [Path(name) for name in zipfile.ZipFile(shared / "emoji.zip").namelist() if name.endswith(".webp")]
    for split, by_style in build_data.EXPECTED.items():
        keys = [(path.parent.name, path.stem) for path in paths if path.stem in core]
        mine = [key for key in keys if is_held_out(*key) == (split == "held_out")]
        assert {style: sum(s == style for s, _ in mine) for style in {s for s, _ in mine}} == by_style
    assert build_data.EXPECTED["held_out"]["noto"] == len(HELD_OUT_CONCEPTS) + 9
