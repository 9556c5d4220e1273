"""The text transformer of the original latent-diffusion model (diffusers `pipeline_latent_diffusion.py`), with the
token table apart so that learned vectors can be spliced in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from ti_jax.errors import UserError
from ti_jax.models.attention import attention
from ti_jax.models.config import ANY, TRANSFORMERS_KEYS, check_divides, read_config
from ti_jax.models.layers import layer_norm, linear

_EPSILON = 1e-5

_NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(TRANSFORMERS_KEYS, ANY),
    "activation_dropout": ANY,  # nothing is dropped: the encoder is frozen
    "attention_dropout": ANY,
    "classifier_dropout": ANY,
    "dropout": ANY,
    "encoder_layerdrop": ANY,
    "init_std": ANY,
    "num_hidden_layers": ANY,  # repeats encoder_layers
    "pad_token_id": ANY,  # the tokenizer pads
    "scale_embedding": ANY,  # the reference reads it and does nothing
    "model_type": ("ldmbert",),
}


@dataclass(frozen=True)
class LDMBertConfig:
    """Keys and defaults of diffusers' `LDMBertConfig`."""

    vocab_size: int = 30522
    max_position_embeddings: int = 77
    encoder_layers: int = 32
    encoder_ffn_dim: int = 5120
    encoder_attention_heads: int = 8
    head_dim: int = 64
    activation_function: str = "gelu"
    d_model: int = 1280

    eos_token_id: ClassVar[None] = None
    """There is no pooled output, so no place for it either."""

    def __post_init__(self) -> None:
        if self.activation_function != "gelu":
            raise UserError(f"text encoder: activation_function = {self.activation_function!r} is not supported")
        heads = self.encoder_attention_heads
        check_divides("text encoder", "encoder_attention_heads", heads, [heads * self.head_dim])

    @property
    def hidden_size(self) -> int:
        """Width of a vector, as other text encoders call it."""
        return self.d_model

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LDMBertConfig:
        """Reads a `config.json`; raises UserError for what is not implemented."""
        return read_config(cls, values, neutral=_NEUTRAL, what="text encoder")


class LDMBertOutput(NamedTuple):
    """What the text encoder gives."""

    last_hidden_state: Float[Array, "b l width"]
    """After the last layer and the final norm."""


class LDMBertAttention(nnx.Module):
    """Self-attention over all positions, padding included, as the model was trained."""

    def __init__(self, config: LDMBertConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        width, self.heads = config.d_model, config.encoder_attention_heads
        inner = self.heads * config.head_dim
        self.q_proj = linear(width, inner, use_bias=False, rngs=rngs, **types)
        self.k_proj = linear(width, inner, use_bias=False, rngs=rngs, **types)
        self.v_proj = linear(width, inner, use_bias=False, rngs=rngs, **types)
        self.out_proj = linear(inner, width, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b l width"]) -> Float[Array, "b l width"]:
        b, length, _ = x.shape
        q, k, v = (p(x).reshape(b, length, self.heads, -1) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attention(q, k, v).reshape(b, length, -1))


class LDMBertEncoderLayer(nnx.Module):
    """Attention and two linear layers, each behind a norm and beside a skip."""

    def __init__(
        self,
        config: LDMBertConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        norm: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        self.self_attn = LDMBertAttention(config, rngs=rngs, **types)
        self.self_attn_layer_norm = layer_norm(config.d_model, _EPSILON, **norm)
        self.fc1 = linear(config.d_model, config.encoder_ffn_dim, rngs=rngs, **types)
        self.fc2 = linear(config.encoder_ffn_dim, config.d_model, rngs=rngs, **types)
        self.final_layer_norm = layer_norm(config.d_model, _EPSILON, **norm)

    @jax.jit  # traced once for all of the same shapes
    def __call__(self, x: Float[Array, "b l width"]) -> Float[Array, "b l width"]:
        x = x + self.self_attn(self.self_attn_layer_norm(x).astype(x.dtype))
        inner = self.fc1(self.final_layer_norm(x).astype(x.dtype))
        return x + self.fc2(jax.nn.gelu(inner, approximate=False))


class LDMBertEncoder(nnx.Module):
    """Tables of tokens and positions, the stack of layers, the final norm."""

    def __init__(self, config: LDMBertConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.embed_tokens = nnx.Embed(config.vocab_size, config.d_model, rngs=rngs, **types)
        self.embed_positions = nnx.Embed(config.max_position_embeddings, config.d_model, rngs=rngs, **types)
        self.layers = nnx.List([LDMBertEncoderLayer(config, rngs=rngs, **types) for _ in range(config.encoder_layers)])
        self.layer_norm = layer_norm(config.d_model, _EPSILON, rngs=rngs, param_dtype=types["param_dtype"])


class LDMBertModel(nnx.Module):
    """The text transformer; parameters are named as diffusers writes them, without the head for words.

    Args:
        config: sizes.
        rngs: for the initial parameters.
        dtype: of the computation; norms and softmax are in float32.
        param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: LDMBertConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.config = config
        self.model = LDMBertEncoder(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def embed(self, ids: Int32[Array, "*b l"]) -> Float[Array, "*b l width"]:
        """Rows of the token table, without positions: where learned vectors are spliced in."""
        return self.model.embed_tokens(ids)

    def __call__(self, embeddings: Float[Array, "b l width"], pool_index: Int32[Array, " b"]) -> LDMBertOutput:
        """Encodes prompts.

        Args:
            embeddings: from `embed`, with vectors spliced in.
            pool_index: not used, since this encoder has no pooled output.

        Returns:
            the hidden states, in the compute type.
        """
        positions = self.model.embed_positions(jnp.arange(embeddings.shape[1]))
        x = embeddings.astype(positions.dtype) + positions[None]
        for layer in self.model.layers:
            x = layer(x)
        return LDMBertOutput(self.model.layer_norm(x).astype(x.dtype))
