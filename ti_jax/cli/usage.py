"""How other programs use a file that was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ti_jax.concepts.concept import Concept


def diffusers_pipeline(concept: Concept) -> str:
    """The class of diffusers that a concept is for."""
    return "StableDiffusionPipeline" if len(concept.vectors) == 1 else "StableDiffusionXLPipeline"


def diffusers_calls(concept: Concept, file: str) -> list[str]:
    """Lines of Python by which diffusers loads a file into `pipe`; those of two encoders one at a time."""
    if len(concept.vectors) == 1:
        return [f"pipe.load_textual_inversion({file!r}, token={concept.placeholder!r})"]
    torch = not file.endswith(".safetensors")
    return [
        "import torch" if torch else "from safetensors.torch import load_file",
        f"state = torch.load({file!r}, weights_only=True)" if torch else f"state = load_file({file!r})",
        *(
            f"pipe.load_textual_inversion(state[{key!r}], token={concept.placeholder!r}, "
            f"text_encoder=pipe.text_encoder{number}, tokenizer=pipe.tokenizer{number})"
            for key, number in (("clip_l", ""), ("clip_g", "_2"))
        ),
    ]
