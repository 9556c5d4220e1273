"""How pictures are prepared for CLIP, against transformers."""

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ti_jax.errors import UserError
from ti_jax.evaluation.preprocessing import Preprocessing

# `preprocessor_config.json` of openai/clip-vit-base-patch32.
OLD = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


def random_picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(10, 70), st.integers(10, 70), st.integers(12, 40), st.integers(0, 11), st.sampled_from([2, 3]))
@settings(max_examples=60, deadline=None)
def test_as_transformers_does(height, width, shorter_side, less, resample):
    side = shorter_side - less
    theirs = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": shorter_side}, crop_size=side, resample=resample, image_mean=[0.1, 0.5, 0.6]
    )
    picture = random_picture(height, width)
    expected = theirs([picture], return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    np.testing.assert_allclose(Preprocessing.from_dict(theirs.to_dict())(picture), expected, rtol=0, atol=1e-5)


def test_old_files():
    picture = random_picture(300, 260)
    expected = transformers.CLIPImageProcessorPil(**OLD)([picture], return_tensors="np").pixel_values[0]
    ours = Preprocessing.from_dict(OLD)
    np.testing.assert_allclose(ours(picture), expected.transpose(1, 2, 0), rtol=0, atol=1e-5)
    assert ours == Preprocessing.from_dict({})


@pytest.mark.parametrize(
    "values",
    [
        {"do_center_crop": False},
        {"do_normalize": False},
        {"size": {"height": 224, "width": 300}},
        {"crop_size": {"height": 224, "width": 200}},
        {"crop_size": 300},
        {"size": "large"},
    ],
    ids=str,
)
def test_what_is_not_supported(values):
    with pytest.raises(UserError, match="not supported"):
        Preprocessing.from_dict(values)
