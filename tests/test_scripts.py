"""The scripts that users run."""

import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
QUICK = ["--inversion-steps", "10", "--batch-size", "1", "--sampling-steps", "2"]


@pytest.fixture(scope="module")
def check_real_model():
    spec = importlib.util.spec_from_file_location("check_real_model", SCRIPTS / "check_real_model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def outcomes(text):
    """Step by name: pass, FAIL or skip."""
    lines = [line.split() for line in text.splitlines()]
    return {words[1]: words[0] for words in lines if words[0] in ("pass", "FAIL", "skip")}


def test_the_bundled_model_passes(check_real_model, tmp_path, capsys):
    assert check_real_model.main(["tiny", *QUICK, "--output", str(tmp_path)]) == 0
    found = outcomes(capsys.readouterr().out)
    assert list(found) == ["load", "tokenizer", "autoencoder", "generate", "inversion", "embedding"]
    assert set(found.values()) == {"pass"}
    for name, width in {"autoencoder": 128, "generated": 64, "embedding": 128}.items():
        assert Image.open(tmp_path / f"{name}.png").size == (width, 64)
    assert (tmp_path / "check-word.safetensors").exists()


def test_no_model_fails(check_real_model, tmp_path, capsys):
    assert check_real_model.main([str(tmp_path / "nothing"), "--output", str(tmp_path)]) == 1
    assert outcomes(capsys.readouterr().out) == {"load": "FAIL"}


def test_wrong_networks_fail(check_real_model, tmp_path, capsys, monkeypatch):
    """Zeros instead of weights: every step that uses a spoilt network says so, and the others still run."""
    load = check_real_model.ti_jax.load

    def spoilt(*arguments, **options):
        pipeline = load(*arguments, **options)
        vae = pipeline.networks["vae"]
        vae.decoder.conv_out.kernel[...] = vae.decoder.conv_out.kernel[...] * 0
        return pipeline

    def broken(*arguments, **options):
        raise FloatingPointError("it broke")

    monkeypatch.setattr(check_real_model.ti_jax, "load", spoilt)
    monkeypatch.setattr(check_real_model.ti_jax, "invert", broken)
    assert check_real_model.main(["tiny", *QUICK, "--output", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert outcomes(text) == {
        "load": "pass",
        "tokenizer": "pass",
        "autoencoder": "FAIL",
        "generate": "FAIL",
        "inversion": "FAIL",
        "embedding": "skip",
    }
    for reason in ("PSNR", "one colour", "FloatingPointError: it broke"):
        assert reason in text
