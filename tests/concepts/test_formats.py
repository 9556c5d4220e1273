"""Embedding files written by hand as each tool writes them, files that are no good, and diffusers reading ours."""

import pickle
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from ti_jax import Concept
from ti_jax.concepts import formats
from ti_jax.errors import UserError
from ti_jax.weights.hub import resolve

VECTORS = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
TENSOR = torch.tensor(VECTORS)


def _a1111(parameters, **others):
    return {"string_to_token": {"*": 265}, "string_to_param": parameters, **others}


def _official():
    """As the paper's code saves `embeddings.pt`: `torch.save({"string_to_token": ..., "string_to_param": ...})`."""
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(TENSOR)})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}


LAYOUTS = {
    "diffusers.safetensors": ({"<fox>": TENSOR}, "<fox>"),
    "diffusers-half.safetensors": ({"<fox>": TENSOR.half()}, "<fox>"),
    "diffusers-bfloat16.safetensors": ({"<fox>": TENSOR.bfloat16()}, "<fox>"),
    "diffusers-1d.safetensors": ({"<fox>": TENSOR[0].clone()}, "<fox>"),
    "kohya.safetensors": ({"emb_params": TENSOR}, "kohya"),
    "kohya.pt": ({"emb_params": TENSOR}, "kohya"),
    "diffusers.bin": ({"<fox>": TENSOR}, "<fox>"),
    "diffusers-1d.bin": ({"<fox>": TENSOR[0].clone()}, "<fox>"),
    "diffusers-half.bin": ({"<fox>": TENSOR.half()}, "<fox>"),
    "a1111.pt": (_a1111({"*": torch.nn.Parameter(TENSOR)}, name="fox", step=100, sd_checkpoint="x"), "fox"),
    "a1111-no-name.pt": (_a1111({"*": TENSOR}, name=None), "a1111-no-name"),
    "a1111-word.pt": (_a1111({"<fox>": TENSOR}, name="fox"), "<fox>"),
    "official.pt": (_official(), "official"),
    "bare.pt": (TENSOR, "bare"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(name, tmp_path):
    content, word = LAYOUTS[name]
    file = tmp_path / name
    save_torch(content, file) if name.endswith("safetensors") else torch.save(content, file)
    concept = Concept.load(file)
    assert concept.placeholder == word
    vectors = concept.vectors["text_encoder"]
    assert vectors.dtype == np.float32
    stored = TENSOR.half() if "half" in name else TENSOR.bfloat16() if "bfloat16" in name else TENSOR
    expected = stored.float().numpy()
    np.testing.assert_array_equal(vectors, expected[:1] if "1d" in name else expected)
    assert Concept.load(file, token="<vixen>").placeholder == "<vixen>"


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("suffix", ["pt", "bin"])
@pytest.mark.parametrize("writer", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, 2))])
def test_code_in_a_file_does_not_run(tmp_path, suffix, writer):
    file = tmp_path / f"evil.{suffix}"
    writer({"<fox>": TENSOR, "extra": Evil(tmp_path / "owned")}, file)
    with pytest.raises(UserError, match="cannot be read safely"):
        Concept.load(file)
    assert not (tmp_path / "owned").exists()


def _bytes(data):
    return lambda file: file.write_bytes(data)


def _pickled(content):
    return lambda file: torch.save(content, file)


def _arrays(**tensors):
    return lambda file: save_file(tensors, file)


BAD = {
    "empty.safetensors": (_bytes(b""), "cannot be read as safetensors"),
    "text.safetensors": (_bytes(b"<!DOCTYPE html><html></html>" * 10), "cannot be read as safetensors"),
    "huge-header.safetensors": (_bytes(b"\xff" * 64), "cannot be read as safetensors"),
    "cut.safetensors": (_bytes(formats._safetensors("<fox>", VECTORS, {})[:-5]), "cannot be read as safetensors"),
    "none.safetensors": (_arrays(), "holds nothing"),
    "lora.safetensors": (_arrays(down=VECTORS, up=VECTORS), "holds down, up"),
    "sdxl.safetensors": (_arrays(clip_l=VECTORS, clip_g=VECTORS), "no embedding layout we know"),
    "integers.safetensors": (_arrays(fox=np.ones((2, 8), np.int32)), "I32 in fox where vectors should be"),
    "cube.safetensors": (_arrays(fox=np.ones((2, 2, 8), np.float32)), r"shape \[2, 2, 8\]"),
    "no-vectors.safetensors": (_arrays(fox=np.ones((0, 8), np.float32)), r"shape \[0, 8\]"),
    "nan.safetensors": (_arrays(fox=np.full((1, 8), np.nan, np.float32)), "not finite"),
    "empty.pt": (_bytes(b""), "cannot be read safely"),
    "text.bin": (_bytes(b"hello, world"), "cannot be read safely"),
    "list.pt": (_pickled([TENSOR]), "holds a list"),
    "number.pt": (_pickled({"<fox>": 3}), "no embedding layout we know"),
    "number.bin": (_pickled(_a1111({"*": 3})), "no embedding layout we know"),
    "two.pt": (_pickled(_a1111({"<fox>": TENSOR, "<cat>": TENSOR})), "several concepts"),
    "fox.png": (_bytes(b"\x89PNG"), r"is not \.safetensors, \.pt or \.bin"),
    "folder.safetensors": (lambda file: file.mkdir(), "is a folder"),
    "missing.safetensors": (lambda file: None, "there is no embedding file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_in_one_line(name, tmp_path):
    write, message = BAD[name]
    file = tmp_path / name
    write(file)
    with pytest.raises(UserError, match=message) as caught:
        Concept.load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_not_read_as_an_embedding(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_LARGEST", 100)
    _arrays(fox=VECTORS)(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="larger than any embedding"):
        Concept.load(tmp_path / "model.safetensors")


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    torch.save({"<fox>": TENSOR}, tmp_path / "fox.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r'pip install "ti-jax\[torch\]"'):
        Concept.load(tmp_path / "fox.bin")


def test_several_encoders_are_not_written(tmp_path):
    concept = Concept("<fox>", {"text_encoder": VECTORS, "text_encoder_2": VECTORS})
    with pytest.raises(UserError, match="several text encoders"):
        concept.save(tmp_path / "fox.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_loads_what_we_write(count, tmp_path):
    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = resolve("tiny")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    width = encoder.config.hidden_size
    vectors = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)
    Concept("<fox>", {"text_encoder": vectors}, {"base_model": "tiny"}).save(tmp_path / "learned_embeds.safetensors")

    class Pipeline(TextualInversionLoaderMixin):
        hf_device_map = None
        components: ClassVar = {}

    pipe = Pipeline()
    pipe.load_textual_inversion(str(tmp_path / "learned_embeds.safetensors"), tokenizer=tokenizer, text_encoder=encoder)
    words = ["<fox>", "<fox>_1", "<fox>_2"][:count]
    assert all(word in tokenizer.get_vocab() for word in words)
    assert f"<fox>_{count}" not in tokenizer.get_vocab()
    table = encoder.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(table[tokenizer.convert_tokens_to_ids(words)], vectors)
    assert pipe.maybe_convert_prompt("a <fox>.", tokenizer) == f"a {' '.join(words)}."
