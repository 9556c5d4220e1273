"""Files of every kind, changed at random: each is read to vectors or refused in one line, and no code in it runs."""

import base64
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from embedding_files import LAYOUTS, a1111, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ti_jax.concepts import formats
from ti_jax.errors import UserError

MOST_MEMORY = 400 * 2**10  # KiB that reading may add at its peak; the limits on files and arrays allow less

quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
long = settings(quick, max_examples=3000)


def picture(content):
    """A PNG of A1111 with a JSON value in its text."""
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(content).encode()).decode())
    buffer = BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def seeds():
    """One file of every layout, and of every container's older forms."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (content, _, _) in LAYOUTS.items():
            file = Path(folder) / name
            save(content, file)
            files[name] = file.read_bytes()
        old = a1111({"*": torch.nn.Parameter(torch.ones(2, 8))}, name="fox")
        torch.save(old, Path(folder) / "old.pt", _use_new_zipfile_serialization=False)
        files["old.pt"] = (Path(folder) / "old.pt").read_bytes()
    files["picture.png"] = picture({"string_to_param": {"*": {"TORCHTENSOR": [[1.0, 2.0]]}}, "name": "fox"})
    return files


SEEDS = seeds()


class Evil:
    """Unpickling it makes a file in the folder of the test."""

    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    """No file appears, and memory stays bounded, whatever was read."""
    monkeypatch.chdir(tmp_path)
    if os.access(PEAK, os.W_OK):
        PEAK.write_text("5")  # from here on: what the process held earlier may have been more
    before = memory("VmRSS")
    yield
    assert not list(tmp_path.rglob("owned"))
    assert memory("VmHWM") - before < MOST_MEMORY or not os.access(PEAK, os.W_OK)


PEAK = Path("/proc/self/clear_refs")


def memory(field):
    """What Linux says of this process in KiB: VmRSS is held now, VmHWM was at most."""
    if not PEAK.exists():
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def check(name, data):
    """Reads a file and holds what comes of it to what the rest of the library relies on."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(data)
        try:
            concepts = formats.read_all(file)
        except UserError as error:
            message = str(error)
            assert message.isprintable()
            assert len(message) < 500 + len(folder)
            return None
    for concept in concepts:
        assert concept.placeholder.isprintable()
        assert 0 < len(concept.placeholder) <= 200
        for values in concept.vectors.values():
            assert isinstance(values, np.ndarray)
            assert values.dtype == np.float32
            assert values.ndim == 2
            assert 0 < values.size <= 2**24
            assert np.isfinite(values).all()
    return concepts


def test_the_files_are_good_before_they_are_changed():
    assert all(check(name, data) for name, data in SEEDS.items())


@st.composite
def damaged(draw):
    """A file with bytes changed, cut out, doubled, put in, or taken from another file."""
    name = draw(st.sampled_from(list(SEEDS)))
    data = SEEDS[name]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 64)))
        other = SEEDS[draw(st.sampled_from(list(SEEDS)))]
        middle = draw(
            st.one_of(
                st.binary(max_size=16),
                st.just(b""),
                st.just(data[start:end] * 3),
                st.just(other[start:end]),
                st.sampled_from([b"\xff" * 8, b"\0" * 8, (2**62).to_bytes(8, "little"), b"[" * 50, b"\x85" * 50]),
            )
        )
        data = data[:start] + middle + data[end:]
    cut = draw(st.integers(0, len(data)))
    return name, data[:cut] if draw(st.booleans()) else data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(2**70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 8, -1, 2**31, 2**62, 2**70, 1.5, True]), max_size=4)


@st.composite
def safetensors_files(draw):
    """A header with strange shapes, types, offsets and names, and too few bytes after it."""
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "F8_E4M3", "BOOL"]) | JSON,
            "shape": SHAPES | JSON,
            "data_offsets": st.lists(st.sampled_from([0, 4, 8, 32, 64, 2**40, -8]), min_size=2, max_size=2) | JSON,
        }
    )
    names = st.sampled_from(["<fox>", "clip_l", "clip_g", "emb_params", "bundle_emb.a.clip_l", "__metadata__", "a\n"])
    header = draw(st.dictionaries(names | st.text(max_size=4), entry | JSON, max_size=4) | JSON)
    text = json.dumps(header).encode()
    length = draw(st.sampled_from([len(text)] * 4 + [0, 2**40, 2**64 - 1]))
    return "hostile.safetensors", length.to_bytes(8, "little") + text + draw(st.binary(max_size=64))


@st.composite
def pickled_files(draw):
    """Legal pickles of strange things, some with code, in archives or bare."""
    arrays = st.sampled_from(
        [
            torch.ones(2, 8),
            torch.ones(1).expand(2**20, 2**20),
            torch.ones(0, 8),
            torch.full((1, 8), torch.nan),
            torch.ones(2, 8, dtype=torch.int64),
            torch.ones(2, 8, dtype=torch.complex64),
            torch.ones(2, 8).to_sparse(),
            torch.empty(2, 8, device="meta"),
            torch.nn.Parameter(torch.ones(2, 8)),
        ]
    )
    things = arrays | JSON | st.builds(Evil) | st.just(b"bytes")
    keys = st.sampled_from(["<fox>", "string_to_param", "*", "name", "clip_l", "clip_g"]) | st.integers(0, 3)
    content = draw(
        st.recursive(
            things,
            lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=2),
            max_leaves=6,
        )
    )
    buffer = BytesIO()
    form = draw(st.sampled_from(["zip", "old", "bare"]))
    try:
        if form == "bare":
            pickle.dump(content, buffer)
        else:
            torch.save(content, buffer, _use_new_zipfile_serialization=form == "zip")
    except (NotImplementedError, RuntimeError, pickle.PicklingError, OverflowError):
        return "hostile.pt", b""
    return draw(st.sampled_from(["hostile.pt", "hostile.safetensors", "hostile.png"])), buffer.getvalue()


@st.composite
def archives(draw):
    """Zip archives with strange members."""
    buffer = BytesIO()
    members = st.sampled_from(
        [
            "archive/data.pkl",
            "archive/version",
            "archive/data/0",
            "../../owned",
            "/owned",
            "archive/data/../../../owned",
        ]
    )
    data = st.sampled_from(
        [b"3\n", pickle.dumps(Evil(), 2), b"\x80\x02}.", b"\0" * 2**20, b"\x80\x02)" + b"\x85" * 2**20 + b"."]
    )
    compression = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in draw(st.dictionaries(members, data, max_size=4)).items():
            archive.writestr(name, content)
    return "hostile.pt", buffer.getvalue()


pictures = st.builds(lambda content: ("hostile.png", picture(content)), JSON)
anything = st.one_of(damaged(), damaged(), safetensors_files(), pickled_files(), archives(), pictures)


@quick
@given(file=anything)
def test_a_hostile_file_is_read_or_refused(file):
    check(*file)


@pytest.mark.slow
@long
@given(file=anything)
def test_many_hostile_files_are_read_or_refused(file):
    check(*file)


def _archive(file, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")


def _sparse(file, start, size):
    """A file of many gigabytes that takes no room on the disk."""
    with file.open("wb") as stream:
        stream.write(start)
        stream.truncate(size)


_NESTED = b"\x80\x02})" + b"\x85" * 2**22 + b"K\x01s."  # a dictionary whose key is a tuple in a tuple in a ...
_HUGE = b'{"fox":{"dtype":"F32","shape":[2147483648],"data_offsets":[0,8589934592]}}'

BOMBS = {
    "compressed.pt": lambda file: _archive(file, bytes(2**27), zipfile.ZIP_DEFLATED),
    "nested.pt": lambda file: _archive(file, _NESTED),
    "nested-old.pt": lambda file: file.write_bytes(_NESTED),
    "lists.pt": lambda file: _archive(file, b"\x80\x02" + b"]" * 2**24 + b"."),
    "view.pt": lambda file: torch.save({"fox": torch.ones(1).expand(2**20, 2**20)}, file),
    "view-a1111.pt": lambda file: torch.save(a1111({"*": torch.ones(1, 1).expand(1, 2**40)}), file),
    "large.pt": lambda file: _sparse(file, b"PK\x03\x04", 2**34),
    "header.safetensors": lambda file: _sparse(file, (2**33).to_bytes(8, "little") + b'{"a":', 2**34),
    "values.safetensors": lambda file: _sparse(file, len(_HUGE).to_bytes(8, "little") + _HUGE, 2**33 + 100),
    "text.png": lambda file: file.write_bytes(picture("x" * 2**24)),
}

READ_ALL = """
import resource, sys
from ti_jax.concepts import formats
from ti_jax.errors import UserError

formats.read_all("good.pt")
for name in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        formats.read_all(name)
    except UserError:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_bombs_take_no_memory(tmp_path):
    torch.save({"fox": torch.ones(1, 8)}, tmp_path / "good.pt")
    for name, write in BOMBS.items():
        write(tmp_path / name)
    command = [sys.executable, "-c", READ_ALL, *BOMBS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    refused = {name: int(grown) for grown, name in map(str.split, done.stdout.splitlines())}
    assert refused.keys() == BOMBS.keys()
    assert max(refused.values()) < 100 * 2**10, refused
