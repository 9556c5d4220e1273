"""CLIP's text transformer against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch_pair import check, draws, pair, run
from transformers import CLIPTextConfig as TorchConfig
from transformers import CLIPTextModel as TorchModel
from transformers import CLIPTextModelWithProjection as TorchProjected
from transformers.models.clip.modeling_clip import CLIPEncoderLayer as TorchLayer

from ti_jax.errors import UserError
from ti_jax.models.clip import CLIPEncoderLayer, CLIPTextConfig, CLIPTextModel
from ti_jax.weights.rules import CLIP_TEXT

EOS = 98
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "projection_dim": 24,
    "bos_token_id": 97,
    "eos_token_id": EOS,
    "attn_implementation": "eager",
}


def _config(reference):
    return CLIPTextConfig.from_dict({**reference.config.to_dict(), "architectures": [type(reference).__name__]})


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("kind", [TorchModel, TorchProjected])
def test_whole_network(activation, kind):
    reference = kind(TorchConfig(**SIZES, hidden_act=activation))
    config = _config(reference)
    reference, ours = pair(reference, lambda **t: CLIPTextModel(config, **t), CLIP_TEXT)
    ids = np.random.default_rng(0).integers(0, 97, (2, 16))
    ids[0, 9], ids[1, 15] = EOS, EOS
    expected = reference(torch.tensor(ids), output_hidden_states=True)
    last, penultimate, pooled = run(ours, run(ours, jnp.asarray(ids), method="embed"), jnp.asarray([9, 15]))
    check(last, expected.last_hidden_state, 1e-4)
    check(penultimate, expected.hidden_states[-2], 1e-4)
    check(pooled, expected.text_embeds if kind is TorchProjected else expected.pooler_output, 1e-4)


@pytest.mark.parametrize(("width", "inner", "heads", "length"), [(32, 64, 4, 16), (768, 3072, 12, 77)])
def test_layer(width, inner, heads, length):
    """Small, and at the shape of SD 1.5."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
    config = CLIPTextConfig(**sizes)
    reference, ours = pair(
        TorchLayer(TorchConfig(**{**SIZES, **sizes})), lambda **t: CLIPEncoderLayer(config, **t), CLIP_TEXT
    )
    x = draws(2, length, width)
    causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    expected = reference(torch.tensor(x), attention_mask=causal)
    check(run(ours, x), expected[0] if isinstance(expected, tuple) else expected, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    reference = TorchModel(TorchConfig(**SIZES))
    config = _config(reference)
    reference, ours = pair(reference, lambda **t: CLIPTextModel(config, **t), CLIP_TEXT, dtype=dtype, param_dtype=dtype)
    ids = np.random.default_rng(0).integers(0, 97, (1, 16))
    last = run(ours, run(ours, jnp.asarray(ids), method="embed"), jnp.asarray([15])).last_hidden_state
    assert last.dtype == dtype
    check(last, reference(torch.tensor(ids)).last_hidden_state, 8 * float(jnp.finfo(dtype).eps))


def test_slopes_of_a_common_token_are_summed_in_the_table_s_precision():
    config = CLIPTextConfig(
        vocab_size=2, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1
    )
    network = CLIPTextModel(config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    ids = jnp.zeros((10, 100), jnp.int32)
    slopes = jax.grad(lambda n: jnp.sum(n.embed(ids), dtype=jnp.float32))(network)
    # bfloat16 counts to 256.
    np.testing.assert_array_equal(slopes.embeddings.token_embedding.embedding[...], [[1000.0] * 4, [0.0] * 4])


def test_config_is_strict():
    with pytest.raises(UserError, match="hidden_act = 'relu'"):
        CLIPTextConfig.from_dict({"hidden_act": "relu"})
    with pytest.raises(UserError, match="rotary = True"):
        CLIPTextConfig.from_dict({"rotary": True, "_name_or_path": "ignored"})
    assert CLIPTextConfig.from_dict({}) == CLIPTextConfig()
