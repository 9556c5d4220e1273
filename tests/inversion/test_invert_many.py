"""A queue of concepts through a few slots: each learns what it learns alone, whatever happens around it."""

import contextlib
import json
import shutil
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import ti_jax
from ti_jax.config import BoundsConfig, ConceptSpec, InversionConfig, OptimizerConfig
from ti_jax.errors import UserError
from ti_jax.inversion.invert_many import FailedConcepts, used_slots
from ti_jax.inversion.queue_folder import QueueFolder
from ti_jax.inversion.result import Interrupted
from ti_jax.parallel.hosts import Host

CONFIG = InversionConfig(steps=12, batch_size=1, evaluate_every=4, fixed_set_size=2, checkpoint_every=5)
SIZES = {"fox": (2, "cat"), "hare": (4, "small cat"), "owl": (2, "a"), "newt": (2, "random"), "wren": (2, "cat")}


@pytest.fixture(scope="module")
def pipeline(sd2_twin):
    return sd2_twin[1]


@pytest.fixture(scope="module")
def specs():
    """Of different numbers of pictures, vectors and steps."""
    rng = np.random.default_rng(0)
    made = []
    for name, (pictures, initializer) in SIZES.items():
        arrays = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(pictures)]
        steps = {"owl": 7, "newt": 16}.get(name)
        rate = 1e-2 if name == "wren" else None
        made.append(ConceptSpec(name, f"<{name}>", initializer, arrays, steps=steps, learning_rate=rate))
    return made


@pytest.fixture(scope="module")
def alone(pipeline, specs):
    """What each concept learns by `invert`."""
    return {
        spec.name: ti_jax.invert(
            pipeline,
            spec.pictures,
            placeholder=spec.placeholder,
            initializer=spec.initializer,
            config=replace(
                CONFIG, steps=spec.steps or CONFIG.steps, optimizer=OptimizerConfig(learning_rate=spec.learning_rate)
            ),
        )
        for spec in specs
    }


def _many(pipeline, specs, slots=2, results=None, config=CONFIG, **options):
    """Results by name; in `results`, if it is given, even where it ends in an error."""
    results = {} if results is None else results
    for result in ti_jax.invert_many(pipeline, specs, config=config, slots=slots, **options):
        results[result.concept.metadata["name"]] = result
    return results


def _vectors(result):
    return np.asarray(result.concept.vectors["text_encoder"])


def _assert_same(results, alone, names=SIZES):
    assert set(results) == set(names)
    for name in names:
        expected = _vectors(alone[name])
        np.testing.assert_allclose(_vectors(results[name]), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert results[name].history.steps == alone[name].history.steps
        assert list(results[name].history.fixed_loss) == list(alone[name].history.fixed_loss)
        np.testing.assert_allclose(results[name].history.loss, alone[name].history.loss, rtol=1e-5)


class _StopAfter:
    """A `should_stop` that is true after some chunks."""

    def __init__(self, chunks):
        self.left = chunks

    def __call__(self):
        self.left -= 1
        return self.left < 0


def _lines(folder):
    return {line["name"]: line for line in map(json.loads, (folder / "results.jsonl").read_text().splitlines())}


@pytest.mark.parametrize("order", [1, -1])
def test_in_company_and_in_any_order(pipeline, specs, alone, order):
    progress = []
    results = _many(pipeline, specs[::order], on_progress=progress.append)
    _assert_same(results, alone)
    assert progress[-1].finished + sum(slot is not None for slot in progress[-1].slots) == len(specs)
    assert 0 <= progress[-1].idle < 0.5


def test_what_is_left_on_disk(pipeline, specs, alone, tmp_path, caplog):
    results = _many(pipeline, specs, output=tmp_path)
    lines = _lines(tmp_path)
    assert list(lines) == list(SIZES)
    for name, line in lines.items():
        concept = ti_jax.Concept.load(line["file"])
        np.testing.assert_array_equal(concept.vectors["text_encoder"], _vectors(results[name]))
        assert (line["status"], line["steps"]) == ("finished", alone[name].history.steps)
        assert len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) == line["steps"] + 1
    assert _many(pipeline, specs, output=tmp_path, resume=True) == {}
    assert "fewer steps" not in caplog.text
    more = replace(CONFIG, steps=CONFIG.steps + 1)
    assert _many(pipeline, specs, config=more, output=tmp_path, resume=True) == {}
    assert "took fewer steps than are asked for now" in caplog.text
    shutil.rmtree(tmp_path / "owl")
    with pytest.raises(Interrupted):
        _many(pipeline, specs, output=tmp_path, resume=True, should_stop=_StopAfter(0))
    assert list(_many(pipeline, specs, output=tmp_path, resume=True)) == ["owl"]
    assert (tmp_path / lines["owl"]["file"]).exists()
    with pytest.raises(UserError, match="--resume"):
        _many(pipeline, specs, output=tmp_path)
    with pytest.raises(UserError, match="batch_size: 1 -> 2"):
        _many(pipeline, specs, config=replace(CONFIG, batch_size=2), output=tmp_path, resume=True)


@pytest.mark.parametrize("chunks", [1, 3, 6])
def test_resume(pipeline, specs, alone, tmp_path, chunks):
    """Finished concepts are not redone, those under way go on."""
    results = {}
    with pytest.raises(Interrupted):
        _many(pipeline, specs, results=results, output=tmp_path, should_stop=_StopAfter(chunks))
    rest = _many(pipeline, specs, output=tmp_path, resume=True)
    assert not set(rest) & set(results)
    _assert_same({**results, **rest}, alone)
    assert list(_lines(tmp_path)) == list(SIZES)


def test_hosts_share_a_queue_and_another_number_of_them_goes_on(pipeline, specs, alone, tmp_path):
    first = _many(pipeline, specs, output=tmp_path, host=Host(0, 2))
    with pytest.raises(Interrupted):
        _many(pipeline, specs, output=tmp_path, host=Host(1, 2), should_stop=_StopAfter(1))
    assert set(_lines(tmp_path)) == set(first)
    progress = []
    rest = _many(pipeline, specs, output=tmp_path, resume=True, on_progress=progress.append)
    assert max(slot.step for slot in progress[0].slots if slot) > CONFIG.evaluate_every  # from the old host's state
    _assert_same({**first, **rest}, alone)
    assert list(_lines(tmp_path)) == list(SIZES)


def _first_steps(progress):
    """Where the concepts were after the first chunk, by name."""
    return {slot.name: slot.step for slot in progress[0].slots if slot}


def test_with_fewer_slots_the_states_of_those_that_wait_are_kept(pipeline, specs, alone, tmp_path):
    two = specs[:2]
    with pytest.raises(Interrupted):
        _many(pipeline, two, slots=2, output=tmp_path, should_stop=_StopAfter(1))
    with pytest.raises(Interrupted):
        _many(pipeline, two, slots=1, output=tmp_path, resume=True, should_stop=_StopAfter(0))
    progress = []
    _many(pipeline, two, slots=2, output=tmp_path, resume=True, on_progress=progress.append)
    assert set(_first_steps(progress)) == {"fox", "hare"}
    assert min(_first_steps(progress).values()) > CONFIG.evaluate_every


def test_what_has_only_waited_may_have_other_settings(pipeline, specs, tmp_path):
    """Its folder is there, since a concept is made ready ahead."""
    with pytest.raises(Interrupted):
        _many(pipeline, specs[:2], slots=1, output=tmp_path, should_stop=_StopAfter(0))
    assert (tmp_path / "hare/config.json").exists()
    changed = [specs[0], replace(specs[1], learning_rate=1e-4)]
    assert list(_many(pipeline, changed, slots=1, output=tmp_path, resume=True)) == ["fox", "hare"]


def test_a_concept_under_way_keeps_its_settings(pipeline, specs, tmp_path):
    """However often it is resumed with others."""
    with pytest.raises(Interrupted):
        _many(pipeline, specs[:1], output=tmp_path, should_stop=_StopAfter(1))
    for _ in range(2):
        with pytest.raises(FailedConcepts, match=r"is under way.*learning_rate.*or delete .*fox to begin it anew"):
            _many(pipeline, [replace(specs[0], learning_rate=1e-4)], output=tmp_path, resume=True)
    progress = []
    _many(pipeline, specs[:1], output=tmp_path, resume=True, on_progress=progress.append)
    assert _first_steps(progress)["fox"] > CONFIG.evaluate_every


def test_the_last_failure_counts(tmp_path):
    """Whatever the first was, and wherever that was written."""
    for reason in ("no pictures", "no memory"):
        folder = QueueFolder(tmp_path, Host(0, 2), ["fox"])
        folder.open(resume=True, overwrite=False)
        folder.write_config({}, {})
        folder.add({"name": "fox", "status": "failed", "reason": reason})
        folder.merge()
        assert _lines(tmp_path)["fox"]["reason"] == reason


def test_states_of_an_earlier_run_do_not_hide_those_of_a_later_one(pipeline, specs, tmp_path):
    """The earlier one, with more slots, had come farther."""
    changed = [replace(specs[0], learning_rate=1e-4), specs[1]]
    with pytest.raises(Interrupted):
        _many(pipeline, specs[:2], output=tmp_path, should_stop=_StopAfter(1))
    shutil.rmtree(tmp_path / "fox")
    with pytest.raises(Interrupted):
        _many(pipeline, changed, slots=1, output=tmp_path, resume=True, should_stop=_StopAfter(0))
    progress = []
    _many(pipeline, changed, slots=1, output=tmp_path, resume=True, on_progress=progress.append)
    assert _first_steps(progress)["fox"] > CONFIG.evaluate_every


@pytest.mark.parametrize("change", ["folder", "pictures"])
def test_a_concept_whose_folder_was_deleted_begins_again(pipeline, specs, alone, tmp_path, change):
    with pytest.raises(Interrupted):
        _many(pipeline, specs[:1], output=tmp_path, should_stop=_StopAfter(1))
    shutil.rmtree(tmp_path / "fox")
    spec = specs[0] if change == "folder" else replace(specs[0], pictures=specs[2].pictures)
    results = _many(pipeline, [spec], output=tmp_path, resume=True)
    if change == "folder":
        _assert_same(results, alone, ["fox"])
    assert results["fox"].history.steps == CONFIG.steps
    assert 0 in results["fox"].history.fixed_loss


def test_what_failed_for_a_while_goes_on(pipeline, specs, alone, tmp_path):
    """Pictures that could not be read once cost no steps, whatever else is learned and saved meanwhile, and however
    often the next try is ended."""
    with pytest.raises(Interrupted):
        _many(pipeline, specs[:2], output=tmp_path, should_stop=_StopAfter(1))
    unread = [replace(specs[0], pictures=str(tmp_path / "away")), specs[1]]
    others = {}
    with pytest.raises(FailedConcepts):
        _many(pipeline, unread, results=others, output=tmp_path, resume=True)
    _assert_same(others, alone, ["hare"])
    for chunks in (0, 5):
        progress, results = [], {}
        with pytest.raises(Interrupted) if chunks == 0 else contextlib.nullcontext():
            stop = _StopAfter(chunks)
            _many(
                pipeline,
                specs[:2],
                2,
                results,
                output=tmp_path,
                resume=True,
                on_progress=progress.append,
                should_stop=stop,
            )
        assert _first_steps(progress)["fox"] > CONFIG.evaluate_every
    _assert_same(results, alone, ["fox"])


@pytest.mark.parametrize(
    ("slots", "concepts", "devices", "used"),
    [(16, 11, 8, 16), (16, 11, 4, 12), (4, 11, 8, 4), (16, 3, 8, 3), (8, 0, 1, 1), (8, 5, 1, 5), (12, 11, 8, 12)],
)
def test_slots_that_are_used(slots, concepts, devices, used, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    assert used_slots(slots, concepts, None) == used


def _mesh(*shape):
    """Of the one device that is here, which is enough to ask for its shape."""
    return Mesh(np.full(shape, jax.local_devices()[0]), ("concepts", "data"))


@pytest.mark.parametrize(("slots", "concepts", "used"), [(16, 11, 12), (16, 3, 4), (16, 0, 4), (6, 11, 6)])
def test_slots_that_are_used_of_a_mesh_that_is_given(slots, concepts, used):
    assert used_slots(slots, concepts, _mesh(4, 2)) == used


@pytest.mark.parametrize(("shape", "slots"), [((2, 1), 3), ((1, 2), 2)])
def test_what_a_mesh_does_not_divide_is_refused(pipeline, specs, shape, slots):
    with pytest.raises(UserError, match=f"{slots} slots of batch size 1 cannot be divided"):
        _many(pipeline, specs, slots, mesh=_mesh(*shape))


def test_time_in_the_queue_does_not_count(pipeline, specs):
    began = time.perf_counter()
    results = _many(pipeline, [replace(specs[0], name=f"c{i}") for i in range(3)], slots=1)
    assert sum(result.seconds for result in results.values()) <= time.perf_counter() - began


def test_a_bad_concept_does_not_stop_the_others(pipeline, specs, alone, tmp_path):
    bad = tmp_path / "pictures"
    bad.mkdir()
    (bad / "torn.png").write_bytes(b"not a picture")
    mixed = [
        replace(specs[0], name="gone", pictures=str(tmp_path / "nowhere")),
        specs[0],
        replace(specs[1], name="torn", pictures=str(bad)),
        replace(specs[1], name="burst", learning_rate=1e38),
        specs[2],
    ]
    results = {}
    with pytest.raises(FailedConcepts) as raised:
        _many(pipeline, mixed, results=results, output=tmp_path / "runs")
    _assert_same(results, alone, ("fox", "owl"))
    assert set(raised.value.reasons) == {"gone", "torn", "burst"}
    lines = _lines(tmp_path / "runs")
    assert {name for name, line in lines.items() if line["status"] == "failed"} == {"gone", "torn", "burst"}
    assert "torn.png" in lines["torn"]["reason"]
    assert "not finite" in lines["burst"]["reason"]
    # What failed is tried again, and may be mended by then.
    mixed[3] = replace(mixed[3], learning_rate=None)
    with pytest.raises(FailedConcepts) as raised:
        _many(pipeline, mixed, output=tmp_path / "runs", resume=True)
    assert set(raised.value.reasons) == {"gone", "torn"}
    assert _lines(tmp_path / "runs")["burst"]["status"] == "finished"


@pytest.mark.slow
def test_fifty_steps_in_1_4_and_16_slots(pipeline, specs):
    """In float32 the vectors differ by at most 1e-5 of their size."""
    config = replace(CONFIG, steps=50)
    crowd = [replace(specs[i % 4], name=f"c{i}", steps=None) for i in range(16)]
    chosen = [crowd[i] for i in (0, 7, 13)]
    expected = {
        spec.name: ti_jax.invert(
            pipeline,
            spec.pictures,
            placeholder=spec.placeholder,
            initializer=spec.initializer,
            name=spec.name,
            config=replace(config, optimizer=OptimizerConfig(learning_rate=spec.learning_rate)),
        )
        for spec in chosen
    }
    for slots in (1, 4, 16):
        results = _many(pipeline, chosen if slots == 1 else crowd, slots=slots, config=config)
        _assert_same({name: results[name] for name in expected}, expected, expected)


def test_bounds_keep_the_large_out(pipeline, specs):
    with pytest.raises(FailedConcepts, match=r"hare has 4 pictures, .* give --bounds\.pictures 4"):
        _many(pipeline, specs[1:2], config=replace(CONFIG, bounds=BoundsConfig(pictures=3)))


def test_names_must_differ_and_be_free(pipeline, specs):
    with pytest.raises(UserError, match="several concepts are called fox"):
        ti_jax.invert_many(pipeline, [specs[0], specs[0]], config=CONFIG)
    with pytest.raises(UserError, match="several concepts are called fox, Fox"):
        ti_jax.invert_many(pipeline, [specs[0], replace(specs[0], name="Fox")], config=CONFIG)
    for name in ("checkpoints", "config.json", "results-host-0-of-2.jsonl"):
        with pytest.raises(UserError, match="cannot be called"):
            ti_jax.invert_many(pipeline, [replace(specs[0], name=name)], config=CONFIG)


def test_several_hosts_do_not_overwrite_what_they_share(pipeline, specs, tmp_path):
    with pytest.raises(UserError, match="several hosts share"):
        _many(pipeline, specs, output=tmp_path, overwrite=True, host=Host(0, 2))
