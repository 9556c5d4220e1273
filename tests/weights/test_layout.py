"""Which file is taken where a folder holds several."""

import logging

import pytest

from ti_jax.errors import UserError
from ti_jax.weights.layout import file_kinds, file_names, file_patterns, find_weights, has_weights

UNET, TEXT = "diffusion_pytorch_model", "model"


@pytest.fixture
def folder(tmp_path):
    def make(network, *names):
        (tmp_path / network).mkdir()
        for name in names:
            (tmp_path / network / name).touch()
        return tmp_path / network

    return make


@pytest.mark.parametrize(
    ("network", "names", "variant", "taken"),
    [
        ("unet", [f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{UNET}.bin"], None, f"{UNET}.safetensors"),
        ("unet", [f"{UNET}.safetensors", f"{UNET}.fp16.safetensors"], "fp16", f"{UNET}.fp16.safetensors"),
        ("unet", [f"{UNET}.safetensors.index.json"], None, f"{UNET}.safetensors.index.json"),
        ("unet", [f"{UNET}.safetensors.index.fp16.json"], "fp16", f"{UNET}.safetensors.index.fp16.json"),
        ("unet", [f"{UNET}.fp16.safetensors.index.json"], "fp16", f"{UNET}.fp16.safetensors.index.json"),
        ("unet", [f"{UNET}.safetensors.fp16.index.json"], "fp16", f"{UNET}.safetensors.fp16.index.json"),
        ("vae", [f"{UNET}.bin", f"{UNET}.non_ema.safetensors"], None, f"{UNET}.bin"),
        ("text_encoder", ["pytorch_model.bin", f"{TEXT}.safetensors"], None, f"{TEXT}.safetensors"),
        ("text_encoder", ["pytorch_model.bin", "pytorch_model.fp16.bin"], "fp16", "pytorch_model.fp16.bin"),
    ],
)
def test_choice(folder, network, names, variant, taken):
    path = folder(network, *names)
    assert has_weights(path, variant=variant)
    assert find_weights(path, variant=variant).name == taken


def test_a_variant_of_some_networks_only(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert find_weights(folder("vae", f"{UNET}.safetensors"), variant="fp16").name == f"{UNET}.safetensors"
    assert "no fp16 weights: taking diffusion_pytorch_model.safetensors" in caplog.text


def test_a_variant_that_there_is_not(folder):
    unet = folder("unet", f"{UNET}.safetensors")
    assert not has_weights(unet, variant="fp61")
    with pytest.raises(UserError, match=rf"no {UNET}\.fp61\.safetensors; it holds {UNET}\.safetensors$"):
        find_weights(unet, variant="fp61")


def test_only_a_variant(folder):
    with pytest.raises(UserError, match=r'\(to take those, say variant="fp16"\)'):
        find_weights(folder("unet", f"{UNET}.fp16.safetensors"), variant=None)


def test_nothing(folder, tmp_path):
    with pytest.raises(UserError, match=r"has no model\.safetensors; it holds nothing"):
        find_weights(folder("text_encoder"), variant=None)
    with pytest.raises(UserError, match=r"has no diffusion_pytorch_model\.safetensors; it holds nothing"):
        find_weights(tmp_path / "vae", variant=None)


def test_patterns_hold_names_and_shards():
    (kind, *_) = file_kinds("unet", "fp16")
    patterns = file_patterns("unet", *kind)
    shards = (f"{UNET}.fp16-*.safetensors", f"{UNET}-*.fp16.safetensors")
    assert patterns == [f"unet/{name}" for name in (*file_names("unet", *kind), *shards)]
