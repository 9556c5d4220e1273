"""What a slot has room for: the common shape that concepts of different sizes are padded to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ti_jax.config import ConceptSpec, InversionConfig, for_concept
from ti_jax.data.captions import count_prompts
from ti_jax.data.pictures import count_pictures
from ti_jax.errors import UserError
from ti_jax.inversion.draws import concept_key
from ti_jax.inversion.prepare import Prepared, initial_vectors_of
from ti_jax.inversion.slots import SlotInputs
from ti_jax.pipeline import Pipeline


@dataclass(frozen=True)
class Bounds:
    """The most that a concept may have."""

    pictures: int
    prompts: int
    vectors: int

    @classmethod
    def of(cls, prepared: Prepared) -> Bounds:
        """The sizes of one concept."""
        return cls(*_sizes(prepared))


def find_bounds(pipeline: Pipeline, specs: Sequence[ConceptSpec], config: InversionConfig) -> Bounds:
    """Bounds as the configuration states them, or else the sizes of the largest concept.

    Args:
        pipeline: the frozen model.
        specs: of all concepts, those of other hosts too, so that all have slots of one size. No picture is opened.
        config: with the model's defaults filled in; `config.bounds` may be unset in part.

    Returns:
        bounds that every concept fits which `config.bounds` does not exclude.
    """
    bounds = dataclasses.asdict(config.bounds)
    unset = [name for name, value in bounds.items() if value is None]
    sizes = [_measure(pipeline, spec, config, unset) for spec in specs] if unset else []
    return Bounds(**{**bounds, **{name: max([1, *(size[name] for size in sizes)]) for name in unset}})


def check_fit(prepared: Prepared, bounds: Bounds) -> None:
    """Raises UserError if a concept has more of something than a slot has room for."""
    for (name, room), size in zip(dataclasses.asdict(bounds).items(), _sizes(prepared), strict=True):
        if size > room:
            raise UserError(
                f"{prepared.spec.name} has {size} {name}, and a slot has room for {room}: give --bounds.{name} {size}"
            )


def _sizes(prepared: Prepared) -> tuple[int, int, int]:
    inputs: SlotInputs = prepared.inputs
    return (
        len(inputs.latent_mean),
        len(next(iter(inputs.prompts.values())).ids),
        max(len(vectors) for vectors in prepared.vectors.values()),
    )


def _measure(pipeline: Pipeline, spec: ConceptSpec, config: InversionConfig, names: Sequence[str]) -> dict[str, int]:
    """Sizes of these names without opening a picture; the least of a concept that is no good, which gets no slot."""
    config = for_concept(config, spec)

    def pictures() -> int:
        return count_pictures(spec.pictures)

    def prompts() -> int:
        templates = pipeline.inversion_defaults.templates
        return count_prompts(config.data, spec.placeholder, templates) or pictures()

    def vectors() -> int:
        rows = initial_vectors_of(pipeline, spec, config, concept_key(config.seed, spec.name))
        return max(len(v) for v in rows.values())

    measures = {"pictures": pictures, "prompts": prompts, "vectors": vectors}
    try:
        return {name: measures[name]() for name in names}
    except Exception:  # of whatever kind: it is told when its turn comes, and must not stop the others
        return dict.fromkeys(names, 1)
