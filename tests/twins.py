"""Small Stable Diffusion pipelines with random weights, written by PyTorch as the ones on the hub are.

`sd1` has what SD 1.5's folder has: a PNDM scheduler, quick_gelu, 1x1 convolutions around attention, keys with
`text_model.`, `position_ids`, the old names of the autoencoder's attention, `vocab.json` and `merges.txt`.
`sd2` has what SD 2.1 has: v-prediction, gelu, linear projections, heads by level, `!` as padding; and the layout of
today.
`sdxl` has what SDXL has: two text encoders and tokenizers, a level without attention, transformers of several layers,
sizes and crops as conditions.
`ldm` has what the original latent-diffusion model has: a BERT, other names of folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
    LDMTextToImagePipeline,
)
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel

Kind = Literal["sd1", "sd2", "sdxl"]

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = 2 * 256 + 1000 + 2
_BUNDLED_TOKENIZER = Path(__file__).parents[1] / "ti_jax/bundled/tiny/tokenizer/tokenizer.json"
_VAE_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

_TEXT = {
    "sd1": {"hidden_act": "quick_gelu", "num_hidden_layers": 3, "projection_dim": 32},
    "sd2": {"hidden_act": "gelu", "num_hidden_layers": 2, "projection_dim": 24},
    "sdxl": {"hidden_act": "quick_gelu", "num_hidden_layers": 2, "projection_dim": 32},
    "sdxl_2": {
        "hidden_act": "gelu",
        "num_hidden_layers": 3,
        "projection_dim": 20,
        "hidden_size": 24,
        "intermediate_size": 72,
        "num_attention_heads": 3,
    },
}
_UNET = {
    "sd1": {"attention_head_dim": 2},
    "sd2": {"attention_head_dim": [2, 4], "use_linear_projection": True, "upcast_attention": True},
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": [2, 4],
        "transformer_layers_per_block": [1, 2],
        "use_linear_projection": True,
        "cross_attention_dim": 32 + 24,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
    },
}
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_twin(kind: Kind, folder: Path) -> diffusers.StableDiffusionPipeline:
    """Writes a pipeline with random weights into a folder and opens it again with PyTorch."""
    torch.manual_seed(17)
    parts = {"text_encoder": _text_encoder(kind), "unet": _unet(kind), "vae": _vae()}
    for network in parts.values():
        shake(network)
    write_tokenizer(folder / "tokenizer", padding=END if kind == "sd1" else "!")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    pipe = diffusers.StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=_scheduler(kind),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    if kind == "sd1":
        (folder / "tokenizer/tokenizer.json").unlink()
        write_tokenizer(folder / "tokenizer")
        rewrite_tensors(folder / "text_encoder/model.safetensors", old_text_encoder)
        rewrite_tensors(folder / "vae/diffusion_pytorch_model.safetensors", old_vae)
    return open_twin(folder)


def make_sdxl_twin(folder: Path, *, eos_token_id: int = 2) -> diffusers.StableDiffusionXLPipeline:
    """The same of SDXL; `eos_token_id` says where the second text encoder pools: 2 at the largest id."""
    torch.manual_seed(18)
    parts = {
        "text_encoder": _text_encoder("sdxl"),
        "text_encoder_2": _text_encoder("sdxl_2", transformers.CLIPTextModelWithProjection, eos_token_id=eos_token_id),
        "unet": _unet("sdxl"),
        "vae": _vae(scaling_factor=0.13025),
    }
    for network in parts.values():
        shake(network)
    tokenizers = {}
    for name, padding in (("tokenizer", END), ("tokenizer_2", "!")):
        write_tokenizer(folder / name, padding=padding)
        tokenizers[name] = transformers.CLIPTokenizer.from_pretrained(folder / name)
    scheduler = diffusers.EulerDiscreteScheduler(**_NOISE, timestep_spacing="leading", steps_offset=1)
    pipe = diffusers.StableDiffusionXLPipeline(
        **parts, **tokenizers, scheduler=scheduler, add_watermarker=False, force_zeros_for_empty_prompt=True
    )
    pipe.save_pretrained(folder)
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_ldm_twin(folder: Path) -> LDMTextToImagePipeline:
    """The same of the paper's text-to-image model."""
    torch.manual_seed(19)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789<>,.!?-'_"
    special = ["[PAD]", *(f"[unused{i}]" for i in range(3)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*letters, *(f"##{letter}" for letter in letters), "fox", "cat", "photo", "of", "##es", "blue"]
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer/vocab.txt").write_text("\n".join([*special, *pieces]) + "\n")
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 2, "head_dim": 12}
    parts = {
        "bert": LDMBertModel(LDMBertConfig(vocab_size=len(special) + len(pieces), **sizes)).eval(),
        "unet": _unet("sd1"),
        "vqvae": _vae(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
    }
    for network in parts.values():
        shake(network)
    tokenizer = transformers.BertTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = diffusers.DDIMScheduler(**_NOISE, clip_sample=False, set_alpha_to_one=False)
    LDMTextToImagePipeline(**parts, tokenizer=tokenizer, scheduler=scheduler).save_pretrained(folder)
    pipe = LDMTextToImagePipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def open_twin(folder: Path) -> diffusers.StableDiffusionPipeline:
    """A pipeline as PyTorch opens it."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def shake(network: torch.nn.Module) -> None:
    """Moves norms and biases away from one and zero, behind which mistakes would hide."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.02))


def rewrite_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Writes a safetensors file anew with other names, shapes or types."""
    tensors = {name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def rewrite_json(file: Path, **values: Any) -> None:
    """Sets keys of a JSON object; None as a value deletes the key."""
    merged = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))


def old_text_encoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As transformers 4 wrote it: everything under `text_model.`, and the positions as a buffer."""
    old = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    length = tensors["embeddings.position_embedding.weight"].shape[0]
    return {**old, "text_model.embeddings.position_ids": torch.arange(length)[None]}


def old_vae(tensors: dict[str, torch.Tensor], *, convolutions: bool = False) -> dict[str, torch.Tensor]:
    """As diffusers wrote it before 0.18; with 1x1 convolutions for the attention as latent diffusion had them."""
    old = {}
    for name, tensor in tensors.items():
        if ".attentions.0." in name:
            for new_name, old_name in _VAE_ATTENTION.items():
                name = name.replace(f".{new_name}.", f".{old_name}.")
            if convolutions and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        old[name] = tensor
    return old


def write_tokenizer(folder: Path, padding: str | None = None) -> None:
    """A CLIP tokenizer as `vocab.json` and `merges.txt`: letters, the bundled one's first merges, start, end.

    Args:
        folder: to write to.
        padding: the token that pads; where it is None only the two files are written, no settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = json.loads(_BUNDLED_TOKENIZER.read_text())["model"]["merges"][:1000]
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    if padding is None:
        return
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _text_encoder(kind: str, model: Any = transformers.CLIPTextModel, **options: Any) -> torch.nn.Module:
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        # What the hub's files say; transformers then pools at the largest id.
        "eos_token_id": 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    return model(transformers.CLIPTextConfig(**{**values, **_TEXT[kind], **options})).eval()


def _unet(kind: Kind) -> diffusers.UNet2DConditionModel:
    values = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    }
    return diffusers.UNet2DConditionModel(**{**values, **_UNET[kind]}).eval()


def _vae(**options: Any) -> diffusers.AutoencoderKL:
    values = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return diffusers.AutoencoderKL(**{**values, **options}).eval()


def _scheduler(kind: Kind) -> diffusers.SchedulerMixin:
    if kind == "sd1":
        return diffusers.PNDMScheduler(**_NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    return diffusers.DDIMScheduler(
        **_NOISE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
