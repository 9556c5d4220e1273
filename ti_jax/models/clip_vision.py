"""The image tower of CLIP and the two towers together (transformers `modeling_clip.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from ti_jax.errors import UserError
from ti_jax.models.clip import CLIPEncoder, CLIPTextConfig, CLIPTextModel, check_activation
from ti_jax.models.config import ANY, TRANSFORMERS_KEYS, read_config
from ti_jax.models.layers import layer_norm, linear

_NEUTRAL: dict[str, Any] = {
    "attention_dropout": ANY,  # nothing is dropped: the towers are frozen
    "dropout": ANY,
    "initializer_factor": ANY,
    "initializer_range": ANY,
    "num_channels": (3,),
    "projection_dim": ANY,  # the whole model's counts
    "model_type": ("clip_vision_model",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ANY),  # old files have them
    **dict.fromkeys(TRANSFORMERS_KEYS, ANY),
}


@dataclass(frozen=True)
class CLIPVisionConfig:
    """Keys and defaults of transformers' `CLIPVisionConfig`."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_activation(self.hidden_act, "image tower")
        if self.image_size % self.patch_size:
            raise UserError(f"image tower: image_size {self.image_size} is no multiple of patch_size {self.patch_size}")

    @property
    def causal(self) -> bool:
        """Every patch sees every other."""
        return False

    @property
    def patches(self) -> int:
        """Of a picture."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class CLIPConfig:
    """Keys of transformers' `CLIPConfig`: the towers, and the width that both are projected to."""

    text: CLIPTextConfig
    vision: CLIPVisionConfig
    projection_dim: int = 512

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPConfig:
        """Reads a `config.json`; raises UserError for what is not implemented."""
        vision = values.get("vision_config") or {}
        return cls(
            CLIPTextConfig.from_dict({**(values.get("text_config") or {}), "architectures": None}),
            read_config(CLIPVisionConfig, vision, neutral=_NEUTRAL, what="image tower"),
            int(values.get("projection_dim", 512)),
        )


class CLIPVisionEmbeddings(nnx.Module):
    """Patches as tokens, a token for the whole picture before them, and positions."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        width, side = config.hidden_size, (config.patch_size,) * 2
        self.class_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (width,), types["param_dtype"])
            / jnp.sqrt(width).astype(types["param_dtype"])
        )
        self.patch_embedding = nnx.Conv(
            3, width, side, strides=side, padding="VALID", use_bias=False, rngs=rngs, **types
        )
        self.position_embedding = nnx.Embed(config.patches + 1, width, rngs=rngs, **types)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b l width"]:
        patches = self.patch_embedding(images)
        b, _, _, width = patches.shape
        whole = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (b, 1, width))
        tokens = jnp.concatenate([whole, patches.reshape(b, -1, width)], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))[None]


class CLIPVisionModel(nnx.Module):
    """CLIP's vision transformer.

    Args:
        config: sizes and activation.
        rngs: for the initial parameters.
        dtype: of the computation; norms and softmax are in float32.
        param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: CLIPVisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        norm = (config.hidden_size, config.layer_norm_eps)
        self.config = config
        self.embeddings = CLIPVisionEmbeddings(config, rngs=rngs, **types)
        self.pre_layrnorm = layer_norm(*norm, rngs=rngs, param_dtype=param_dtype)  # OpenAI's spelling
        self.encoder = CLIPEncoder(config, rngs=rngs, **types)
        self.post_layernorm = layer_norm(*norm, rngs=rngs, param_dtype=param_dtype)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b width"]:
        """The state of the whole picture's token; pictures are normalised as the model wants them."""
        x = self.embeddings(images)
        x = self.pre_layrnorm(x).astype(x.dtype)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x[:, 0]).astype(x.dtype)


class CLIPModel(nnx.Module):
    """Both towers, with their projections into one space.

    Args:
        config: of the towers.
        rngs: for the initial parameters.
        dtype: of the computation; norms and softmax are in float32.
        param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        projection: dict[str, Any] = {"use_bias": False, "rngs": rngs, **types}
        self.config = config
        self.text_model = CLIPTextModel(config.text, rngs=rngs, **types)
        self.vision_model = CLIPVisionModel(config.vision, rngs=rngs, **types)
        self.text_projection = linear(config.text.hidden_size, config.projection_dim, **projection)
        self.visual_projection = linear(config.vision.hidden_size, config.projection_dim, **projection)
        self.logit_scale = nnx.Param(jnp.asarray(2.6592, param_dtype))

    def text_features(self, ids: Int32[Array, "b l"], pool_index: Int32[Array, " b"]) -> Float[Array, "b features"]:
        """Unit vectors of texts, in float32.

        Args:
            ids: of the tokens.
            pool_index: the position of the end of the text.

        Returns:
            the projected state there, normalised.
        """
        pooled = self.text_model(self.text_model.embed(ids), pool_index).pooled
        return _unit(self.text_projection(pooled))

    def image_features(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b features"]:
        """Unit vectors of pictures, in float32; the pictures are normalised as the model wants them."""
        return _unit(self.visual_projection(self.vision_model(images)))


def _unit(x: Float[Array, "b features"]) -> Float[Array, "b features"]:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
