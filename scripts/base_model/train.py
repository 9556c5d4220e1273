"""Trains the bundled model, a stage at a time; every stage goes on where it stopped.

    python scripts/base_model/build_data.py
    python scripts/base_model/train.py --stage vae
    python scripts/base_model/train.py --stage clip
    python scripts/base_model/train.py --stage unet
    python scripts/base_model/train.py --stage classifier        # judges the model, no part of it

Each stage keeps its state, its log (`STAGE.jsonl`) and samples in the state folder. At its end, or when `--hours` are
over, or with `--export` at once, it writes its networks there as diffusers and transformers do: `vae/`, `clip/`,
`text_encoder/` and `unet/`, with `tokenizer/` and the index of the pipeline; the classifier is a file. The UNet wants
the autoencoder's folder, and begins with CLIP's text tower if there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import logging
import sys
from pathlib import Path
from typing import Any, get_args

import classifier
import clip
import export
import jax.numpy as jnp
import unet
import vae
from dataset import read_dataset
from drawings import Drawings
from flax import nnx
from loop import Rhythm, train
from words import load_or_train_tokenizer

from ti_jax.models.clip import CLIPTextModel
from ti_jax.models.clip_vision import CLIPModel
from ti_jax.models.unet import UNet2DConditionModel
from ti_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from ti_jax.weights import rules
from ti_jax.weights.index import read_json
from ti_jax.weights.loader import abstract_network, load_parameters
from ti_jax.weights.tensors import open_safetensors

STEPS = {"vae": 9000, "clip": 6000, "unet": 40_000, "classifier": 5000}


def main() -> int:
    """Reads the command line and runs a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STEPS), required=True)
    parser.add_argument("--state-dir", type=Path, default=Path("runs/base_model"))
    parser.add_argument("--data-dir", type=Path, default=Path("runs/base_model/data"), help="that build_data.py wrote")
    parser.add_argument("--steps", type=int, help="in all; earlier runs included")
    parser.add_argument("--hours", type=float, default=float("inf"), help="of this run")
    parser.add_argument("--export", action="store_true", help="train no more, only write the networks")
    parser.add_argument("--batch-size", type=int, help="of the stage's own if not given, which suits a CPU")
    parser.add_argument("--pool", type=int, help="batches in memory at a time")
    parser.add_argument("--passes", type=int, help="how often each of them is used before others take their place")
    parser.add_argument("--workers", type=int, help="processes that draw scenes; a thread if 0")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--decay", type=float, help="share of the steps over which the rate falls to zero")
    parser.add_argument(
        "--portraits", type=float, help="share of the UNet's scenes that are one thing, mostly in a named style"
    )
    parser.add_argument("--begin-with", type=Path, help="folder with the stage's networks, instead of fresh ones")
    parser.add_argument("--part", choices=get_args(vae.Part), help="of the autoencoder that learns")
    parser.add_argument("--interval", type=float, default=900.0, help="seconds between measures; losses come sooner")
    parser.add_argument("--dtype", default="float32", help="of the computation")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)

    rhythm = Rhythm.every(options.interval, stop_after=0.0 if options.export else 3600 * options.hours)
    own = {"vae": vae.FEED, "clip": clip.FEED, "unet": unet.FEED, "classifier": classifier.FEED}[options.stage]
    given = {name: getattr(options, name) for name in ("batch_size", "pool", "passes", "workers")}
    feed = dataclasses.replace(own, **{name: value for name, value in given.items() if value is not None})
    kinds = {"dtype": jnp.dtype(options.dtype), "steps": options.steps or STEPS[options.stage], "feed": feed}
    chosen = {name: getattr(options, name) for name in ("rate", "decay", "part", "portraits")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    makes = {"vae": vae.vae_stage, "clip": clip.clip_stage, "unet": unet.unet_stage}
    known = inspect.signature(makes.get(options.stage, classifier.classifier_stage)).parameters
    if options.stage == "classifier" and options.begin_with:
        parser.error("--begin-with: the classifier always begins afresh")
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"--stage {options.stage} has no --{unknown[0]}")
    kinds |= chosen
    seen = read_dataset(options.data_dir, "train")
    run = {"vae": run_vae, "clip": run_clip, "unet": run_unet, "classifier": run_classifier}[options.stage]
    run(seen, options.state_dir, options.begin_with, rhythm, **kinds)
    return 0


def run_vae(seen: Drawings, folder: Path, earlier: Path | None, rhythm: Rhythm, **kinds: Any) -> None:
    """Trains the autoencoder; its scaling factor is measured at the end."""
    begin_with = read_vae(earlier, kinds["dtype"]) if earlier else None
    trained = train(vae.vae_stage(seen, begin_with, **kinds), folder, rhythm).average
    config = dataclasses.replace(vae.CONFIG, scaling_factor=vae.scaling_factor(trained, seen))
    export.write_vae(folder / "vae", trained, config)


def run_clip(seen: Drawings, folder: Path, earlier: Path | None, rhythm: Rhythm, **kinds: Any) -> None:
    """Trains CLIP, and the tokenizer if there is none; both are in its folder."""
    tokenizer = load_or_train_tokenizer(seen, folder / "tokenizer")
    begin_with = read_clip(earlier, kinds["dtype"]) if earlier else None
    trained = train(clip.clip_stage(seen, tokenizer, begin_with, **kinds), folder, rhythm).average
    export.write_clip(folder / "clip", trained, clip.CONFIG)
    tokenizer.save_pretrained(folder / "clip")


def run_unet(seen: Drawings, folder: Path, earlier: Path | None, rhythm: Rhythm, **kinds: Any) -> None:
    """Trains the text encoder and the UNet."""
    tokenizer = load_or_train_tokenizer(seen, folder / "tokenizer")
    if earlier:
        begin_with = read_text_encoder(earlier, kinds["dtype"]), read_unet(earlier, kinds["dtype"])
    else:
        begin_with = read_clip(folder, kinds["dtype"]).text_model if (folder / "clip").exists() else None, None
    trained = train(unet.unet_stage(seen, tokenizer, read_vae(folder), *begin_with, **kinds), folder, rhythm).average
    export.write_text_encoder(folder / "text_encoder", trained.text_encoder, unet.TEXT)
    export.write_unet(folder / "unet", trained.unet, unet.CONFIG)
    export.write_pipeline(folder)


def run_classifier(seen: Drawings, folder: Path, earlier: Path | None, rhythm: Rhythm, **kinds: Any) -> None:
    """Trains the classifier, which begins afresh always."""
    trained = train(classifier.classifier_stage(seen, **kinds), folder, rhythm).average
    export.write_classifier(folder / "classifier.safetensors", trained)


def read_vae(folder: Path, dtype: Any = jnp.float32) -> AutoencoderKL:
    """The autoencoder of a folder, with the scaling factor that was measured."""
    config = AutoencoderKLConfig.from_dict(read_json(folder / "vae" / "config.json"))
    return _read(folder / "vae" / "diffusion_pytorch_model.safetensors", AutoencoderKL, config, dtype, rules.VAE)


def read_clip(folder: Path, dtype: Any = jnp.float32) -> CLIPModel:
    """Both towers."""
    return _read(folder / "clip" / "model.safetensors", CLIPModel, clip.CONFIG, dtype, rules.CLIP)


def read_text_encoder(folder: Path, dtype: Any = jnp.float32) -> CLIPTextModel:
    """That of the UNet."""
    return _read(folder / "text_encoder" / "model.safetensors", CLIPTextModel, unet.TEXT, dtype, rules.CLIP_TEXT)


def read_unet(folder: Path, dtype: Any = jnp.float32) -> UNet2DConditionModel:
    """The UNet."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    return _read(file, UNet2DConditionModel, unet.CONFIG, dtype, rules.UNET)


def _read(file: Path, kind: Any, config: Any, dtype: Any, table: rules.Rules) -> Any:
    """A network that an earlier stage wrote, with parameters in float32, that computes in `dtype`."""
    abstract: nnx.Module = abstract_network(functools.partial(kind, config, dtype=dtype))
    return load_parameters(abstract, open_safetensors(file), table, param_dtype=jnp.float32, what=str(file))


if __name__ == "__main__":
    sys.exit(main())
