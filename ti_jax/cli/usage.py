"""How other programs use a file that was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ti_jax.cli.common import Common
    from ti_jax.concepts.concept import Concept
    from ti_jax.pipeline import Pipeline


def is_stable_diffusion(pipeline: Pipeline) -> bool:
    """Whether other programs load words into the model: not into the paper's, whose text encoder is no CLIP."""
    from ti_jax.models.bert import LDMBertModel

    return not isinstance(pipeline.networks["text_encoder"], LDMBertModel)


def diffusers_pipeline(concept: Concept) -> str:
    """The class of diffusers that a concept is for."""
    return "StableDiffusionPipeline" if len(concept.vectors) == 1 else "StableDiffusionXLPipeline"


def diffusers_loading(common: Common, concept: Concept) -> list[str]:
    """Lines of Python by which diffusers loads the model of a concept as `pipe`."""
    from ti_jax.weights.hub import resolve

    kind = diffusers_pipeline(concept)
    model = str(resolve(common.model)) if common.model == "tiny" else common.model
    if Path(model).is_file():
        method, options = "from_single_file", {"config": common.model_config}
    else:
        method, options = "from_pretrained", {"revision": common.revision, "variant": common.variant}
    given = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    lines = [f"from diffusers import {kind}", f"pipe = {kind}.{method}({model!r}{given})"]
    if common.prediction_type is not None:
        option = f"prediction_type={common.prediction_type!r}"
        lines.append(f"pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, {option})")
    return lines


def diffusers_calls(concept: Concept, file: str) -> list[str]:
    """Lines of Python by which diffusers loads a file into `pipe`; those of two encoders one at a time.

    Of a word with capitals diffusers finds the first vector alone: its `maybe_convert_prompt` looks for tokens that are
    in lower case already.
    """
    from ti_jax.concepts.prompts import fold

    word = fold(concept.placeholder) if concept.num_vectors > 1 else concept.placeholder
    hints = [] if word == concept.placeholder else [f"# and write {word} in prompts, in lower case"]
    if len(concept.vectors) == 1:
        return [f"pipe.load_textual_inversion({file!r}, token={word!r})", *hints]
    torch = not file.endswith(".safetensors")
    return [
        "import torch" if torch else "from safetensors.torch import load_file",
        f"state = torch.load({file!r}, weights_only=True)" if torch else f"state = load_file({file!r})",
        *(
            f"pipe.load_textual_inversion(state[{key!r}], token={word!r}, "
            f"text_encoder=pipe.text_encoder{number}, tokenizer=pipe.tokenizer{number})"
            for key, number in (("clip_l", ""), ("clip_g", "_2"))
        ),
        *hints,
    ]
