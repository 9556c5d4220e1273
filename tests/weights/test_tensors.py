"""Weight files: safetensors, several of them, pickled ones; and damaged ones."""

import json
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from ti_jax.errors import UserError
from ti_jax.weights.tensors import open_weights

VALUES = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float16)}


def read(path):
    return {name: tensor.read() for name, tensor in open_weights(path).items()}


def check(path, expected=VALUES):
    found = read(path)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert open_weights(path)[name].shape == values.shape


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(VALUES, path)
    return path


def test_safetensors(file):
    check(file)


def test_bfloat16(tmp_path):
    values = torch.randn(3, 4).bfloat16()
    save_torch({"w": values}, tmp_path / "model.safetensors")
    (found,) = read(tmp_path / "model.safetensors").values()
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), values.float().numpy())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8(dtype, tmp_path):
    values = torch.randn(3, 4).to(dtype)
    save_torch({"w": values}, tmp_path / "model.safetensors")
    torch.save({"w": values}, tmp_path / "model.bin")
    for file in tmp_path.iterdir():
        np.testing.assert_array_equal(read(file)["w"].astype(np.float32), values.float().numpy())


@pytest.mark.parametrize("size", [0, 4, 60, -1])
def test_truncated_safetensors(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read as safetensors .* again"):
        open_weights(file)


def shards(folder, places):
    for name in VALUES:
        save_file({name: VALUES[name]}, folder / f"{name}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards(tmp_path):
    check(shards(tmp_path, {name: f"{name}.safetensors" for name in VALUES}))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a.bias": "gone.safetensors"}, r"gone\.safetensors is missing, which model\.safetensors\.index\.json names"),
        ({"a.bias": "a.weight.safetensors"}, r"a\.bias is in a\.weight\.safetensors, which does not have it"),
        ({"a.bias": "../a.bias.safetensors"}, r"points at .*, which is no file of weights in its folder"),
        ({"a.bias": 7}, r"points at 7, which is no file"),
        ({"a.bias": "model.safetensors.index.json"}, r"points at .*index\.json, which is no file"),
        (None, "is not an index of weight files"),
    ],
)
def test_bad_index(tmp_path, places, message):
    with pytest.raises(UserError, match=message):
        open_weights(shards(tmp_path, places))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled(tmp_path, zipped):
    state = {name: torch.tensor(values) for name, values in VALUES.items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save({**state, "b": torch.ones(2).bfloat16() / 3}, path, _use_new_zipfile_serialization=zipped)
    check(path, {**VALUES, "b": (torch.ones(2).bfloat16() / 3).float().numpy()})


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"], ids=["NumPy 1", "NumPy 2"])
def test_numbers_of_numpy(module, tmp_path):
    """As a training state has them; NumPy 1 has another name for what makes them."""
    rates = {"_last_lr": [np.float64(1e-4)], "step": np.int64(3), "loss": np.float32(0.1)}
    tensors = {name: torch.tensor(values) for name, values in VALUES.items()}
    torch.save({"lr_schedulers": [rates], "state_dict": tensors}, tmp_path / "saved.ckpt")
    with zipfile.ZipFile(tmp_path / "saved.ckpt") as saved, zipfile.ZipFile(tmp_path / "model.ckpt", "w") as file:
        for name in saved.namelist():
            file.writestr(name, saved.read(name).replace(b"numpy._core.multiarray", module))
    check(tmp_path / "model.ckpt")


class Evil:
    def __reduce__(self):
        return (print, ("code from the file has run",))


def test_pickled_code_does_not_run(tmp_path, capsys):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps({"w": Evil()}, protocol=2))
    with pytest.raises(UserError, match="cannot be read safely"):
        open_weights(path)
    torch.save({"w": Evil()}, path)
    with pytest.raises(UserError, match="cannot be read safely by torch"):
        open_weights(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("data", "compression", "message"),
    [
        (bytes(2**26), zipfile.ZIP_DEFLATED, "it is compressed"),
        (b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.", zipfile.ZIP_STORED, "more than its arrays need"),
        (b"\x80\x02" + b"]" * 2_000_000 + b".", zipfile.ZIP_STORED, "more than its arrays need"),
        (b"\x80\x02", zipfile.ZIP_STORED, "it is damaged"),
    ],
    ids=["compressed", "tuples in tuples", "lists in lists", "cut off"],
)
def test_bombs(data, compression, message, tmp_path):
    """Tuples in tuples crash the interpreter where torch unpickles them."""
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(UserError, match=f"{message}.*: give the model as safetensors"):
        open_weights(tmp_path / "model.ckpt")


@pytest.mark.parametrize("tensor", [torch.empty(2, device="meta"), torch.ones(2, 2).to_sparse()], ids=str)
def test_tensors_that_are_not_plain(tensor, tmp_path):
    torch.save({"w": tensor}, tmp_path / "model.bin")
    with pytest.raises(UserError, match="not a plain one"):
        read(tmp_path / "model.bin")


def test_pickled_without_torch(tmp_path, monkeypatch):
    path = tmp_path / "pytorch_model.bin"
    torch.save({}, path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r'pip install "ti-jax\[torch\]"'):
        open_weights(path)
