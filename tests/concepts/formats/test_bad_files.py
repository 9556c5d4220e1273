"""Embedding files that are damaged, hostile, or something else: each is refused in one line."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from embedding_files import LORA, a1111
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from ti_jax import Concept
from ti_jax.concepts.formats import pickled, safetensors
from ti_jax.errors import UserError

VECTORS = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
TENSOR = torch.tensor(VECTORS)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors", "png"])
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


def _header(text):
    return _bytes(len(text).to_bytes(8, "little") + text.encode() + b"\0" * 64)


def _archive(member, data, compression=zipfile.ZIP_DEFLATED):
    def write(file):
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr(member, data)

    return write


def _picture(text, *, compress=False):
    info = PngInfo()
    info.add_text("sd-ti-embedding", text, zip=compress)
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG", pnginfo=info)
    return _bytes(buffer.getvalue())


NO_LAYOUT = "no embedding layout we know"
BAD = {
    "empty.safetensors": (_bytes(b""), "cannot be read as safetensors"),
    "text.safetensors": (_bytes(b"<!DOCTYPE html><html></html>" * 10), "cannot be read as safetensors"),
    "huge-header.safetensors": (_bytes(b"\xff" * 64), "cannot be read as safetensors"),
    "cut.safetensors": (_bytes(safetensors.encode({"<fox>": VECTORS}, {})[:-5]), "not within the file"),
    "shape.safetensors": (_header('{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,64]}}'), "64 bytes for"),
    "negative.safetensors": (_header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,64]}}'), "not within"),
    "backwards.safetensors": (_header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}'), "not within"),
    "list.safetensors": (_header("[]"), "cannot be read as safetensors"),
    "number.safetensors": (_header('{"a": 3}'), "cannot be read as safetensors"),
    "deep.safetensors": (_header('{"a":' + "[" * 100_000), "cannot be read as safetensors"),
    "none.safetensors": (_arrays(), "holds nothing"),
    "parts.safetensors": (_arrays(down=VECTORS, up=VECTORS), "holds down, up"),
    "lora.safetensors": (_arrays(**{name: tensor.numpy() for name, tensor in LORA.items()}), NO_LAYOUT),
    "flux.safetensors": (_arrays(clip_l=VECTORS, t5=VECTORS), "holds t5, which no encoder of Stable Diffusion has"),
    "out.safetensors": (_arrays(emp_params_out=VECTORS), "vectors for an encoder's output"),
    "twice.safetensors": (_arrays(clip_l=VECTORS, emb_params=VECTORS), "for one encoder"),
    "counts.safetensors": (_arrays(clip_l=VECTORS, clip_g=VECTORS[:1].copy()), "differ by encoder"),
    "xti.safetensors": (_arrays(IN01=VECTORS, IN02=VECTORS, MID=VECTORS, OUT11=VECTORS), r"\(XTI\)"),
    "integers.safetensors": (_arrays(fox=np.ones((2, 8), np.int32)), "I32 in text_encoder where vectors should be"),
    "cube.safetensors": (_arrays(fox=np.ones((2, 2, 8), np.float32)), r"shape \[2, 2, 8\]"),
    "scalar.safetensors": (_arrays(fox=np.array(1, np.float32)), r"shape \[\]"),
    "no-vectors.safetensors": (_arrays(fox=np.ones((0, 8), np.float32)), r"shape \[0, 8\]"),
    "nan.safetensors": (_arrays(fox=np.full((1, 8), np.nan, np.float32)), "not finite"),
    "line.safetensors": (_arrays(**{"<fox>\nTraceback\x1b[31m": VECTORS}), r"calls its concept '<fox>\\\\nTraceback"),
    "blank.safetensors": (_arrays(**{" ": VECTORS}), "no word for a prompt"),
    "long.safetensors": (_arrays(**{"x" * 1000: VECTORS}), "no word for a prompt"),
    "empty.pt": (_bytes(b""), "cannot be read safely"),
    "text.bin": (_bytes(b"hello, world"), "cannot be read safely"),
    "list.pt": (_pickled([TENSOR]), "holds a list"),
    "number.pt": (_pickled({"<fox>": 3}), NO_LAYOUT),
    "number.bin": (_pickled(a1111({"*": 3})), NO_LAYOUT),
    "no-words.pt": (_pickled(a1111({})), NO_LAYOUT),
    "keys.pt": (_pickled({1: TENSOR, None: TENSOR}), NO_LAYOUT),
    "integers.pt": (_pickled({"fox": torch.ones(2, 8, dtype=torch.int32)}), "int32 in text_encoder"),
    "sparse.pt": (_pickled({"fox": TENSOR.to_sparse()}), "not a plain one"),
    "view.pt": (_pickled({"fox": torch.ones(1).expand(2**20, 2**20)}), "more than any embedding"),
    "bomb.pt": (_archive("archive/data.pkl", b"\0" * 2**26), "compressed"),
    "zip.pt": (_archive("hello.txt", b"hello", zipfile.ZIP_STORED), "cannot be read safely"),
    "paths.pt": (_archive("../../../../etc/hello", b"hello", zipfile.ZIP_STORED), "cannot be read safely"),
    "flax.npy": (lambda file: np.save(file, np.array({"<fox>": VECTORS})), "pickled array of NumPy"),
    "plain.png": (lambda file: Image.new("RGB", (1, 1)).save(file), "without an embedding"),
    "cut.png": (_bytes(b"\x89PNG\r\n\x1a\n"), "cannot be read as a picture"),
    "base64.png": (_picture("?"), "damaged embedding"),
    "json.png": (_picture("eyJhIjog"), "damaged embedding"),
    "ragged.png": (_picture("eyJhIjogeyJUT1JDSFRFTlNPUiI6IFsxLCBbMl1dfX0="), "damaged embedding"),
    "list.png": (_picture("W10="), NO_LAYOUT),
    "bomb.png": (_picture("A" * 2**27, compress=True), "cannot be read as a picture|longer than any"),
    "fox.txt": (_bytes(b"fox"), "is no embedding file"),
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
    assert len(str(caught.value)) < 500


def test_a_declared_size_is_not_believed(tmp_path):
    """An array in a pickled file that says it has more numbers than the archive."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, torch.UntypedStorage):
                return "storage", torch.FloatStorage, "0", "cpu", 2**40
            return None

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.zeros(1).untyped_storage(), 0, (2**40,), (1,), False, {})

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"fox": Tensor()})
    with zipfile.ZipFile(tmp_path / "fox.pt", "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/data/0", b"\0" * 4)
        archive.writestr("archive/version", "3")
    with pytest.raises(UserError, match=r"cannot be read safely|more than any embedding"):
        Concept.load(tmp_path / "fox.pt")


def test_a_model_is_not_read_as_an_embedding(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "LARGEST", 100)
    torch.save({"fox": TENSOR}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="larger than any embedding"):
        Concept.load(tmp_path / "model.pt")


def test_of_a_large_file_only_the_words_are_read(tmp_path, monkeypatch):
    """A LoRA with a word in it may have gigabytes."""
    large = {"lora.weight": np.ones(2**20, np.float32), "bundle_emb.fox.clip_l": VECTORS}
    save_file(large, tmp_path / "lora.safetensors")
    read = []
    monkeypatch.setattr(safetensors, "_load", lambda *arguments: read.append(arguments) or VECTORS)
    assert Concept.load(tmp_path / "lora.safetensors").placeholder == "fox"
    assert len(read) == 1
