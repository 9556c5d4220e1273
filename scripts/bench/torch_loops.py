"""Textual Inversion and generation in PyTorch, on the public interfaces of diffusers and transformers.

`example_step` is the loop of diffusers' `examples/textual_inversion/textual_inversion.py` with its defaults: every step
encodes its pictures, the optimiser holds the whole table of embeddings, and all rows but the new one are put back.
`lean_step` is the same loop with what ti_jax does differently: latents are encoded once, and the optimiser holds the
new row alone. What is between the two is won by the ideas; what is between the second and ti_jax, by the compiler.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

diffusers: Any = importlib.import_module("diffusers")  # whose names are made at run time, unseen by a type checker

WORD = "<thing>"


class Parts(NamedTuple):
    """A frozen pipeline with a word added to its tokenizer, and what every step takes."""

    text_encoder: Any
    vae: Any
    unet: Any
    scheduler: Any
    ids: torch.Tensor
    row: int
    pixels: torch.Tensor


def products_in(dtype: str) -> None:
    """Sets what PyTorch multiplies in on a CPU: whether products and convolutions of float32 are of bfloat16."""
    backends: Any = torch.backends  # which makes its settings at run time, unseen by a type checker
    backends.fp32_precision = {"float32": "ieee", "bfloat16": "bf16"}[dtype]


def load(
    model: str, pictures: np.ndarray, prompt: str, batch_size: int, *, device: str = "cpu", dtype: str = "float32"
) -> Parts:
    """Opens a model as the example does.

    Args:
        model: a folder in diffusers format.
        pictures: uint8 [n, h, w, 3].
        prompt: with `{}` for the word.
        batch_size: examples in a step.
        device: as PyTorch calls it.
        dtype: of the UNet and the autoencoder; what is trained stays in float32 and is computed with under autocast,
            as by the example's `--mixed_precision`.

    Returns:
        what the steps take.
    """
    torch.manual_seed(0)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
    text_encoder: Any = transformers.CLIPTextModel.from_pretrained(model, subfolder="text_encoder").float()
    vae = diffusers.AutoencoderKL.from_pretrained(model, subfolder="vae")
    unet = diffusers.UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    tokenizer.add_tokens([WORD])
    text_encoder.resize_token_embeddings(len(tokenizer))
    for network in (text_encoder, vae, unet):
        network.requires_grad_(False)
    text_encoder.to(device)
    for network in (vae, unet):
        network.to(device, getattr(torch, dtype))
    text_encoder.train()
    ids = tokenizer([prompt.format(WORD)] * batch_size, padding="max_length", truncation=True, return_tensors="pt")
    return Parts(
        text_encoder,
        vae,
        unet,
        diffusers.DDPMScheduler.from_pretrained(model, subfolder="scheduler"),
        ids.input_ids.to(device),
        tokenizer.convert_tokens_to_ids(WORD),
        torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device, vae.dtype) / 127.5 - 1,
    )


def example_step(parts: Parts) -> Callable[[], float]:
    """One call is one step of the example."""
    table = parts.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    original = table.detach().clone()
    others = torch.arange(len(table), device=table.device) != parts.row
    optimizer = _adamw(table)

    def step() -> float:
        pixels = parts.pixels[torch.randint(len(parts.pixels), (len(parts.ids),))]
        latents = parts.vae.encode(pixels).latent_dist.sample().detach() * parts.vae.config.scaling_factor
        loss = _update(parts, latents, optimizer)
        with torch.no_grad():
            table[others] = original[others]
        return loss

    return step


def lean_step(parts: Parts) -> Callable[[], float]:
    """One call is one step with encoded pictures and the new row alone in the optimiser."""
    table = parts.text_encoder.get_input_embeddings().weight
    row = table[parts.row].clone().requires_grad_(True)
    parts.text_encoder.set_input_embeddings(_WithRow(table, parts.row, row))
    with torch.no_grad():
        encoded = [parts.vae.encode(pixels[None]).latent_dist for pixels in parts.pixels]
        mean, deviation = (torch.cat([getattr(e, name) for e in encoded]) for name in ("mean", "std"))
    optimizer = _adamw(row)

    def step() -> float:
        some = torch.randint(len(mean), (len(parts.ids),))
        latents = (mean[some] + deviation[some] * torch.randn_like(mean[some])) * parts.vae.config.scaling_factor
        return _update(parts, latents, optimizer)

    return step


def generator(
    model: str, prompt: str, sampling_steps: int, *, device: str = "cpu", dtype: str = "float32"
) -> Callable[[], np.ndarray]:
    """One call draws one picture by DDIM, guided."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe = pipe.to(device, getattr(torch, dtype))
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> np.ndarray:
        return pipe(prompt, num_inference_steps=sampling_steps, guidance_scale=5.0, output_type="np").images

    return draw


class _WithRow(torch.nn.Module):
    """A table of embeddings with one row of its own."""

    def __init__(self, table: torch.Tensor, index: int, row: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.index, self.row = table, index, row

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.where((ids == self.index)[..., None], self.row, torch.nn.functional.embedding(ids, self.weight))


def _adamw(parameter: torch.Tensor) -> torch.optim.AdamW:
    return torch.optim.AdamW([parameter], lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)


def _update(parts: Parts, latents: torch.Tensor, optimizer: torch.optim.AdamW) -> float:
    """Noise, prediction, gradient, step."""
    noise = torch.randn_like(latents)
    timesteps = torch.randint(parts.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
    noisy = parts.scheduler.add_noise(latents, noise, timesteps)
    dtype = parts.unet.dtype
    with torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
        context = parts.text_encoder(parts.ids)[0].to(dtype)
        predicted = parts.unet(noisy, timesteps, context).sample
    loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
