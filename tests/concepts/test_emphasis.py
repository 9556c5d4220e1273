"""Weights in prompts as A1111 reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ti_jax.concepts.emphasis import Piece, parse_emphasis

UP = 1.1
CASES = {
    "a red fox": [("a red fox", 1)],
    "": [("", 1)],
    "a (red) fox": [("a ", 1), ("red", UP), (" fox", 1)],
    "a (red:1.5) fox": [("a ", 1), ("red", 1.5), (" fox", 1)],
    "a (red: 1.5 ) fox": [("a ", 1), ("red", 1.5), (" fox", 1)],
    "a [red] fox": [("a ", 1), ("red", 1 / UP), (" fox", 1)],
    "a ((red)) fox": [("a ", 1), ("red", UP * UP), (" fox", 1)],
    "((red:1.5) fox)": [("red", 1.5 * UP), (" fox", UP)],
    "(red [fox])": [("red ", UP), ("fox", 1 / UP * UP)],
    "(red)(fox)": [("redfox", UP)],
    "(red fox": [("red fox", UP)],
    "[red fox": [("red fox", 1 / UP)],
    "red) fox]": [("red) fox]", 1)],
    "red:1.5) fox": [("red:1.5) fox", 1)],
    "(red:1..5) fox": [("red:1..5) fox", UP)],
    "time 10:30 (now:.5)": [("time 10:30 ", 1), ("now", 0.5)],
    r"\(red\) \[fox\] \\": [("(red) [fox] \\", 1)],
    "(a)(b:-1)": [("a", UP), ("b", -1)],
}


@pytest.mark.parametrize("prompt", CASES)
def test_weights(prompt):
    pieces = parse_emphasis(prompt)
    assert [piece.text for piece in pieces] == [text for text, _ in CASES[prompt]]
    assert [piece.weight for piece in pieces] == pytest.approx([weight for _, weight in CASES[prompt]])


def test_breaks():
    assert parse_emphasis("a fox BREAK in (snow BREAK fog)") == [
        Piece("a fox", 1.0),
        Piece("", 1.0, True),
        Piece("in ", 1.0),
        Piece("snow", UP),
        Piece("", UP, True),
        Piece("fog", UP),
    ]
    assert parse_emphasis("BREAKFAST") == [Piece("BREAKFAST", 1.0)]


def test_brackets_of_a_placeholder_are_its_own():
    assert parse_emphasis("(a [V] (toy):1.5)", ["[v]", "(toy)"]) == [Piece("a [V] (toy)", 1.5)]
    assert parse_emphasis("a <fox>, [v]", ["<fox>"])[-1] == Piece("v", 1 / UP)


def test_a_placeholder_with_brackets_further_on():
    assert parse_emphasis("a photo in style (1), sky", ["style (1)"]) == [Piece("a photo in style (1), sky", 1.0)]
    assert parse_emphasis("(Style (1):1.5) sky", ["style (1)"]) == [Piece("Style (1)", 1.5), Piece(" sky", 1.0)]
    assert parse_emphasis("a:b)", ["a:b)"]) == [Piece("a:b)", 1.0)]
    assert parse_emphasis("freestyle (1)", ["style (1)"]) == [Piece("freestyle ", 1.0), Piece("1", UP)]


@given(st.text(alphabet="ab(:1.)[]\\ ", max_size=20))
def test_any_text_is_read(prompt):
    pieces = parse_emphasis(prompt, ["[a]"])
    assert pieces
    letters = "".join(piece.text for piece in pieces)
    assert [letter for letter in letters if letter in "ab"] == [letter for letter in prompt if letter in "ab"]


@given(st.text(max_size=20))
def test_text_without_brackets_weighs_nothing(text):
    plain = "".join(letter for letter in text if letter not in "()[]\\")
    assert parse_emphasis(plain) == [Piece(plain, 1.0)]


def test_a_weight_beyond_all_numbers_is_text():
    assert all(piece.weight < 2 for piece in parse_emphasis(f"(a:{'9' * 400})"))
