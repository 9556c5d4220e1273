"""The text transformer of CLIP (transformers `modeling_clip.py`), with the token table apart so that learned vectors
can be spliced in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from ti_jax.errors import UserError
from ti_jax.models.attention import attention
from ti_jax.models.config import ANY, TRANSFORMERS_KEYS, check_divides, read_config
from ti_jax.models.layers import layer_norm, linear

_ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}

_NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(TRANSFORMERS_KEYS, ANY),
    "attention_dropout": ANY,  # nothing is dropped: the encoder is frozen
    "dropout": ANY,
    "initializer_factor": ANY,
    "initializer_range": ANY,
    "bos_token_id": ANY,
    "pad_token_id": ANY,  # the tokenizer pads
    "model_type": ("clip_text_model", "clip"),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


def check_activation(name: str, what: str) -> None:
    """Raises UserError if an activation is not implemented."""
    if name not in _ACTIVATIONS:
        raise UserError(f"{what}: hidden_act = {name!r} is not supported")


@dataclass(frozen=True)
class CLIPTextConfig:
    """Keys and defaults of transformers' `CLIPTextConfig`."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    with_projection: bool = False
    """Whether the pooled output goes through `text_projection` (transformers' `CLIPTextModelWithProjection`)."""

    def __post_init__(self) -> None:
        check_activation(self.hidden_act, "text encoder")
        check_divides("text encoder", "num_attention_heads", self.num_attention_heads, [self.hidden_size])

    @property
    def causal(self) -> bool:
        """A token sees those before it."""
        return True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPTextConfig:
        """Reads a `config.json`; raises UserError for what is not implemented."""
        values = dict(values)
        projection = "CLIPTextModelWithProjection" in (values.get("architectures") or ())
        return read_config(cls, {**values, "with_projection": projection}, neutral=_NEUTRAL, what="text encoder")


class CLIPTextOutput(NamedTuple):
    """What the text encoder gives; which of it conditions the UNet depends on the model family."""

    last_hidden_state: Float[Array, "b l width"]
    """After the last layer and the final norm."""
    penultimate_hidden_state: Float[Array, "b l width"]
    """After the last layer but one, without the final norm."""
    pooled: Float[Array, "b features"]
    """Of the last hidden state at `pool_index`, projected if the config says so."""


class CLIPTextEmbeddings(nnx.Module):
    """Tables of tokens and positions."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.token_embedding = nnx.Embed(config.vocab_size, config.hidden_size, rngs=rngs, **types)
        self.position_embedding = nnx.Embed(config.max_position_embeddings, config.hidden_size, rngs=rngs, **types)


@runtime_checkable
class LayerConfig(Protocol):
    """What the layers of either tower of CLIP want to know."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def layer_norm_eps(self) -> float: ...
    @property
    def causal(self) -> bool: ...


class CLIPAttention(nnx.Module):
    """Self-attention, causal in the text tower."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        width = config.hidden_size
        self.heads, self.causal = config.num_attention_heads, config.causal
        self.q_proj = linear(width, width, rngs=rngs, **types)
        self.k_proj = linear(width, width, rngs=rngs, **types)
        self.v_proj = linear(width, width, rngs=rngs, **types)
        self.out_proj = linear(width, width, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b l width"]) -> Float[Array, "b l width"]:
        b, length, width = x.shape
        q, k, v = (
            p(x).reshape(b, length, self.heads, width // self.heads) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = jnp.tril(jnp.ones((length, length), bool)) if self.causal else None
        return self.out_proj(attention(q, k, v, mask=mask).reshape(b, length, width))


class CLIPMLP(nnx.Module):
    """Two linear layers."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.activation = config.hidden_act
        self.fc1 = linear(config.hidden_size, config.intermediate_size, rngs=rngs, **types)
        self.fc2 = linear(config.intermediate_size, config.hidden_size, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b l width"]) -> Float[Array, "b l width"]:
        return self.fc2(_ACTIVATIONS[self.activation](self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """Attention and MLP, each behind a norm and beside a skip."""

    def __init__(
        self,
        config: LayerConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        norm = (config.hidden_size, config.layer_norm_eps)
        self.layer_norm1 = layer_norm(*norm, rngs=rngs, param_dtype=param_dtype)
        self.self_attn = CLIPAttention(config, rngs=rngs, **types)
        self.layer_norm2 = layer_norm(*norm, rngs=rngs, param_dtype=param_dtype)
        self.mlp = CLIPMLP(config, rngs=rngs, **types)

    @jax.jit  # traced once for all of the same shapes
    def __call__(self, x: Float[Array, "b l width"]) -> Float[Array, "b l width"]:
        x = x + self.self_attn(self.layer_norm1(x).astype(x.dtype))
        return x + self.mlp(self.layer_norm2(x).astype(x.dtype))


class CLIPEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.layers = nnx.List([CLIPEncoderLayer(config, rngs=rngs, **types) for _ in range(config.num_hidden_layers)])


class CLIPTextModel(nnx.Module):
    """CLIP's text transformer; parameters are named as transformers 5 writes them.

    Args:
        config: sizes and activation.
        rngs: for the initial parameters.
        dtype: of the computation; norms and softmax are in float32.
        param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.embeddings = CLIPTextEmbeddings(config, rngs=rngs, **types)
        self.encoder = CLIPEncoder(config, rngs=rngs, **types)
        self.final_layer_norm = layer_norm(
            config.hidden_size, config.layer_norm_eps, rngs=rngs, param_dtype=param_dtype
        )
        if config.with_projection:
            self.text_projection = linear(config.hidden_size, config.projection_dim, use_bias=False, rngs=rngs, **types)

    def embed(self, ids: Int32[Array, "*b l"]) -> Float[Array, "*b l width"]:
        """Rows of the token table, without positions: where learned vectors are spliced in."""
        table = self.embeddings.token_embedding
        # Rows first, then their type: whoever trains the table has sums of many slopes in the table's own precision.
        return jnp.take(table.embedding[...], ids, axis=0).astype(table.dtype)

    def __call__(self, embeddings: Float[Array, "b l width"], pool_index: Int32[Array, " b"]) -> CLIPTextOutput:
        """Encodes prompts.

        Args:
            embeddings: from `embed`, with vectors spliced in.
            pool_index: the position whose state is the pooled output.

        Returns:
            hidden states and pooled output, in the compute type.
        """
        positions = self.embeddings.position_embedding(jnp.arange(embeddings.shape[1]))
        x = embeddings.astype(positions.dtype) + positions[None]
        penultimate = x
        for layer in self.encoder.layers:
            penultimate, x = x, layer(x)
        last = self.final_layer_norm(x).astype(x.dtype)
        pooled = jnp.take_along_axis(last, pool_index[:, None, None], axis=1)[:, 0]
        if self.config.with_projection:
            pooled = self.text_projection(pooled)
        return CLIPTextOutput(last, penultimate, pooled)
