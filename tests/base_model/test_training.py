"""The trainers, with very small networks."""

import dataclasses
import itertools
import json
import types

import classifier
import clip
import export
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import samples
import unet
import vae
import words
from feed import Feed
from flax import nnx
from loop import Rhythm, train, warmup_constant_decay
from state import load_state, new_state, save_state

from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.models.clip import CLIPTextModel
from ti_jax.models.unet import UNet2DConditionModel
from ti_jax.models.vae import AutoencoderKL
from ti_jax.planning.devices import devices_of, has_compiler
from ti_jax.planning.topologies import topology

QUIET = Rhythm(log=1e9, save=1e9, validate=1e9)
TEXT = dataclasses.replace(words.TEXT, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
# Compiling the other two takes long.
EVERY_STAGE = pytest.mark.parametrize(
    "stages",
    ["clip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vae", "unet", "classifier"))],
    indirect=True,
)


@pytest.fixture
def small_vae(monkeypatch):
    config = dataclasses.replace(vae.CONFIG, block_out_channels=(8, 8, 8), scaling_factor=0.5)
    monkeypatch.setattr(vae, "CONFIG", config)
    for name, value in {"_CROP": 16, "_WHOLE_FROM": 1.0, "_UNSEEN": 2}.items():
        monkeypatch.setattr(vae, name, value)
    return AutoencoderKL(config, rngs=nnx.Rngs(0))


@pytest.fixture
def small_unet(monkeypatch, small_vae):
    config = dataclasses.replace(
        unet.CONFIG, block_out_channels=(8, 8, 8), norm_num_groups=4, cross_attention_dim=16, attention_head_dim=2
    )
    for name, value in {"CONFIG": config, "TEXT": TEXT, "_UNSEEN": 4}.items():
        monkeypatch.setattr(unet, name, value)
    monkeypatch.setattr(unet, "sample_pictures", lambda *_: np.zeros((3, 8, 8, 3), np.uint8))
    return small_vae


@pytest.fixture
def small_unet_networks(small_unet):
    text_encoder = CLIPTextModel(TEXT, rngs=nnx.Rngs(0))
    return unet.Networks(text_encoder, UNet2DConditionModel(unet.CONFIG, rngs=nnx.Rngs(1)))


@pytest.fixture
def small_clip(monkeypatch):
    vision = dataclasses.replace(clip.CONFIG.vision, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    monkeypatch.setattr(clip, "CONFIG", clip.CLIPConfig(TEXT, vision, projection_dim=8))
    monkeypatch.setattr(clip, "_UNSEEN", 6)


@pytest.fixture
def small_classifier(monkeypatch):
    for name, value in {"_CHANNELS": (8, 8, 8), "_GROUPS": 2, "_UNSEEN": 4}.items():
        monkeypatch.setattr(classifier, name, value)


@pytest.fixture
def stages(request, drawings, seen, tokenizer):
    """Builds the stage that is asked for."""
    request.getfixturevalue(f"small_{request.param}")
    if request.param == "vae":
        return lambda steps: vae.vae_stage(seen, steps=steps, feed=Feed(2))
    if request.param == "classifier":
        return lambda steps: classifier.classifier_stage(seen, steps=steps, feed=Feed(4))
    if request.param == "clip":
        return lambda steps: clip.clip_stage(seen, tokenizer, steps=steps, feed=Feed(6))
    autoencoder = request.getfixturevalue("small_unet")
    return lambda steps: unet.unet_stage(
        seen, tokenizer, autoencoder, None, steps=steps, feed=Feed(4, pool=2, passes=2)
    )


@EVERY_STAGE
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(stages, tmp_path):
    whole = train(stages(4), tmp_path / "whole", QUIET)
    stage = stages(4)
    half = dataclasses.replace(stage, batches=lambda first: itertools.islice(stage.batches(first), 2))
    train(half, tmp_path / "parts", QUIET)
    resumed = train(stages(4), tmp_path / "parts", QUIET)
    assert int(whole.step) == int(resumed.step) == 4
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [json.loads(line) for line in (tmp_path / f"parts/{stage.name}.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validate"] == [2, 4]
    assert lines[1]["hours"] > lines[0]["hours"] > 0


@EVERY_STAGE
def test_steps_on_one_batch_bring_its_loss_down(stages):
    stage = stages(1000)
    batch = next(stage.batches(0))
    step, state, losses = jax.jit(stage.step), stage.start(), []
    for _ in range(12):
        state, loss = step(state, batch, jax.random.key(0))
        losses.append(float(loss["loss"]))
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])  # processes take long to start
def test_a_pool_is_used_several_times_in_other_orders(workers):
    feed = Feed(batch_size=2, pool=3, passes=2, workers=workers)

    def made(first):
        batches = feed.batches(
            lambda i: {"index": np.asarray(i)}, first, 9, prepare=lambda batch: batch["index"].tolist()
        )
        return [tuple(batch) for batch in itertools.islice(batches, 9 - first)]

    whole = made(0)
    assert sorted(whole[:6]) == 2 * [(0, 1)] + 2 * [(2, 3)] + 2 * [(4, 5)]
    assert set(whole[:3]) == set(whole[3:6]) == {(0, 1), (2, 3), (4, 5)}
    assert sorted(whole[6:]) == [(6, 7), (8, 9), (10, 11)]
    assert all(made(first) == whole[first:] for first in range(1, 9))


def test_the_loss_of_the_unet_is_the_error_of_the_velocity_at_two_kinds_of_timesteps():
    schedule = NoiseSchedule.from_config(export.SCHEDULER)
    count, seen_timesteps = 4096, []

    class Text:
        def embed(self, ids):
            return ids

        def __call__(self, ids, *_):
            return types.SimpleNamespace(last_hidden_state=ids)

    def nothing(noisy, timesteps, _):
        seen_timesteps.append(np.asarray(timesteps))
        return jnp.zeros_like(noisy)

    mean = jnp.full((count, 2, 2, 4), 2.0)
    batch = {"mean": mean, "deviation": jnp.zeros_like(mean), "ids": jnp.zeros((count, 1))}
    loss = float(unet.denoising_loss(unet.Networks(Text(), nothing), schedule, batch, jax.random.key(0)))
    times = seen_timesteps[0]
    assert set(times) <= set(range(1000))
    for share in (0.25, 0.5, 0.7, 0.9):
        np.testing.assert_allclose((times < 1000 * share).mean(), 0.3 * share**2 + min(share, 0.7), atol=1e-3)
    signal = np.asarray(schedule.alphas_cumprod, np.float64)[times]
    np.testing.assert_allclose(loss, np.mean(signal + (1 - signal) * 2.0**2), rtol=0.01)


def test_muon_moves_kernels_alike_in_all_directions_and_adamw_the_rest():
    shapes = {"conv_in": (3, 3, 4, 8), "conv1": (3, 3, 8, 16), "to_q": (12, 20), "conv_out": (3, 3, 8, 4)}
    nothing = {name: {"kernel": jnp.zeros(shape)} for name, shape in shapes.items()}
    nothing |= {"norm": {"scale": jnp.zeros(8)}, "token_embedding": {"embedding": jnp.zeros((7, 8))}}
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), nothing)
    optimizer = unet.muon(lambda _: -1.0)
    with jax.numpy_dtype_promotion("standard"):
        changes, _ = optimizer.update(gradients, optimizer.init(nothing), nothing)
    for name in ("conv1", "to_q"):
        matrix = changes[name]["kernel"].reshape(-1, shapes[name][-1])
        spread = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
        assert 0.6 < spread.min() <= spread.max() < 1.3
    rest = {name: changes[name] for name in changes if name not in ("conv1", "to_q")}
    for change in jax.tree.leaves(rest):  # at first Adam goes as far in every number
        np.testing.assert_allclose(np.abs(change), np.abs(change).max(), rtol=1e-3)


def test_samples(small_unet, small_unet_networks, tokenizer):
    schedule = NoiseSchedule.from_config(export.SCHEDULER)
    pictures = samples.sample_pictures(small_unet_networks, small_unet, tokenizer, schedule, ["a key"] * 3)
    assert pictures.shape == (3, 64, 64, 3)
    assert samples.contact_sheet(pictures, columns=2).size == (128, 128)


def test_a_state_of_other_networks_is_refused(tmp_path):
    optimizer = optax.sgd(0.1)
    save_state(tmp_path / "state", new_state({"a": jnp.ones(3)}, optimizer), {"hours": 1.5})
    assert load_state(tmp_path / "state", new_state({"a": jnp.zeros(3)}, optimizer))[1] == {"hours": 1.5}
    with pytest.raises(ValueError, match="of other sizes"):
        load_state(tmp_path / "state", new_state({"a": jnp.zeros(4)}, optimizer))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e-1", "h100"])
@pytest.mark.parametrize("stages", ["vae", "clip", "unet", "classifier"], indirect=True)
def test_steps_compile_for_accelerators(stages, name, monkeypatch):
    where, stage = topology(name), stages(10)
    if not has_compiler(where.chip.platform):
        pytest.skip(f"the compiler for {name} is not installed")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    there = jax.sharding.SingleDeviceSharding(devices_of(where)[0])
    arguments = jax.eval_shape(lambda: (stage.start(), jax.random.key(0)))
    state, key, batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), (*arguments, next(stage.batches(0)))
    )
    compiled = jax.jit(stage.step, donate_argnums=0).lower(state, batch, key).compile()
    assert 0 < compiled.memory_analysis().peak_memory_in_bytes < where.chip.memory


def test_learning_rate():
    rate = warmup_constant_decay(2.0, 100, warmup=10, decay=0.2)
    np.testing.assert_allclose([rate(jnp.asarray(i)) for i in (0, 9, 50, 80, 90, 100)], [0.2, 2, 2, 2, 1, 0], rtol=1e-6)


def test_psnr():
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    assert vae.psnr(pictures, pictures + np.uint8(51)) == pytest.approx(20 * np.log10(5))


def test_batches_for_clip_differ_in_fine_things(seen):
    batches = [[clip.captioned_scene(seen, 36 * b + i, 36) for i in range(36)] for b in range(4)]
    assert len({scene.background for scene, _ in batches[0]}) > 3
    for scene, _ in batches[1] + batches[3]:
        assert (len(scene.objects), scene.background.colours, scene.treatment) == (1, ("white",), None)
    shown = {(scene.objects[0].code, scene.style) for scene, _ in batches[3]}
    assert len(shown) == 36 == len({text for _, text in batches[3]})
    assert all(seen.concepts[scene.objects[0].code].name in text for scene, text in batches[3])


def test_recall():
    similarity = np.asarray([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.3, 0.2, 0.1]])
    assert [clip.recall(similarity, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
