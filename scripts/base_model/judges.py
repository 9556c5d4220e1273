"""Judges of pictures: which concept, which style, which treatment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from captions import STYLES, article, with_article
from drawings import Drawings
from subjects import picture
from treatments import FORMS

from ti_jax.evaluation.clip import Clip

_CONCEPT_FORMS = ("{}", "a picture of {}", "an icon of {}", "a drawing of {}")


@dataclass(frozen=True)
class ClipJudge:
    """Zero-shot: what a picture shows is what the nearest text says (Radford et al. 2021, section 3.1).

    Args:
        clip: both towers.
        drawings: whose names are the classes.
    """

    clip: Clip
    drawings: Drawings

    @cached_property
    def names(self) -> list[str]:
        """The classes of `concepts`."""
        return [concept.name for concept in self.drawings.concepts.values()]

    @cached_property
    def _name_vectors(self) -> np.ndarray:
        forms = [self._texts([form.format(with_article(name)) for name in self.names]) for form in _CONCEPT_FORMS]
        return np.mean(forms, axis=0)

    @cached_property
    def _drawing_vectors(self) -> np.ndarray:
        """Of each name the mean of its drawings' vectors."""
        vectors = []
        for code in self.drawings.concepts:
            pictures = [picture(self.drawings, style, code) for style in self.drawings.styles[code]]
            vectors.append(self.clip.image_vectors(pictures).mean(axis=0))
        return np.stack(vectors)

    def nearest_names(self, pictures: np.ndarray, count: int) -> list[str]:
        """The `count` names that are nearest to pictures by text, and as many by drawings; each once."""
        by_drawings = self.clip.image_vectors(list(pictures)) @ self._drawing_vectors.T
        scores = (self.concepts(pictures), by_drawings)
        nearest = np.concatenate([np.argsort(-score.mean(axis=0))[:count] for score in scores])
        return [self.names[i] for i in dict.fromkeys(nearest.tolist())]

    def concepts(self, pictures: np.ndarray) -> np.ndarray:
        """Likeness of uint8 pictures [n, h, w, 3] to each of `names`, [n, names]."""
        return self.clip.image_vectors(list(pictures)) @ self._name_vectors.T

    def styles(self, pictures: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Likeness to each of the styles, [n, styles], of pictures of things of these names."""
        return self._among(
            pictures, names, [lambda thing, s=s: f"{article(s[0])} {s[0]} of {thing}" for s in STYLES.values()]
        )

    def treatments(self, pictures: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Likeness to each of the treatments, and to none at the end, [n, treatments + 1]."""
        forms = [*(forms[0] for forms in FORMS.values()), "a picture of {}"]
        return self._among(pictures, names, [form.format for form in forms])

    def texts(self, pictures: np.ndarray, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """Likeness of each picture to texts of its own, [n, texts]."""
        vectors = self._texts([text for own in texts for text in own]).reshape(len(texts), len(texts[0]), -1)
        return np.einsum("nd,nkd->nk", self.clip.image_vectors(list(pictures)), vectors)

    def similarity(self, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Likeness of every picture to every text, [pictures, texts]."""
        return self.clip.image_vectors(pictures) @ self._texts(texts).T

    def _among(self, pictures: np.ndarray, names: Sequence[str], forms: Sequence[Callable[[str], str]]) -> np.ndarray:
        return self.texts(pictures, [[form(with_article(name)) for form in forms] for name in names])

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.concatenate([self.clip.text_vectors(texts[i : i + 256]) for i in range(0, len(texts), 256)])
