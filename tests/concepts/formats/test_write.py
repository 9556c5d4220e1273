"""What we write, read by diffusers itself and by the rules of A1111 and ComfyUI, stated anew here."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.loaders import TextualInversionLoaderMixin
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from twins import write_tokenizer

from ti_jax import Concept
from ti_jax.cli.usage import diffusers_calls
from ti_jax.concepts import formats
from ti_jax.concepts.formats.write import FORMATS
from ti_jax.errors import UserError

random = np.random.default_rng(0)
ONE = {"text_encoder": random.normal(size=(3, 8)).astype(np.float32)}
TWO = {**ONE, "text_encoder_2": random.normal(size=(3, 12)).astype(np.float32)}
ONE["text_encoder"][0, :2] = 1e-40, -0.0  # subnormal and signed zero
METADATA = {"steps": "7", "base_model": "tiny"}

READ_BY_NAME = ("kohya", "comfyui", "invoke")  # without the word in a .pt
CASES = [
    (vectors, to, suffix)
    for vectors in (ONE, TWO)
    for to in FORMATS
    for suffix in (".safetensors", ".pt", ".bin")
    if (to, len(vectors)) not in (("official", 2), ("sdxl", 1)) and (to, suffix) != ("official", ".safetensors")
]


def bits(concept):
    return {name: (values.shape, values.tobytes()) for name, values in concept.vectors.items()}


@pytest.mark.parametrize(("vectors", "to", "suffix"), CASES)
def test_a_round_trip_is_exact(vectors, to, suffix, tmp_path):
    concept = Concept("<Fox>", vectors, METADATA)
    file = tmp_path / f"<Fox>{suffix}"
    concept.save(file, to=to)
    again = Concept.load(file)
    assert again.placeholder == "<Fox>"
    assert bits(again) == bits(concept)
    if suffix == ".safetensors":
        assert METADATA.items() <= again.metadata.items()
    again.save(tmp_path / "again.safetensors")
    assert bits(Concept.load(tmp_path / "again.safetensors")) == bits(concept)


def test_several_concepts_in_the_official_format(tmp_path, caplog):
    one = {"text_encoder": ONE["text_encoder"][:1]}
    concepts = [Concept("*", ONE), Concept("<fox>", one), Concept("cat", one)]
    formats.write(concepts, tmp_path / "both.pt", to="official")
    assert "not <fox>" in caplog.text
    again = formats.read_all(tmp_path / "both.pt")
    assert [concept.placeholder for concept in again] == ["*", "<fox>", "cat"]
    assert list(map(bits, again)) == list(map(bits, concepts))
    # As the official code opens it; ids are those of CLIP's vocabulary.
    content = torch.load(tmp_path / "both.pt", weights_only=False)
    assert isinstance(content["string_to_param"], torch.nn.ParameterDict)
    assert content["string_to_token"] == {"*": 265, "<fox>": -1, "cat": 2368}
    wide = Concept("*", {"text_encoder": np.ones((1, 1280), np.float32)})
    formats.write(wide, tmp_path / "bert.pt", to="official")
    assert torch.load(tmp_path / "bert.pt", weights_only=False)["string_to_token"] == {"*": 1008}


@pytest.mark.parametrize(
    ("vectors", "name", "to", "message"),
    [
        (ONE, "fox.npy", None, "are written as .safetensors"),
        (ONE, "fox.safetensors", "comfy", "there is no format 'comfy'"),
        (ONE, "fox.safetensors", "sdxl", "it is not for SDXL"),
        (ONE, "fox.safetensors", "official", "reads .pt"),
        (TWO, "fox.pt", "official", "is for SDXL"),
    ],
)
def test_what_a_program_does_not_read_is_not_written(vectors, name, to, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Concept("<fox>", vectors).save(tmp_path / name, to=to)
    with pytest.raises(UserError, match="one concept a file"):
        formats.write([Concept("<fox>", ONE)] * 2, tmp_path / "fox.pt")
    with pytest.raises(UserError, match="with a dot"):
        formats.write(Concept("fox.v1", ONE), tmp_path / "fox.pt", to="official")
    for word in ("keys", "items", "type"):
        with pytest.raises(UserError, match=f"^{word} cannot be written to official.*: rename it by ti-jax convert"):
            formats.write(Concept(word, ONE), tmp_path / "fox.pt", to="official")
    assert not list(tmp_path.iterdir())


class Pipe(TextualInversionLoaderMixin):
    """The part of a diffusers pipeline that loads embeddings."""

    hf_device_map = None

    def __init__(self, folder, width):
        write_tokenizer(folder, padding="!")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        size = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        self.text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(self.tokenizer), **size))
        self.components = {}

    def vectors(self, word, count):
        words = [word, *(f"{word}_{i}" for i in range(1, count))]
        assert f"{word}_{count}" not in self.tokenizer.get_vocab()
        table = self.text_encoder.get_input_embeddings().weight.detach().numpy()
        return table[[self.tokenizer.get_vocab()[word] for word in words]]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("to", ["diffusers", "a1111"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_diffusers_loads_it(to, suffix, count, tmp_path):
    vectors = ONE["text_encoder"][:count]
    Concept("<fox>", {"text_encoder": vectors}).save(tmp_path / f"fox{suffix}", to=to)
    pipe = Pipe(tmp_path / "tokenizer", 8)
    # Files named by their file alone need the word there.
    token = "<fox>" if (to, suffix) == ("a1111", ".safetensors") else None
    pipe.load_textual_inversion(str(tmp_path / f"fox{suffix}"), token=token)
    np.testing.assert_array_equal(pipe.vectors("<fox>", count), vectors)


@pytest.mark.parametrize(("count", "spelled"), [(1, "<FOX>"), (3, "<fox>")])
def test_diffusers_finds_a_word_with_capitals(count, spelled, tmp_path):
    """As the command says: of several vectors in lower case alone."""
    vectors, file = ONE["text_encoder"][:count], str(tmp_path / "fox.safetensors")
    concept = Concept("<Fox>", {"text_encoder": vectors})
    concept.save(file)
    pipe = Pipe(tmp_path / "tokenizer", 8)
    before = len(pipe.tokenizer)
    call, *hint = diffusers_calls(concept, file)
    assert hint == (["# and write <fox> in prompts, in lower case"] if count > 1 else [])
    exec(call, {"pipe": pipe})
    prompt = pipe.maybe_convert_prompt(f"a photo of {spelled}", pipe.tokenizer)
    assert pipe.tokenizer(prompt).input_ids[-1 - count : -1] == list(range(before, before + count))


def test_diffusers_loads_sdxl_by_two_calls(tmp_path):
    Concept("<fox>", TWO).save(tmp_path / "fox.safetensors")
    state = load_file(tmp_path / "fox.safetensors")
    for key, encoder, width in (("clip_l", "text_encoder", 8), ("clip_g", "text_encoder_2", 12)):
        pipe = Pipe(tmp_path / key, width)
        pipe.load_textual_inversion(state[key], token="<fox>")
        np.testing.assert_array_equal(pipe.vectors("<fox>", 3), TWO[encoder])


def load(file):
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)


def read_as_a1111(file):
    """`create_embedding_from_data` of A1111's modules/textual_inversion/textual_inversion.py: name and vectors."""
    data = load(file)
    if "string_to_param" in data:
        (vectors,) = data["string_to_param"].values()
    elif "clip_g" in data and "clip_l" in data:
        assert data["clip_g"].shape[0] == data["clip_l"].shape[0]
        return file.stem, data
    else:
        (vectors,) = data.values()
        assert isinstance(vectors, torch.Tensor)
        vectors = vectors[None] if vectors.ndim == 1 else vectors
    return file.stem, {"clip_l": vectors}


def read_as_comfyui(file, key):
    """`load_embed` of ComfyUI's comfy/sd1_clip.py, for one encoder."""
    data = load(file)
    if "string_to_param" in data:
        return next(iter(data["string_to_param"].values()))
    return data[key] if key in data else next(iter(data.values()))


def read_as_kohya(file):
    """`load_weights` of kohya-ss/sd-scripts, train_textual_inversion.py."""
    data = load(file)
    data = data.get("string_to_param", data)
    vectors = next(iter(data.values()))
    return vectors[None] if vectors.ndim == 1 else vectors


def read_as_invoke(file):
    """`TextualInversionModelRaw.from_checkpoint` of InvokeAI's backend/textual_inversion.py."""
    data = load(file)
    if "string_to_param" in data:
        return SimpleNamespace(embedding=next(iter(data["string_to_param"].values())))
    if "emb_params" in data:
        return SimpleNamespace(embedding=data["emb_params"])
    if "clip_g" in data and "clip_l" in data:
        return SimpleNamespace(embedding=data["clip_g"], embedding_2=data["clip_l"])
    return SimpleNamespace(embedding=next(iter(data.values())))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("vectors", [ONE, TWO], ids=["sd", "sdxl"])
def test_a1111_comfyui_kohya_and_invoke_load_it(vectors, suffix, tmp_path):
    first = vectors["text_encoder"]
    second = vectors.get("text_encoder_2")
    file = tmp_path / f"fox{suffix}"
    for to in ("a1111", "comfyui", "kohya", "invoke", *(["sdxl"] if second is not None else [])):
        Concept("<fox>", vectors).save(file, to=to)
        name, read = read_as_a1111(file)
        assert name == "fox"
        np.testing.assert_array_equal(read["clip_l"], first)
        np.testing.assert_array_equal(read_as_comfyui(file, "clip_l"), first)
        np.testing.assert_array_equal(read_as_kohya(file), first)
        if second is None:
            np.testing.assert_array_equal(read_as_invoke(file).embedding, first)
        else:
            np.testing.assert_array_equal(read["clip_g"], second)
            np.testing.assert_array_equal(read_as_comfyui(file, "clip_g"), second)
            np.testing.assert_array_equal(read_as_invoke(file).embedding, second)
            np.testing.assert_array_equal(read_as_invoke(file).embedding_2, first)


def test_a1111_gets_what_it_saves_itself(tmp_path):
    concept = Concept("fox", ONE, {"step": "9", "sd_checkpoint_name": "anything"})
    concept.save(tmp_path / "fox.pt")
    content = torch.load(tmp_path / "fox.pt", weights_only=True)
    vectors = content.pop("string_to_param")
    assert content == {
        "string_to_token": {"*": 265},
        "name": "fox",
        "step": 9,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "anything",
    }
    assert list(vectors) == ["*"]
    again = Concept.load(tmp_path / "fox.pt")
    assert again.metadata == {"name": "fox", **concept.metadata}
