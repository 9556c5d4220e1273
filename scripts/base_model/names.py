"""Names and keywords of emoji, from `unicode-emoji-json`, `emojibase-data` and `emojilib`."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from packages import Packages, code_of, tidy_code

_TEXT_LIKE = {"transport-sign", "arrow", "av-symbol", "gender", "math", "punctuation", "currency", "keycap", "alphanum"}
"""Subgroups of Unicode that hold letters and signs rather than drawings."""
_PLAIN = str.maketrans({"’": "'", "“": '"', "”": '"', "_": " "})
_KEYWORD = re.compile(r"[+-]?[a-z0-9][a-z0-9 '.+-]*")
"""What is no smiley and no time of day."""


def emoji_table(packages: Packages) -> dict[str, dict[str, Any]]:
    """Every emoji but the flags, by its code points.

    Args:
        packages: fetched.

    Returns:
        name, keywords, variant (gender, family, direction: nearly the same drawing as another; None otherwise) and
        text_like (letters, arrows, keycaps), in Unicode's order.
    """
    rows = {code_of(emoji): row for emoji, row in packages.json("unicode-emoji-json", "data-by-emoji.json").items()}
    groups = packages.json("emojibase-data", "meta/groups.json")["subgroups"]
    details = {tidy_code(row["hexcode"]): row for row in packages.json("emojibase-data", "en/data.json")}
    more = {code_of(emoji): words for emoji, words in packages.json("emojilib", "dist/emoji-en-US.json").items()}
    table = {}
    for code, row in rows.items():
        if row["group"] == "Flags":
            continue
        name = _plain(row["name"])
        detail = details.get(code, {})
        words = map(_plain, (*detail.get("tags", ()), *more.get(code, ())))
        table[code] = {
            "name": name,
            "keywords": [word for word in dict.fromkeys(words) if _KEYWORD.fullmatch(word) and word != name],
            "variant": _variant(code, name),
            "text_like": groups.get(str(detail.get("subgroup"))) in _TEXT_LIKE,
        }
    return table


def _plain(words: str) -> str:
    """In lower case and in ASCII."""
    folded = unicodedata.normalize("NFKD", words.lower().translate(_PLAIN))
    return folded.encode("ascii", "ignore").decode().strip()


def _variant(code: str, name: str) -> str | None:
    """What tells a drawing from the one it is nearly the same as."""
    if name.endswith("facing right"):
        return "direction"
    if name.startswith(("kiss ", "couple with heart ", "family")):
        return "family"
    joined = "-200d" in code
    if joined and (re.match(r"(man|woman)\b", name) or code.endswith(("-200d-2640", "-200d-2642"))):
        return "gender"
    return None
