"""`ti-jax convert`, `merge` and `inspect`."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import ti_jax
from ti_jax import Concept
from ti_jax.cli.usage import diffusers_calls, diffusers_pipeline
from ti_jax.concepts import formats

random = np.random.default_rng(0)
FOX, CAT = (random.normal(size=(count, 8)).astype(np.float32) for count in (2, 1))
XL = {"text_encoder": FOX, "text_encoder_2": random.normal(size=(2, 12)).astype(np.float32)}


@pytest.fixture(autouse=True)
def files(tmp_path):
    """In the folder that the commands run in."""
    Concept("<fox>", {"text_encoder": FOX}, {"steps": "7"}).save(tmp_path / "fox.safetensors")
    Concept("<cat>", {"text_encoder": CAT}).save(tmp_path / "run" / "learned_embeds.safetensors")
    Concept("<FOX>", {"text_encoder": CAT}).save(tmp_path / "clash.safetensors")
    Concept("<xl>", XL).save(tmp_path / "xl.safetensors")


def test_convert(run, tmp_path):
    assert run("convert", "fox.safetensors", "fox.pt") == (0, "fox.pt: <fox> (text_encoder [2, 8])\n", "")
    assert run("convert", "fox.pt", "again.safetensors", "--token", "<vixen>")[0] == 0
    again = Concept.load(tmp_path / "again.safetensors")
    assert again.placeholder == "<vixen>"
    np.testing.assert_array_equal(again.vectors["text_encoder"], FOX)


def test_convert_a_run_folder_into_another(run, tmp_path):
    status, out, _ = run("convert", "run", "cat.bin", "--to", "kohya", "--output", "new", "--json")
    assert status == 0
    assert json.loads(out) == {"file": "new/cat.bin", "format": "kohya", "tokens": ["<cat>"]}
    assert Concept.load(tmp_path / "new/cat.bin").placeholder == "cat"


@pytest.mark.parametrize("target", ["new.safetensors", "new.pt"])
def test_convert_sdxl_prints_calls_that_load_it(run, target):
    status, out, _ = run("convert", "xl.safetensors", target, "--to", "sdxl")
    assert status == 0
    code = out.split("in diffusers:\n")[1]
    loaded = {}

    class Pipe:
        text_encoder, text_encoder_2, tokenizer, tokenizer_2 = "text_encoder", "text_encoder_2", "one", "two"

        def load_textual_inversion(self, tensor, token, text_encoder, tokenizer):
            loaded[text_encoder] = token, tokenizer, tensor.tolist()

    exec("\n".join(line.strip() for line in code.splitlines()), {"pipe": Pipe()})
    assert loaded == {
        "text_encoder": ("<xl>", "one", FOX.tolist()),
        "text_encoder_2": ("<xl>", "two", XL["text_encoder_2"].tolist()),
    }


def test_how_diffusers_loads_a_concept_of_one_encoder():
    concept = Concept("<fox>", {"text_encoder": FOX})
    assert diffusers_pipeline(concept) == "StableDiffusionPipeline"
    assert diffusers_calls(concept, "fox.pt") == ["pipe.load_textual_inversion('fox.pt', token='<fox>')"]
    assert diffusers_pipeline(Concept("<xl>", XL)) == "StableDiffusionXLPipeline"


def test_merge(run, tmp_path):
    assert run("merge", "fox.safetensors", "run", "both.pt") == (0, "both.pt: <fox>, <cat>\n", "")
    concepts = formats.read_all(tmp_path / "both.pt")
    assert [concept.placeholder for concept in concepts] == ["<fox>", "<cat>"]
    np.testing.assert_array_equal(concepts[1].vectors["text_encoder"], CAT)
    assert run("convert", "both.pt", "cat.safetensors", "--token", "<cat>", "--json")[1].count('"diffusers"') == 1
    np.testing.assert_array_equal(Concept.load(tmp_path / "cat.safetensors").vectors["text_encoder"], CAT)


def test_a_clash_of_names_is_refused_or_renamed(run, tmp_path):
    arguments = ["merge", "fox.safetensors", "clash.safetensors", "clash.safetensors", "both.pt"]
    status, _, err = run(*arguments)
    assert status == 1
    assert "two concepts have the word <FOX>" in err
    assert not (tmp_path / "both.pt").exists()
    status, out, _ = run(*arguments, "--on-clash", "rename", "--json")
    assert status == 0
    assert json.loads(out) == {"file": "both.pt", "tokens": ["<fox>", "<FOX-2>", "<FOX-3>"]}
    assert len(formats.read_all(tmp_path / "both.pt")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "gone.pt", "fox.pt"], "there is no embedding file gone.pt"),
        (["convert", "fox.safetensors", "fox.gguf"], "are written as .safetensors"),
        (["convert", "fox.safetensors", "fox.pt", "--to", "sdxl"], "not for SDXL"),
        (["merge", "fox.safetensors", "both.pt"], "name two embedding files or more"),
        (
            ["merge", "fox.safetensors", "run", "xl.safetensors"],
            "xl.safetensors is there already: name a new file last",
        ),
        (["merge", "fox.safetensors", "run", "both.safetensors"], "reads .pt"),
        (["merge", "fox.safetensors", "xl.safetensors", "both.pt"], "different models"),
        (["inspect", "gone.pt"], "there is no embedding file gone.pt"),
        (["inspect", "fox.safetensors", "--words", "-1"], "words = -1"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run, arguments, message, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_results_are_printed_even_if_they_cannot_be_written(run, tmp_path):
    (tmp_path / "taken").write_text("")
    status, out, err = run("inspect", "fox.safetensors", "--output", "taken")
    assert status == 1
    assert "<fox>" in out
    assert "taken" in err


def test_generate_takes_every_concept_of_a_file(run, monkeypatch):
    asked = {}

    def generate(pipeline, prompts, **options):
        asked.update(options)
        return np.zeros((1, 8, 8, 3), np.uint8)

    monkeypatch.setattr(ti_jax, "generate", generate)
    run("merge", "fox.safetensors", "run", "both.pt")
    options = ["--concept", "both.pt", "--concept", "xl.safetensors", "--long-prompts", "chunk", "--emphasis", "a1111"]
    assert run("generate", "a <fox>, a <cat>", *options)[0] == 0
    assert [concept.placeholder for concept in asked["concepts"]] == ["<fox>", "<cat>", "<xl>"]
    assert (asked["long_prompts"], asked["emphasis"]) == ("chunk", "a1111")
    assert run("generate", "a <cat>", "--concept", "both.pt", "--token", "<CAT>")[0] == 0
    assert [concept.placeholder for concept in asked["concepts"]] == ["<cat>"]


def test_several_concepts_are_not_converted_to_a_format_of_one(run):
    run("merge", "fox.safetensors", "run", "both.pt")
    status, _, err = run("convert", "both.pt", "both.safetensors")
    assert status == 1
    assert "not <fox>, <cat>: choose one by --token" in err


def test_inspect_names_the_nearest_words(run, tmp_path):
    pipeline = ti_jax.load("tiny")
    tokenizer, encoder = pipeline.tokenizers["text_encoder"], pipeline.networks["text_encoder"]
    cat, dog = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("cat", "dog"))
    vectors = 3 * np.asarray(encoder.embed(jnp.array([cat, dog])))
    Concept("<pets>", {"text_encoder": vectors}, {"steps": "7"}).save(tmp_path / "pets.safetensors")

    status, out, _ = run("inspect", "pets.safetensors", "--json", "--words", 3, "--output", "report")
    assert status == 0
    report = json.loads(out)
    assert report == json.loads((tmp_path / "report/inspect.json").read_text())
    (concept,) = report["concepts"]
    assert concept["token"] == "<pets>"
    assert concept["metadata"]["steps"] == "7"
    found = concept["encoders"]["text_encoder"]
    assert (found["vectors"], found["width"]) == vectors.shape
    np.testing.assert_allclose(found["norms"], np.linalg.norm(vectors, axis=1), rtol=1e-6)
    table = np.asarray(encoder.embed(jnp.arange(len(tokenizer))))
    np.testing.assert_allclose(found["vocabulary_norm"], np.median(np.linalg.norm(table, axis=1)), rtol=1e-6)
    for vector, nearest, word in zip(vectors, found["nearest"], ("cat", "dog"), strict=True):
        cosines = table @ vector / np.linalg.norm(table, axis=1) / np.linalg.norm(vector)
        assert nearest[0][0] == word
        np.testing.assert_allclose([cosine for _, cosine in nearest], np.sort(cosines)[:-4:-1], atol=1e-6)

    status, out, _ = run("inspect", "pets.safetensors")
    assert status == 0
    assert "<pets>" in out
    assert "near cat 1.00" in out
    assert "steps: 7" in out


def test_inspect_an_embedding_of_another_model(run):
    status, out, _ = run("inspect", "xl.safetensors")
    assert status == 0
    assert "text_encoder_2: 2 vectors of width 12" in out
    assert "of another model than tiny" in out


def test_what_a_file_says_cannot_move_the_cursor(run, tmp_path):
    Concept("<fox>", {"text_encoder": FOX}, {"note": "\x1b[2J\nfake line"}).save(tmp_path / "fox.safetensors")
    _, out, _ = run("inspect", "fox.safetensors")
    assert "\x1b" not in out
    assert "\nfake" not in out
