"""A model in files, whichever way they are laid out: opened, but its weights not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ti_jax.config import InversionDefaults
from ti_jax.models.bert import LDMBertConfig
from ti_jax.models.clip import CLIPTextConfig
from ti_jax.models.unet import UNetConfig
from ti_jax.models.vae import AutoencoderKLConfig
from ti_jax.weights.loader import LazyTensor
from ti_jax.weights.rules import CLIP_TEXT, LDM_BERT, UNET, VAE, Rules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NetworkConfig = CLIPTextConfig | LDMBertConfig | UNetConfig | AutoencoderKLConfig
RULES: Mapping[type, Rules] = {
    CLIPTextConfig: CLIP_TEXT,
    LDMBertConfig: LDM_BERT,
    UNetConfig: UNET,
    AutoencoderKLConfig: VAE,
}
"""How diffusers and transformers name the parameters of a network, by its config."""


@dataclass(frozen=True)
class ModelFiles:
    """What a pipeline is made of."""

    configs: Mapping[str, NetworkConfig]
    """By network: `text_encoder`, `text_encoder_2` in SDXL, `unet`, `vae`."""
    weights: Callable[[str], tuple[Mapping[str, LazyTensor], Rules]]
    """The tensors of a network, and how they are named."""
    tokenizer: Callable[[str], PreTrainedTokenizerBase]
    """Of a text encoder."""
    scheduler: Mapping[str, Any]
    """As in `scheduler_config.json`."""
    inversion_defaults: InversionDefaults = field(default_factory=InversionDefaults)
    zeros_for_empty_prompt: bool = False
    """diffusers' `force_zeros_for_empty_prompt`."""

    @property
    def encoders(self) -> list[str]:
        """The text encoders among the networks."""
        return [name for name in self.configs if name.startswith("text_encoder")]
