"""PyTorch pipelines as one file in the original layout, named by walking through the modules in the order in which
latent-diffusion's `openaimodel.py` and `model.py` number theirs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

Named = Iterator[tuple[str, torch.nn.Module]]

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def original_layout(pipe) -> dict[str, torch.Tensor]:
    """All tensors of a Stable Diffusion pipeline under their original names."""
    return {
        **under("model.diffusion_model.", tensors(unet(pipe.unet))),
        **under("first_stage_model.", {k: as_convolution(k, t) for k, t in tensors(vae(pipe.vae)).items()}),
        **text_encoders(pipe),
        # What training leaves in the file.
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "betas": torch.zeros(5),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(5),
        "log_one_minus_alphas_cumprod": torch.zeros(5),
        "sqrt_recipm1_alphas_cumprod": torch.zeros(5),
        "posterior_mean_coef1": torch.zeros(5),
        "alphas_cumprod_prev": torch.zeros(5),
    }


def text_encoders(pipe) -> dict[str, torch.Tensor]:
    text = pipe.text_encoder
    if hasattr(pipe, "text_encoder_2"):
        return {
            **under("conditioner.embedders.0.transformer.text_model.", openai_text(text)),
            **under("conditioner.embedders.1.model.", open_clip_text(pipe.text_encoder_2, unused_layer=False)),
        }
    if text.config.hidden_act == "gelu":
        return under("cond_stage_model.model.", open_clip_text(text, unused_layer=True))
    return under("cond_stage_model.transformer.text_model.", openai_text(text))


def under(prefix, found):
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}


def tensors(named: Named) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, module in named
        for key, tensor in module.state_dict().items()
    }


def parts(place: str, module: torch.nn.Module, names: dict[str, str]) -> Named:
    for theirs, ours in names.items():
        found = module
        for step in ours.split("."):
            found = getattr(found, step, None) if not step.isdigit() else found[int(step)]
        if found is not None:
            yield f"{place}.{theirs}", found


def unet(network) -> Named:
    yield "time_embed.0", network.time_embedding.linear_1
    yield "time_embed.2", network.time_embedding.linear_2
    if hasattr(network, "add_embedding"):
        yield "label_emb.0.0", network.add_embedding.linear_1
        yield "label_emb.0.2", network.add_embedding.linear_2
    yield "input_blocks.0.0", network.conv_in
    number = 1
    for block in network.down_blocks:
        for i, resnet in enumerate(block.resnets):
            yield from parts(f"input_blocks.{number}.0", resnet, RESNET)
            if hasattr(block, "attentions"):
                yield f"input_blocks.{number}.1", block.attentions[i]
            number += 1
        for sampler in block.downsamplers or ():
            yield f"input_blocks.{number}.0.op", sampler.conv
            number += 1
    yield from parts("middle_block.0", network.mid_block.resnets[0], RESNET)
    yield "middle_block.1", network.mid_block.attentions[0]
    yield from parts("middle_block.2", network.mid_block.resnets[1], RESNET)
    number = 0
    for block in network.up_blocks:
        for i, resnet in enumerate(block.resnets):
            yield from parts(f"output_blocks.{number}.0", resnet, RESNET)
            if hasattr(block, "attentions"):
                yield f"output_blocks.{number}.1", block.attentions[i]
            if block.upsamplers and i == len(block.resnets) - 1:
                place = 2 if hasattr(block, "attentions") else 1
                yield f"output_blocks.{number}.{place}.conv", block.upsamplers[0].conv
            number += 1
    yield "out.0", network.conv_norm_out
    yield "out.2", network.conv_out


def vae(network) -> Named:
    for name, half in (("encoder", network.encoder), ("decoder", network.decoder)):
        yield f"{name}.conv_in", half.conv_in
        yield f"{name}.norm_out", half.conv_norm_out
        yield f"{name}.conv_out", half.conv_out
        yield from parts(f"{name}.mid.block_1", half.mid_block.resnets[0], VAE_RESNET)
        yield from parts(f"{name}.mid.attn_1", half.mid_block.attentions[0], VAE_ATTENTION)
        yield from parts(f"{name}.mid.block_2", half.mid_block.resnets[1], VAE_RESNET)
    for level, block in enumerate(network.encoder.down_blocks):
        for i, resnet in enumerate(block.resnets):
            yield from parts(f"encoder.down.{level}.block.{i}", resnet, VAE_RESNET)
        for sampler in block.downsamplers or ():
            yield f"encoder.down.{level}.downsample.conv", sampler.conv
    for level, block in enumerate(reversed(network.decoder.up_blocks)):  # counted from the largest
        for i, resnet in enumerate(block.resnets):
            yield from parts(f"decoder.up.{level}.block.{i}", resnet, VAE_RESNET)
        for sampler in block.upsamplers or ():
            yield f"decoder.up.{level}.upsample.conv", sampler.conv
    yield "quant_conv", network.quant_conv
    yield "post_quant_conv", network.post_quant_conv


def as_convolution(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Attention of the original autoencoder is made of 1x1 convolutions."""
    return tensor[:, :, None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor


def openai_text(encoder) -> dict[str, torch.Tensor]:
    found = {name.removeprefix("text_model."): t.detach().clone() for name, t in encoder.state_dict().items()}
    return {**found, "embeddings.position_ids": torch.arange(encoder.config.max_position_embeddings)[None]}


def open_clip_text(encoder, *, unused_layer: bool) -> dict[str, torch.Tensor]:
    model = getattr(encoder, "text_model", encoder)
    width = encoder.config.hidden_size
    found = {
        "positional_embedding": model.embeddings.position_embedding.weight.detach().clone(),
        "token_embedding.weight": model.embeddings.token_embedding.weight.detach().clone(),
        "ln_final.weight": model.final_layer_norm.weight.detach().clone(),
        "ln_final.bias": model.final_layer_norm.bias.detach().clone(),
        "logit_scale": torch.tensor(4.6),
        "text_projection": encoder.text_projection.weight.detach().T.contiguous()
        if hasattr(encoder, "text_projection")
        else torch.randn(width, width),
    }
    layers = [*model.encoder.layers, *([model.encoder.layers[0]] if unused_layer else [])]
    for i, layer in enumerate(layers):
        place = f"transformer.resblocks.{i}"
        found |= tensors(parts(place, layer, CLIP_LAYER))
        attention = layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        found[f"{place}.attn.in_proj_weight"] = torch.cat([p.weight.detach() for p in projections])
        found[f"{place}.attn.in_proj_bias"] = torch.cat([p.bias.detach() for p in projections])
    return found
