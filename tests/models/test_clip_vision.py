"""The two towers of CLIP against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from torch_pair import check, draws, nchw, pair, run

from ti_jax.errors import UserError
from ti_jax.models.clip_vision import CLIPConfig, CLIPModel
from ti_jax.weights import rules
from ti_jax.weights.loader import export_parameters

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def towers(request):
    config = transformers.CLIPConfig(
        text_config={
            **SIZES,
            "vocab_size": 50,
            "max_position_embeddings": 12,
            "eos_token_id": 49,
            "hidden_act": request.param,
        },
        vision_config={**SIZES, "image_size": 24, "patch_size": 8, "hidden_act": request.param},
        projection_dim=20,
    )
    reference = transformers.CLIPModel(config)
    ours = CLIPConfig.from_dict(reference.config.to_dict())
    return pair(reference, lambda **types: CLIPModel(ours, **types), rules.CLIP)


def test_image_features(towers):
    reference, ours = towers
    images = draws(3, 24, 24, 3)
    theirs = reference.get_image_features(pixel_values=nchw(images)).pooler_output
    check(run(ours, jnp.asarray(images), method="image_features"), torch.nn.functional.normalize(theirs, dim=-1), 1e-5)


def test_text_features(towers):
    reference, ours = towers
    ids = np.random.default_rng(0).integers(0, 49, (3, 12)).astype(np.int32)
    ends = np.asarray([5, 11, 7], np.int32)
    ids[np.arange(3), ends] = 49
    theirs = reference.get_text_features(input_ids=torch.tensor(ids).long()).pooler_output
    features = run(ours, jnp.asarray(ids), jnp.asarray(ends), method="text_features")
    check(features, torch.nn.functional.normalize(theirs, dim=-1), 1e-5)


def test_transformers_reads_what_is_written(towers):
    reference, ours = towers
    written = {name: torch.tensor(tensor) for name, tensor in export_parameters(ours, rules.CLIP).items()}
    assert set(written) == set(reference.state_dict())
    assert all(torch.equal(tensor, reference.state_dict()[name]) for name, tensor in written.items())


def test_gradients_reach_every_parameter(towers):
    _, ours = towers
    ids, ends = jnp.ones((2, 12), jnp.int32), jnp.asarray([3, 4], jnp.int32)

    def loss(model):
        logits = model.image_features(jnp.asarray(draws(2, 24, 24, 3))) @ model.text_features(ids, ends).T
        return jnp.sum(logits[0] * jnp.exp(model.logit_scale[...]))

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(ours))
    assert all(jnp.any(gradient != 0) for gradient in gradients)


def test_what_is_not_implemented_is_named():
    with pytest.raises(UserError, match="image tower: hidden_act = 'swish'"):
        CLIPConfig.from_dict({"vision_config": {"hidden_act": "swish"}})
    with pytest.raises(UserError, match="num_channels"):
        CLIPConfig.from_dict({"vision_config": {"num_channels": 4}})
