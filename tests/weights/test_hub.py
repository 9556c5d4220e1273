"""Names of models: the bundled one, folders, and ids on a hub, which here is a server on this machine."""

import json
import os
import re
import subprocess
import sys
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ti_jax.errors import UserError
from ti_jax.weights.hub import BUNDLED, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
SMALL = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
}
CLIP = {
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
}
OTHER_OF_CLIP = {"README.md", "flax_model.msgpack", "tf_model.h5"}
OTHER = {
    "README.md",
    "v1-5-pruned.ckpt",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_flax_model.msgpack",
}


def test_bundled(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("tiny") == BUNDLED / "tiny"
    assert resolve("./tiny") == Path("tiny")


def test_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "owner/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/model") == Path("owner/model")
    assert resolve("~/owner/model") == tmp_path / "owner/model"
    with pytest.raises(UserError, match="owner/model is on this machine, and has no revisions"):
        resolve("owner/model", revision="v2")


@pytest.mark.parametrize("name", ["/no/such/folder", "./models/sd", "../sd", "sd-1.5", "a/b/c", "concepts"])
def test_no_such_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*: give one in diffusers format, an id on the hub"):
        resolve(name)


def test_a_file_has_no_variants(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is one file, and has no variants"):
        resolve(str(tmp_path / "model.safetensors"), variant="fp16")


def test_single_file(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert resolve(str(tmp_path / "model.safetensors")) == tmp_path / "model.safetensors"


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks a hub for: a commit, its files, and each file; it notes which are fetched."""

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories, self.fetched = repositories, []


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        api, _, rest = path.partition("api/models/")
        owner, name, *place = (rest or api).split("/")
        files = self.server.repositories.get(f"{owner}/{name}")
        if files is None:
            return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        revision = place[1] if len(place) > 1 else "main"
        if revision not in ("main", COMMIT):
            return self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        if place[:1] == ["resolve"]:
            file = "/".join(place[2:])
            if self.command == "GET":
                self.server.fetched.append(file)
            return self.answer(files[file], 200, {"ETag": f'"{sha1(files[file]).hexdigest()}"'})
        if place[:1] == ["tree"]:
            return self.answer(json.dumps([entry(file, content) for file, content in files.items()]).encode())
        siblings = [{"rfilename": file} for file in files]
        return self.answer(json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode())

    def answer(self, content, status=200, headers=None):
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, "Content-Length": len(content), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def entry(file, content):
    return {"type": "file", "path": file, "size": len(content), "oid": sha1(content).hexdigest()}


def repository(*weights, kind="StableDiffusionPipeline", **others):
    files = {name: name.encode() for name in (*SMALL, *OTHER, *weights)}
    configs = {name: (BUNDLED / "tiny" / name).read_bytes() for name in SMALL if name.endswith("config.json")}
    return {**files, **configs, "model_index.json": json.dumps({"_class_name": kind, **PARTS}).encode(), **others}


REPOSITORIES = {
    "owner/full": repository(
        *(f"text_encoder/{name}" for name in ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")),
        *(
            f"{network}/diffusion_pytorch_model{end}"
            for network in ("unet", "vae")
            for end in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
        ),
    ),
    "owner/mixed": repository(
        "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors.index.json",
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ),
    "owner/fp16": repository(
        *(f"{network}/diffusion_pytorch_model.fp16.safetensors" for network in ("unet", "vae")),
        "text_encoder/model.fp16.safetensors",
    ),
    "owner/flux": repository("unet/diffusion_pytorch_model.safetensors", kind="FluxPipeline"),
    "owner/gligen": repository(
        "unet/diffusion_pytorch_model.safetensors", **{"unet/config.json": b'{"attention_type": "gated"}'}
    ),
    "owner/clip": {name: name.encode() for name in (*CLIP, "pytorch_model.bin", *OTHER_OF_CLIP)},
    "owner/concept": {name: name.encode() for name in ("learned_embeds.bin", "token_identifier.txt", "README.md")},
    "owner/lora": {"README.md": b"", "lora.safetensors": b""},
}


@pytest.fixture
def hub():
    with Hub(REPOSITORIES) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(tmp_path):
    """`resolve` in an interpreter of its own, since huggingface_hub reads its environment once."""

    def run(source, *, endpoint, offline=False, by="resolve", **arguments):
        code = f"from ti_jax.weights.hub import {by}\nprint({by}({source!r}, **{arguments}), end='')"
        environment = {
            **os.environ,
            "HF_HOME": str(tmp_path),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    return run


def endpoint(hub):
    return f"http://127.0.0.1:{hub.server_port}"


def test_clip(hub, fetch):
    done = fetch("owner/clip", endpoint=endpoint(hub), by="resolve_clip")
    assert done.returncode == 0, done.stderr
    assert sorted(hub.fetched) == sorted(CLIP | {"pytorch_model.bin"})
    assert (Path(done.stdout) / "config.json").exists()


def test_concept(hub, fetch):
    done = fetch("owner/concept", endpoint=endpoint(hub), by="resolve_concept")
    assert done.returncode == 0, done.stderr
    assert hub.fetched == ["learned_embeds.bin"]
    assert (Path(done.stdout) / "learned_embeds.bin").exists()


def test_only_what_is_needed_is_fetched_and_then_kept(hub, fetch):
    done = fetch("owner/full", endpoint=endpoint(hub))
    assert done.returncode == 0, done.stderr
    weights = {"text_encoder/model.safetensors"} | {
        f"{network}/diffusion_pytorch_model.safetensors" for network in ("unet", "vae")
    }
    assert sorted(hub.fetched) == sorted(SMALL | weights)
    folder = Path(done.stdout)
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == SMALL | weights
    assert (folder / "vae/config.json").read_bytes() == REPOSITORIES["owner/full"]["vae/config.json"]

    hub.fetched.clear()
    assert fetch("owner/full", endpoint=endpoint(hub), offline=True).stdout == done.stdout
    unreachable = "http://127.0.0.1:9"
    assert fetch("owner/full", endpoint=unreachable).stdout == done.stdout
    assert fetch("owner/full", endpoint=endpoint(hub)).stdout == done.stdout
    assert not hub.fetched
    partly = fetch("owner/full", endpoint=endpoint(hub), offline=True, variant="fp16").stderr
    assert "UserError: there is no folder owner/full" in partly
    assert "not whole, in the cache" in partly


def test_configs_alone(hub, fetch):
    done = fetch("owner/full", endpoint=endpoint(hub), weights=False)
    assert done.returncode == 0, done.stderr
    assert set(hub.fetched) == SMALL


def test_variants_shards_and_pickled_files(hub, fetch):
    done = fetch("owner/mixed", endpoint=endpoint(hub), variant="fp16")
    assert done.returncode == 0, done.stderr
    assert set(hub.fetched) == SMALL | {file for file in REPOSITORIES["owner/mixed"] if "_model" in file} - OTHER


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("owner/none", None, "there is no folder owner/none, and the hub has no such model"),
        ("owner/full", "v9", "owner/full has no revision v9 on the hub"),
        ("owner/flux", None, "owner/flux is a FluxPipeline, which cannot be loaded"),
        ("owner/gligen", None, "attention_type"),
        ("owner/fp16", None, r'owner/fp16 has no weights of its \w+ on the hub .*variant="fp16"'),
        ("owner/lora", None, r"owner/lora is not a pipeline in diffusers format"),
    ],
)
def test_what_the_hub_does_not_have(hub, fetch, source, revision, message):
    done = fetch(source, endpoint=endpoint(hub), revision=revision)
    assert re.search(f"UserError: .*{message}", done.stderr)
    assert not [file for file in hub.fetched if file.endswith(".safetensors")]


@pytest.mark.parametrize("offline", [True, False])
def test_offline(fetch, offline):
    done = fetch("owner/full", endpoint="http://127.0.0.1:9", offline=offline)
    assert "UserError: there is no folder owner/full, and owner/full on the hub cannot be reached" in done.stderr
