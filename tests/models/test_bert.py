"""The text transformer of latent diffusion against diffusers."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig as TorchConfig
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertEncoderLayer as TorchLayer
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel as TorchModel
from torch_pair import check, draws, pair, run

from ti_jax.errors import UserError
from ti_jax.models.bert import LDMBertConfig, LDMBertEncoderLayer, LDMBertModel
from ti_jax.weights.rules import LDM_BERT

SIZES = {
    "vocab_size": 50,
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 16,
}


def test_whole_network():
    reference = TorchModel(TorchConfig(**SIZES))
    config = LDMBertConfig.from_dict(reference.config.to_dict())
    reference, ours = pair(reference, lambda **t: LDMBertModel(config, **t), LDM_BERT)
    ids = np.random.default_rng(0).integers(0, 50, (2, 16))
    found = run(ours, run(ours, jnp.asarray(ids), method="embed"), jnp.zeros(2, jnp.int32))
    check(found.last_hidden_state, reference.model(torch.tensor(ids)).last_hidden_state, 1e-4)


@pytest.mark.parametrize("sizes", [SIZES, {}], ids=["small", "true shape"])
def test_layer(sizes):
    config = LDMBertConfig(**sizes)
    reference, ours = pair(TorchLayer(TorchConfig(**sizes)), lambda **t: LDMBertEncoderLayer(config, **t), LDM_BERT)
    x = draws(1, 16, config.d_model)
    check(run(ours, x), reference(torch.tensor(x), None, None)[0], 1e-5)


def test_config_is_strict():
    assert LDMBertConfig.from_dict({}) == LDMBertConfig()
    assert LDMBertConfig().hidden_size == 1280
    with pytest.raises(UserError, match="activation_function = 'relu'"):
        LDMBertConfig.from_dict({"activation_function": "relu"})
    with pytest.raises(UserError, match="rotary = True"):
        LDMBertConfig.from_dict({"rotary": True})
