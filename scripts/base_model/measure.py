"""Measures a text-to-image model of captioned scenes: does it draw what a prompt says?

    python scripts/base_model/measure.py --model runs/base_model --output runs/base_model/measures.json
    python scripts/base_model/measure.py --drawn        # the measures themselves, on scenes that are right

Background and place are read from pixels; concept and style are told by CLIP and by the classifier; treatment and pairs
by CLIP. `--drawn` shows how much of each measure a faultless model could reach.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from captions import STYLES, caption, with_article
from cases import KINDS, Case, cases
from classifier import CLASSIFIER, ClassifierJudge, load_classifier
from clip import recall
from dataset import read_dataset
from drawings import Drawings
from feed import VALIDATION, pictures
from judges import ClipJudge
from pixels import background_colour, object_place
from samples import contact_sheet
from scenes import draw, random_scene
from treatments import TREATMENTS
from vae import psnr, reconstruct

import ti_jax
from ti_jax.files import write_text

Draw = Callable[[Sequence[Case]], np.ndarray]
"""From cases to pictures, uint8 [n, h, w, 3]."""
Judge = ClipJudge | ClassifierJudge
logger = logging.getLogger(__name__)


def main() -> int:
    """Draws, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clip", default="tiny")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="another one's file")
    parser.add_argument("--data-dir", type=Path, default=Path("runs/base_model/data"))
    parser.add_argument("--drawn", action="store_true", help="measure scenes that are drawn, not the model's pictures")
    parser.add_argument("--count", type=int, default=240, help="pictures of each kind")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--output", type=Path, help="JSON file; a contact sheet is put beside it")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    drawings = read_dataset(options.data_dir, "train")
    clip = ClipJudge(ti_jax.load_clip(options.clip), drawings)
    judges: dict[str, Judge] = {"clip": clip, "classifier": load_classifier(options.classifier, drawings)}
    settings = {"steps": options.steps, "guidance": options.guidance}
    report: dict[str, Any] = {"model": "drawn scenes" if options.drawn else options.model, "count": options.count}
    if options.drawn:
        draw_cases = drawn(drawings)
        report |= retrieval(clip, drawings, 1000)
    else:
        pipeline = ti_jax.load(options.model)
        draw_cases = by_model(pipeline, drawings, **settings)
        report |= {**settings, "psnr": autoencoder_psnr(pipeline, drawings)}
    report |= measure(draw_cases, drawings, judges, options.count)
    if options.output:
        write_text(options.output, json.dumps(report, indent=2) + "\n")
        fixed = [case for kind in KINDS for case in cases(drawings, kind, 8 if kind in ("pair", "treatment") else 12)]
        contact_sheet(draw_cases(fixed)).save(options.output.with_suffix(".png"))
    print(json.dumps(report, indent=2))
    return 0


def drawn(drawings: Drawings) -> Draw:
    """The cases' own scenes: faultless pictures."""
    return lambda group: np.stack([draw(case.scene, drawings) for case in group])


def by_model(pipeline: ti_jax.Pipeline, drawings: Drawings, **settings: Any) -> Draw:
    """The model's pictures of the cases' prompts."""

    def pictures_of(group: Sequence[Case]) -> np.ndarray:
        return ti_jax.generate(pipeline, [case.prompt(_name(case, drawings)) for case in group], **settings)

    return pictures_of


def measure(draw_cases: Draw, drawings: Drawings, judges: dict[str, Judge], count: int) -> dict[str, Any]:
    """Every measure, as a share of `count` cases, and what styles are taken for.

    Args:
        draw_cases: gives the pictures.
        drawings: trained ones, whose concepts are asked for.
        judges: by name; `clip` must be one.
        count: of cases of each kind.

    Returns:
        shares by name; `styles mistaken by WHO` has numbers of cases, such as `{"noto for twemoji": 3}`.
    """
    by_kind = {kind: cases(drawings, kind, count) for kind in KINDS}
    drawn_of: dict[str, np.ndarray] = {}
    for kind, group in by_kind.items():
        logger.info("drawing: %s", kind)
        drawn_of[kind] = draw_cases(group)
    names = {kind: [_name(case, drawings) for case in group] for kind, group in by_kind.items()}
    truths = {kind: [case.truth for case in group] for kind, group in by_kind.items()}
    shares: dict[str, Any] = {
        "colour": _share(map(background_colour, drawn_of["colour"]), truths["colour"]),
        "place": _share(map(object_place, drawn_of["place"]), truths["place"]),
    }
    for who, judge in judges.items():
        ranks = concept_ranks(judge, drawn_of["concept"], names["concept"])
        shares[f"concept top-1 by {who}"] = float(np.mean(ranks < 1))
        shares[f"concept top-5 by {who}"] = float(np.mean(ranks < 5))
        styles = [list(STYLES)[i] for i in judge.styles(drawn_of["style"], names["style"]).argmax(axis=1)]
        shares[f"style by {who}"] = _share(styles, truths["style"])
        mistaken = Counter(f"{a} for {b}" for a, b in zip(truths["style"], styles, strict=True) if a != b)
        shares[f"styles mistaken by {who}"] = dict(mistaken.most_common())
    clip = judges["clip"]
    assert isinstance(clip, ClipJudge)
    treatments = clip.treatments(drawn_of["treatment"], names["treatment"]).argmax(axis=1)
    shares["treatment by clip"] = _share(([*TREATMENTS, None][i] for i in treatments), truths["treatment"])
    shares["pair by clip"] = pair_share(clip, drawn_of["pair"], names["pair"], truths["pair"])
    return shares


def concept_ranks(judge: Judge, drawn_pictures: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """How many concepts a judge holds for likelier than the one that was asked for, [n]."""
    scores = judge.concepts(drawn_pictures)
    own = scores[np.arange(len(names)), [judge.names.index(name) for name in names]]
    return (scores > own[:, None]).sum(axis=1)


def pair_share(clip: ClipJudge, drawn_pictures: np.ndarray, firsts: Sequence[str], seconds: Sequence[str]) -> float:
    """How often CLIP finds a pair among ten, in nine of which one of the two is another thing."""
    rng = np.random.default_rng(0)
    texts = []
    for pair in zip(firsts, seconds, strict=True):
        others = rng.choice([name for name in clip.names if name not in pair], 9)
        wrong = [(pair[0], other) if i % 2 else (other, pair[1]) for i, other in enumerate(others)]
        texts.append([f"{with_article(a)} and {with_article(b)}" for a, b in (pair, *wrong)])
    return float(np.mean(clip.texts(drawn_pictures, texts).argmax(axis=1) == 0))


def retrieval(judge: ClipJudge, drawings: Drawings, count: int) -> dict[str, float]:
    """How often CLIP finds a scene's caption among all of them, at first and among five."""
    scenes = [random_scene(drawings, (VALIDATION, i)) for i in range(count)]
    similarity = judge.similarity([draw(s, drawings) for s in scenes], [caption(s, drawings) for s in scenes])
    return {f"recall@{k} of {count}": recall(similarity, k) for k in (1, 5)}


def autoencoder_psnr(pipeline: ti_jax.Pipeline, drawings: Drawings) -> float:
    """Of unseen scenes through the model's autoencoder, in dB."""
    scenes = pictures(drawings, VALIDATION, 0, 256)
    return psnr(scenes, reconstruct(pipeline.networks["vae"], scenes))


def _name(case: Case, drawings: Drawings) -> str:
    return drawings.concepts[case.code].name


def _share(answers: Any, truths: Sequence[str]) -> float:
    """Of right answers."""
    return float(np.mean([answer == truth for answer, truth in zip(answers, truths, strict=True)]))


if __name__ == "__main__":
    sys.exit(main())
