"""What the bundled model has never seen, made ready to be inverted and judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from backgrounds import Background
from captions import STYLES
from drawings import HOLDOUT, Drawings, cut
from icons import HANDS, rasterise
from packages import Packages
from scenes import Placed, Scene, draw

SHOWN = 5
"""Pictures that an inversion is given."""
_CHARACTER_STYLE = "noto"
FOX = (
    "foxgrin", "foxsmiling", "foxwry", "foxkissing", "foxcrying", "foxheart", "foxpouting", "foxtearofjoy", "foxweary",
)  # fmt: skip
"""Icons of one fox that no emoji stands for; the last ones are for the judges."""
_STYLE_CONCEPTS = ("1f419", "1f353", "1f697", "1f427", "1f600", "1f511", "1f98a", "1f355", "1f30d")
"""Things whose drawings stand for a style; the last ones are for the judges."""
WORDS: dict[str, tuple[str, str]] = {
    "waning gibbous moon": ("moon", "a yellow moon with craters, dark on one side"),
    "full moon face": ("moon", "a yellow full moon with a smiling face"),
    "sun with face": ("sun", "a yellow sun with rays and a smiling face"),
    "chestnut": ("nut", "a shiny brown nut with a light base"),
    "deciduous tree": ("tree", "a tree with a round green crown and a brown trunk"),
    "hot pepper": ("pepper", "a long curved red pepper with a green stem"),
    "ear of corn": ("vegetable", "a yellow corn cob with green leaves"),
    "pineapple": ("fruit", "a yellow pineapple with green leaves on top"),
    "sushi": ("fish", "a piece of orange fish on white rice"),
    "ice cream": ("candy", "white ice cream in a glass bowl"),
    "pot of food": ("food", "a pot with a handle full of yellow food"),
    "wine glass": ("glass", "a glass of red wine with a thin stem"),
    "baby bottle": ("bottle", "a white milk bottle with a yellow top"),
    "popcorn": ("food", "white popcorn in a red and white striped box"),
    "christmas tree": ("tree", "a green pointed tree with a yellow star and coloured balls"),
    "confetti ball": ("ball", "a ball with colourful paper strips"),
    "backpack": ("bag", "a red school bag with pockets and straps"),
    "carousel horse": ("horse", "a white horse on a golden pole"),
    "bullseye": ("circle", "a red and white round target with a dart"),
    "slot machine": ("machine", "a gambling machine with sevens and a lever"),
    "saxophone": ("trumpet", "a golden curved saxophone with keys"),
    "guitar": ("violin", "a brown guitar with a long neck"),
    "trophy": ("cup", "a golden cup with two handles"),
    "cricket game": ("ball", "a wooden bat with a red ball"),
    "volleyball": ("ball", "a white ball with curved lines"),
    "camping": ("tent", "a yellow tent beside a tree"),
    "desert island": ("beach", "a small island of sand with a palm tree in the sea"),
    "house": ("building", "a small house with a red roof and a door"),
    "ram": ("goat", "a gray sheep with curled horns"),
    "dog": ("wolf", "a brown dog standing, seen from the side"),
    "tropical fish": ("fish", "a yellow and blue striped fish"),
    "hatching chick": ("bird", "a yellow chick coming out of a broken egg"),
    "baby chick": ("bird", "a small yellow chick seen from the side"),
    "bear": ("panda", "the face of a brown bear with round ears"),
    "white flower": ("flower", "a white flower in a round stamp"),
    "chart decreasing": ("chart", "a chart with a blue line that goes down"),
    "loudspeaker": ("speaker", "a big loudspeaker that points to the side"),
    "outbox tray": ("box", "a tray with a blue arrow up"),
    "postbox": ("box", "a red standing post box"),
    "mobile phone with arrow": ("phone", "a phone with an arrow beside it"),
    "camera with flash": ("camera", "a gray camera with a yellow flash"),
    "fire": ("candle", "an orange and yellow flame"),
    "telescope": ("microscope", "a telescope on a tripod"),
    "dove": ("bird", "a white flying bird with a green twig"),
    "spider web": ("spider", "a gray web of thin threads"),
    "linked paperclips": ("paperclip", "two gray paper clips, one in the other"),
    "tokyo tower": ("building", "a tall red and white tower of steel"),
    "bus stop": ("sign", "a round sign with a bus on a pole"),
    "oncoming automobile": ("car", "a red car seen from the front"),
    "delivery truck": ("truck", "a yellow truck with a box behind, seen from the side"),
    "shower": ("bath", "a shower head with drops of water"),
    "motor boat": ("boat", "a white motor boat seen from the side"),
    "satellite": ("space", "a gray satellite with blue solar panels"),
    "drum": ("trumpet", "a red drum with two sticks"),
    "cucumber": ("vegetable", "a green cucumber with slices"),
    "shallow pan of food": ("food", "a black pan full of yellow rice and red shrimps"),
    "egg": ("food", "a plain white egg"),
    "scorpion": ("crab", "a dark red scorpion with a curled tail and claws"),
    "hourglass not done": ("clock", "an hourglass with yellow sand running down"),
    "club suit": ("card", "a black club of playing cards"),
    "hammer and pick": ("axe", "a hammer and a pick crossed"),
    "sun behind cloud": ("cloud", "a yellow sun behind a white cloud"),
    "airplane": ("plane", "a plane seen from above with blue wings"),
    "black nib": ("pen", "a black nib of a fountain pen"),
}
"""What a person would begin with, a word of one token, and would write, for each held-out concept, by its name."""


@dataclass(frozen=True)
class Subject:
    """Something to be inverted.

    Args:
        name: of files.
        kind: `concept`, `character` or `style`.
        initializer: a word to begin with.
        captions: what a person might write instead of a new word.
        shown: uint8 pictures [SHOWN, h, w, 3] that the inversion sees.
        others: likewise [n, h, w, 3], of the same thing, that it does not see.
    """

    name: str
    kind: str
    initializer: str
    captions: tuple[str, ...]
    shown: np.ndarray
    others: np.ndarray


def concept_subjects(drawings: Drawings) -> list[Subject]:
    """Each held-out concept, shown by five of the hands that the model knows, judged by the other hands too."""
    subjects = []
    for code, name in HOLDOUT["concepts"].items():
        styles = sorted(drawings.styles[code], key=lambda style: (style not in STYLES, style))
        pictures = np.stack([picture(drawings, style, code) for style in styles])
        initializer, caption = WORDS[name]
        texts = (f"a picture of a {name}", caption)
        subjects.append(_subject(name, "concept", initializer, texts, pictures))
    return subjects


def character_subjects(drawings: Drawings, packages: Packages) -> list[Subject]:
    """One cat's nine faces by one hand, and one fox's by another, who drew them beside the emoji."""
    codes = HOLDOUT["characters"]["codepoints"]
    tabby = np.stack([picture(drawings, _CHARACTER_STYLE, code) for code in codes])
    icons = packages.json(HANDS["fxemoji"].package, "icons.json")
    faces = Drawings({("fxemoji", icon): cut(rasterise(icons, icon)) for icon in FOX}, {})
    fox = np.stack([picture(faces, "fxemoji", icon) for icon in FOX])
    of_cats = ("a noto emoji of a cat face", "the yellow face of a smiling cat")
    of_foxes = ("a flat icon of a fox face", "the orange face of a smiling fox")
    return [
        _subject("tabby", "character", "cat", of_cats, tabby),
        _subject("fox", "character", "fox", of_foxes, fox),
    ]


def style_subjects(drawings: Drawings) -> list[Subject]:
    """The held-out styles, by the same things in each."""
    subjects = []
    for style in HOLDOUT["styles"]:
        codes = [code for code in _STYLE_CONCEPTS if (style, code) in drawings.images]
        pictures = np.stack([picture(drawings, style, code) for code in codes])
        texts = (f"a {style} emoji", "a flat drawing with thick shapes")
        subjects.append(_subject(style, "style", "icon", texts, pictures))
    return subjects


def picture(drawings: Drawings, style: str, code: str) -> np.ndarray:
    """A drawing alone, large, on white; uint8 [h, w, 3]."""
    scene = Scene(
        seed=(0,),
        layout="one",
        style=style,
        objects=(Placed(code, 0.5, 0.5, 0.85),),
        background=Background("plain", ("white",)),
        named_background=False,
    )
    return draw(scene, drawings)


def _subject(name: str, kind: str, initializer: str, captions: tuple[str, ...], pictures: np.ndarray) -> Subject:
    return Subject(name.replace(" ", "-"), kind, initializer, captions, pictures[:SHOWN], pictures[SHOWN:])
