"""Does Textual Inversion work in the bundled model's world? Learns what the model has never seen, and judges.

    python scripts/base_model/inversions.py --model runs/base_model --output runs/base_model/inversions.json

Of each subject (`subjects.py`) a word is learned from five pictures. Its pictures stand against those of (i) the word
it began with, (ii) names of the vocabulary, those that CLIP finds nearest to the pictures and those of the drawings
nearest to them, (iii) captions that a person would write; of (ii) and (iii) the prompt counts whose pictures come out
best. Two judges: likeness to the five pictures by CLIP, and whether the nearest subject by the classifier's features is
the right one. Then prompts with the word: background, place, treatment. Learned words are kept in a folder beside the
output, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from cases import cases
from classifier import CLASSIFIER, Classifier, load_classifier
from dataset import read_dataset
from drawings import Drawings
from etils import epath
from feed import to_float
from judges import ClipJudge
from packages import Packages
from pixels import background_colour, object_place
from samples import contact_sheet
from subjects import Subject, character_subjects, concept_subjects, style_subjects
from treatments import TREATMENTS

import ti_jax
from ti_jax.config import ConceptSpec, InversionConfig
from ti_jax.files import write_text

WORD = "<it>"
_FORMS = {"concept": "a picture of a {}", "character": "a picture of a {}", "style": "an icon in the style of {}"}
_NAMES = 2
"""How many of the vocabulary's names are tried, of the nearest by text and of the nearest by drawings each."""
_FOLLOWED = {"colour": 3, "place": 2, "treatment": 2}
"""Prompts of each kind with each word."""
logger = logging.getLogger(__name__)


def main() -> int:
    """Learns, draws, judges, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clip", default="tiny")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="another one's file")
    parser.add_argument("--data-dir", type=Path, default=Path("runs/base_model/data"))
    parser.add_argument("--steps", type=int, help="of an inversion; the model's own number if not given")
    parser.add_argument("--learning-rate", type=float, help="likewise")
    parser.add_argument("--num-vectors", type=int, default=1, help="of a word")
    parser.add_argument("--count", type=int, help="concepts, the first of the list; all if not given")
    parser.add_argument("--pictures", type=int, default=4, help="drawn of each prompt")
    parser.add_argument("--sampling-steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="of the inversions")
    parser.add_argument("--output", type=Path, default=Path("runs/base_model/inversions.json"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells of every file
    drawings, seen = read_dataset(options.data_dir), read_dataset(options.data_dir, "train")
    packages = Packages(options.data_dir / "packages")
    packages.fetch()  # those that building the data set did not leave there
    subjects = [
        *concept_subjects(drawings)[: options.count],
        *character_subjects(drawings, packages),
        *style_subjects(drawings),
    ]
    pipeline = ti_jax.load(options.model)
    words = learn(pipeline, subjects, options)
    clip = ClipJudge(ti_jax.load_clip(options.clip), seen)
    study = Study(pipeline, clip, Retrieval(load_classifier(options.classifier, seen).model, subjects), seen, options)
    rows, sheets = [], []
    for number, subject in enumerate(subjects):
        row, pictures = study.judge(subject, words[subject.name], number)
        logger.info("%s", json.dumps(row))
        rows.append(row)
        sheets.append(pictures)
    asked = ("model", "num_vectors", "pictures", "sampling_steps", "guidance", "seed")
    given = {name: getattr(options, name) for name in asked}
    for name in ("steps", "learning_rate"):
        given[name] = getattr(options, name) or getattr(pipeline.inversion_defaults, name)
    report = {**given, "subjects": len(rows), **totals(rows), "rows": rows}
    write_text(options.output, json.dumps(report, indent=2) + "\n")
    contact_sheet(np.concatenate(sheets), columns=2 * len(sheets[0])).save(options.output.with_suffix(".png"))
    print(json.dumps({name: value for name, value in report.items() if name != "rows"}, indent=2))
    return 0


def learn(pipeline: ti_jax.Pipeline, subjects: Sequence[Subject], options: argparse.Namespace) -> dict[str, Any]:
    """A word for each subject, by name."""
    specs = [
        ConceptSpec(
            subject.name,
            WORD,
            subject.initializer,
            list(subject.shown),
            num_vectors=options.num_vectors,
            prompts="style" if subject.kind == "style" else None,
            learning_rate=options.learning_rate,
        )
        for subject in subjects
    ]
    folder = epath.Path(options.output.with_suffix(""))
    config = InversionConfig(steps=options.steps, evaluate_every=100, seed=options.seed)
    results = ti_jax.invert_many(pipeline, specs, config=config, output=folder, resume=folder.exists())
    for number, _ in enumerate(results):
        logger.info("learned: %d of %d", number + 1, len(specs))
    return {spec.name: ti_jax.Concept.load(folder / spec.name / "learned_embeds.safetensors") for spec in specs}


class Retrieval:
    """Which subject a picture shows: the one whose pictures' mean feature, by the classifier, is nearest.

    The pictures are those that the inversions did not see.
    """

    def __init__(self, model: Classifier, subjects: Sequence[Subject]) -> None:
        self.model, self.names = model, [subject.name for subject in subjects]
        self.centres = np.stack([self._features(subject.others).mean(axis=0) for subject in subjects])

    def share(self, pictures: np.ndarray, name: str) -> float:
        """Of pictures whose nearest subject is the one of a name."""
        features = self._features(pictures)
        nearest = (features @ (self.centres / np.linalg.norm(self.centres, axis=1, keepdims=True)).T).argmax(axis=1)
        return float(np.mean(nearest == self.names.index(name)))

    def _features(self, pictures: np.ndarray) -> np.ndarray:
        features = np.asarray(self.model.features(to_float(jnp.asarray(pictures))))
        return features / np.linalg.norm(features, axis=1, keepdims=True)


@dataclass(frozen=True)
class Study:
    """What judges a word."""

    pipeline: ti_jax.Pipeline
    clip: ClipJudge
    retrieval: Retrieval
    seen: Drawings
    options: argparse.Namespace

    def judge(self, subject: Subject, concept: ti_jax.Concept, number: int) -> tuple[dict[str, Any], np.ndarray]:
        """The scores of a subject's word and of what stands against it, and two shown and two drawn pictures."""
        form = _FORMS[subject.kind]
        names = self.clip.nearest_names(subject.shown, _NAMES)
        against = {
            "word": [form.format(WORD)],
            "initializer": [form.format(subject.initializer)],
            "name": [form.format(name) for name in names],
            "caption": list(subject.captions),
        }
        prompts = [prompt for own in against.values() for prompt in own]
        drawn = self._draw(prompts, concept, self.options.pictures)
        by_prompt = dict(
            zip(prompts, drawn.reshape(len(prompts), self.options.pictures, *drawn.shape[1:]), strict=True)
        )
        row: dict[str, Any] = {"name": subject.name, "kind": subject.kind}
        for who, own in against.items():
            best = max(own, key=lambda prompt: self._likeness(subject, by_prompt[prompt]))
            row[f"similarity of {who}"] = round(self._likeness(subject, by_prompt[best]), 4)
            row[f"retrieval of {who}"] = self.retrieval.share(by_prompt[best], subject.name)
            if who == "name":
                row["best name"] = names[own.index(best)]
        if subject.kind != "style":
            row |= self._followed(concept, number)
        return row, np.concatenate([subject.shown[:2], by_prompt[form.format(WORD)][:2]])

    def _likeness(self, subject: Subject, pictures: np.ndarray) -> float:
        """Mean cosine of CLIP's vectors of drawn and shown pictures (Gal et al. 2022, section 5.1)."""
        vectors = [self.clip.clip.image_vectors(list(some)) for some in (pictures, subject.shown)]
        return float(np.mean(vectors[0] @ vectors[1].T))

    def _followed(self, concept: ti_jax.Concept, number: int) -> dict[str, float]:
        """How many prompts are followed, with the word and with names that the model knows, by kind."""
        groups = {kind: cases(self.seen, kind, (number + 1) * n)[number * n :] for kind, n in _FOLLOWED.items()}
        asked = [case for group in groups.values() for case in group]
        names = [self.seen.concepts[case.code].name for case in asked]
        prompts = [case.prompt(WORD) for case in asked] + [
            case.prompt(name) for case, name in zip(asked, names, strict=True)
        ]
        drawn = self._draw(prompts, concept, 1)
        shares = {}
        for who, pictures in (("word", drawn[: len(asked)]), ("names", drawn[len(asked) :])):
            # CLIP has never heard of what the words stand for; both are judged alike.
            likeness = self.clip.treatments(pictures, ["thing"] * len(pictures))
            treatments = [[*TREATMENTS, None][i] for i in likeness.argmax(axis=1)]
            for kind in _FOLLOWED:
                shares[f"{kind} with {who}"] = float(
                    np.mean(
                        [
                            _answer(kind, picture, treatment) == case.truth
                            for case, picture, treatment in zip(asked, pictures, treatments, strict=True)
                            if case.kind == kind
                        ]
                    )
                )
        return shares

    def _draw(self, prompts: Sequence[str], concept: ti_jax.Concept, count: int) -> np.ndarray:
        return ti_jax.generate(
            self.pipeline,
            prompts,
            concepts=[concept],
            num_images=count,
            steps=self.options.sampling_steps,
            guidance=self.options.guidance,
        )


def _answer(kind: str, picture: np.ndarray, treatment: str | None) -> str | None:
    """What a picture shows, of what a prompt of a kind asks for."""
    return {"colour": background_colour, "place": object_place, "treatment": lambda _: treatment}[kind](picture)


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the rows, by kind of subject, and how many words beat all that stands against them by likeness."""
    found = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        found[kind] = {
            key: round(float(np.mean([row[key] for row in own])), 4)
            for key, value in own[0].items()
            if isinstance(value, float)
        }
        for who in ("initializer", "name", "caption"):
            found[kind][f"likelier than {who}"] = sum(
                row["similarity of word"] > row[f"similarity of {who}"] for row in own
            )
        found[kind]["subjects"] = len(own)
    return found


if __name__ == "__main__":
    sys.exit(main())
