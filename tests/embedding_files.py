"""Contents of embedding files as each program writes them, for the tests of the formats."""

import numpy as np
import torch
from safetensors.torch import save_file as save_safetensors

random = np.random.default_rng(0)
VECTORS, OTHER = (torch.tensor(random.normal(size=(2, 8)), dtype=torch.float32) for _ in range(2))
WIDE = torch.tensor(random.normal(size=(2, 12)), dtype=torch.float32)
LORA = {"lora_unet_down.lora_up.weight": torch.ones(4, 4), "lora_unet_down.alpha": torch.tensor(4)}


def a1111(parameters, **others):
    """As A1111 saves it: any trigger stands as `*`."""
    return {"string_to_token": {"*": 265}, "string_to_param": parameters, **others}


def official(**words):
    """As the paper's code saves `embeddings.pt`."""
    parameters = torch.nn.ParameterDict({word: torch.nn.Parameter(vectors) for word, vectors in words.items()})
    return {"string_to_token": {word: torch.tensor(265) for word in words}, "string_to_param": parameters}


def old_official():
    """As torch 1.11 pickled it: a ParameterDict that knows its parameters, but not its keys."""
    content = official(**{"*": VECTORS})
    del content["string_to_param"].__dict__["_keys"]
    return content


ONE = {"text_encoder": VECTORS}
TWO = {"text_encoder": VECTORS, "text_encoder_2": WIDE}

# File name: content, word, vectors by encoder.
LAYOUTS = {
    "diffusers.safetensors": ({"<fox>": VECTORS}, "<fox>", ONE),
    "diffusers-half.safetensors": ({"<fox>": VECTORS.half()}, "<fox>", {"text_encoder": VECTORS.half()}),
    "diffusers-bfloat16.safetensors": ({"<fox>": VECTORS.bfloat16()}, "<fox>", {"text_encoder": VECTORS.bfloat16()}),
    "diffusers-double.safetensors": ({"<fox>": VECTORS.double()}, "<fox>", ONE),
    "diffusers-1d.safetensors": ({"<fox>": VECTORS[0].clone()}, "<fox>", {"text_encoder": VECTORS[:1]}),
    "diffusers.bin": ({"<fox>": VECTORS}, "<fox>", ONE),
    "diffusers-1d.bin": ({"<fox>": VECTORS[0].clone()}, "<fox>", {"text_encoder": VECTORS[:1]}),
    "diffusers-half.bin": ({"<fox>": VECTORS.half()}, "<fox>", {"text_encoder": VECTORS.half()}),
    "diffusers-bfloat16.bin": ({"<fox>": VECTORS.bfloat16()}, "<fox>", {"text_encoder": VECTORS.bfloat16()}),
    "kohya.safetensors": ({"emb_params": VECTORS}, "kohya", ONE),
    "kohya.pt": ({"emb_params": VECTORS}, "kohya", ONE),
    "onetrainer.safetensors": ({"emp_params": VECTORS}, "onetrainer", ONE),
    "onetrainer-both.safetensors": ({"emp_params": VECTORS, "emp_params_out": OTHER}, "onetrainer-both", ONE),
    "sdxl.safetensors": ({"clip_g": WIDE, "clip_l": VECTORS}, "sdxl", TWO),
    "sdxl.pt": ({"clip_l": VECTORS, "clip_g": WIDE}, "sdxl", TWO),
    "clip_l.safetensors": ({"clip_l": VECTORS}, "clip_l", ONE),
    "embeddings.pti": ({"text_encoders_0": VECTORS, "text_encoders_1": WIDE}, "embeddings", TWO),
    "advanced-sd15.safetensors": ({"text_encoders_0": VECTORS}, "advanced-sd15", ONE),
    "bundle.safetensors": ({**LORA, "bundle_emb.<fox>.clip_l": VECTORS, "bundle_emb.<fox>.clip_g": WIDE}, "<fox>", TWO),
    "bundle-dot.safetensors": ({**LORA, "bundle_emb.fox.v1.emb_params": VECTORS}, "fox.v1", ONE),
    "bundle-a1111.safetensors": ({**LORA, "bundle_emb.fox.string_to_param.*": VECTORS}, "fox", ONE),
    "bundle-bare.safetensors": ({**LORA, "bundle_emb.fox": VECTORS}, "fox", ONE),
    "a1111.pt": (a1111({"*": torch.nn.Parameter(VECTORS)}, name="fox", step=9, sd_checkpoint=None), "fox", ONE),
    "a1111-no-name.pt": (a1111({"*": VECTORS}, name=None), "a1111-no-name", ONE),
    "a1111-word.pt": (a1111({"<fox>": VECTORS}, name="fox"), "<fox>", ONE),
    "official.pt": (official(**{"*": VECTORS}), "official", ONE),
    "official-1.11.pt": (old_official(), "official-1.11", ONE),
    "star.safetensors": ({"*": VECTORS}, "star", ONE),
    "scalars.bin": ({"<fox>": VECTORS, "step": 500, "initializer": "fox"}, "<fox>", ONE),
    "encoders.safetensors": ({"text_encoder": VECTORS, "text_encoder_2": WIDE}, "encoders", TWO),
    "bare.pt": (VECTORS, "bare", ONE),
    "bare-parameter.bin": (torch.nn.Parameter(VECTORS), "bare-parameter", ONE),
}


def save(content, file, metadata=None):
    if file.suffix in (".safetensors", ".pti"):
        save_safetensors(content, file, metadata)
    else:
        torch.save(content, file)
