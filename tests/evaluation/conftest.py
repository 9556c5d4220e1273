"""A CLIP of random weights, in a folder, as PyTorch opens it and as we do."""

import pytest
import torch
import transformers
from twins import VOCABULARY, shake, write_tokenizer

from ti_jax.evaluation.clip import load_clip

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """As transformers writes it today."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(3)
    config = transformers.CLIPConfig(
        text_config={**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 24, "eos_token_id": VOCABULARY - 1},
        vision_config={**SIZES, "image_size": 24, "patch_size": 8},
        projection_dim=20,
    )
    model = transformers.CLIPModel(config)
    shake(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 26}, crop_size=24).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reference(clip_folder):
    """PyTorch's."""
    return transformers.CLIPModel.from_pretrained(clip_folder).eval()


@pytest.fixture(scope="session")
def clip(clip_folder):
    """Ours."""
    return load_clip(clip_folder)


@pytest.fixture(scope="session")
def theirs(clip_folder, reference):
    """Unit vectors of pictures and of texts, by transformers from end to end."""
    processor = transformers.CLIPImageProcessorPil.from_pretrained(clip_folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip_folder)

    def unit(features):
        return torch.nn.functional.normalize(features.pooler_output, dim=-1).numpy()

    @torch.no_grad()
    def vectors(pictures=None, texts=None):
        if texts is not None:
            tokens = tokenizer(texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
            return unit(reference.get_text_features(input_ids=tokens.input_ids))
        pixels = processor(list(pictures), return_tensors="pt").pixel_values
        return unit(reference.get_image_features(pixel_values=pixels))

    return vectors
