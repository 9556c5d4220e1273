"""CLIP from a folder, end to end against transformers."""

import json
import shutil

import numpy as np
import pytest
import transformers

from ti_jax.errors import UserError
from ti_jax.evaluation.clip import load_clip
from ti_jax.models.clip_vision import CLIPConfig

TEXTS = ["a photo of a cat", "on the moon", "", "a very long text " * 8]


@pytest.fixture
def copy(clip_folder, tmp_path):
    """A folder that may be changed."""
    return shutil.copytree(clip_folder, tmp_path / "copy")


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_vectors(clip, theirs):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((24, 24), (40, 31), (26, 90))] * 12
    np.testing.assert_allclose(clip.image_vectors(pictures), theirs(pictures=pictures), rtol=0, atol=1e-5)
    np.testing.assert_allclose(clip.text_vectors(TEXTS), theirs(texts=TEXTS), rtol=0, atol=1e-5)


def test_old_configs_pool_at_the_largest_id(copy, theirs):
    text = {**json.loads((copy / "config.json").read_text())["text_config"], "eos_token_id": 2}
    change(copy / "config.json", text_config=text)
    np.testing.assert_allclose(load_clip(copy).text_vectors(TEXTS), theirs(texts=TEXTS), rtol=0, atol=1e-5)


def test_weights_of_old_repositories(copy, clip):
    import torch

    torch.save(transformers.CLIPModel.from_pretrained(copy).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    np.testing.assert_array_equal(load_clip(copy).text_vectors(TEXTS), clip.text_vectors(TEXTS))


def test_a_processor_saved_by_transformers(copy, clip):
    """As version 5 writes it: what was `preprocessor_config.json` is part of another file, which comes first."""
    images = transformers.CLIPImageProcessorPil.from_pretrained(copy)
    (copy / "preprocessor_config.json").unlink()
    transformers.CLIPProcessor(images, transformers.CLIPTokenizer.from_pretrained(copy)).save_pretrained(copy)
    assert not (copy / "preprocessor_config.json").exists()
    assert load_clip(copy).preprocessing == clip.preprocessing
    (copy / "preprocessor_config.json").write_text(json.dumps({"crop_size": 16, "size": 16}))
    assert load_clip(copy).preprocessing == clip.preprocessing


def test_a_processor_saved_by_transformers_4(copy, clip):
    """Whose file of that name says nothing of pictures."""
    (copy / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert load_clip(copy).preprocessing == clip.preprocessing
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json is missing"):
        load_clip(copy)


def test_configs_of_old_repositories():
    shared = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "is_decoder": False}
    generation = {
        "num_beams": 1,
        "top_k": 50,
        "torchscript": False,
        "use_bfloat16": False,
        "add_cross_attention": False,
    }
    values = {
        "model_type": "clip",
        "logit_scale_init_value": 2.6592,
        "projection_dim": 512,
        "text_config": {**generation, "bos_token_id": 0, "eos_token_id": 2, "model_type": "clip_text_model"},
        "text_config_dict": None,
        "vision_config": {**generation, **shared, "model_type": "clip_vision_model", "patch_size": 32},
        "vision_config_dict": None,
    }
    config = CLIPConfig.from_dict(values)
    assert config.vision.patches == 49
    assert config.text.eos_token_id == 2


def test_what_is_no_clip(copy):
    change(copy / "config.json", model_type="siglip")
    with pytest.raises(UserError, match=r"is no CLIP: its config\.json says model_type = 'siglip'"):
        load_clip(copy)
    with pytest.raises(UserError, match="there is no folder /no/such"):
        load_clip("/no/such")
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_clip(copy)


def test_pictures_of_another_size_than_the_tower_takes(copy):
    change(copy / "preprocessor_config.json", crop_size=16)
    with pytest.raises(UserError, match="prepared at 16 pixels, and its image tower takes 24"):
        load_clip(copy)
