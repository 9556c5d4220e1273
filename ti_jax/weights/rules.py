"""Names and layouts in checkpoints and in our networks, as tables that are read in both directions.

Our networks are named as diffusers and transformers name theirs; only the last part of a name and the layout differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

Transform = Literal["copy", "transpose", "conv", "flatten_conv"]
"""copy; a linear layer's [out, in] to [in, out]; a convolution's OIHW to HWIO; a 1x1 convolution to a linear layer."""


@dataclass(frozen=True)
class Rule:
    """One way a tensor of a checkpoint becomes a parameter.

    Args:
        theirs: the last part of its name in the checkpoint.
        ours: the last part of the parameter's name; the parts before are the same.
        transform: from their layout to ours.
        ndim: dimensions of the checkpoint's tensor; any if None.
        where: regular expression that the parts before match, whole.
        legacy: read, but never written.
    """

    theirs: str
    ours: str
    transform: Transform = "copy"
    ndim: int | None = None
    where: str = ".*"
    legacy: bool = False


@dataclass(frozen=True)
class Rules:
    """How the tensors of one kind of network are named.

    Args:
        rules: exactly one must fit a tensor.
        old_names: (pattern, replacement) pairs that bring names of other versions to today's.
        ignore: patterns of names that need not fit any parameter.
    """

    rules: tuple[Rule, ...]
    old_names: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()


_EMBEDDING = r".*_embedding"
_OTHER_THAN_EMBEDDING = r"(?!.*_embedding$).*"
_VAE_ATTENTION = r".*attentions\.0\.to_\w+(\.0)?"

_COMMON = (
    Rule("bias", "bias"),
    Rule("weight", "scale", ndim=1),
    Rule("weight", "kernel", "transpose", ndim=2, where=_OTHER_THAN_EMBEDDING),
)

CLIP_TEXT = Rules(
    (*_COMMON, Rule("weight", "embedding", ndim=2, where=_EMBEDDING)),
    # transformers 5 writes CLIPTextModel without the prefix that everything on the hub has.
    old_names=((r"^text_model\.", ""),),
    # Savers leave CLIP's projection, though nothing uses it of most encoders.
    ignore=(r"(text_model\.)?embeddings\.position_ids", r"text_projection\.weight", "logit_scale"),
)
CLIP = Rules(
    (
        *CLIP_TEXT.rules,
        Rule("weight", "kernel", "conv", ndim=4),
        Rule("class_embedding", "class_embedding"),
        Rule("logit_scale", "logit_scale"),
    ),
    ignore=(r"(text|vision)_model\.embeddings\.position_ids",),
)
_LDM_BERT_TABLE = r"model\.embed_\w+"
LDM_BERT = Rules(
    (
        Rule("bias", "bias"),
        Rule("weight", "scale", ndim=1),
        Rule("weight", "kernel", "transpose", ndim=2, where=rf"(?!{_LDM_BERT_TABLE}$).*"),
        Rule("weight", "embedding", ndim=2, where=_LDM_BERT_TABLE),
    ),
    ignore=(r"to_logits\..*",),  # for training it
)
UNET = Rules(
    (
        Rule("bias", "bias"),
        Rule("weight", "scale", ndim=1),
        Rule("weight", "kernel", "transpose", ndim=2),
        Rule("weight", "kernel", "conv", ndim=4),
    )
)
VAE = Rules(
    (
        *_COMMON,
        Rule("weight", "kernel", "conv", ndim=4, where=rf"(?!{_VAE_ATTENTION}$).*"),
        Rule("weight", "kernel", "flatten_conv", ndim=4, where=_VAE_ATTENTION, legacy=True),
    ),
    # diffusers before 0.18 named the attention otherwise, and the first checkpoints hold 1x1 convolutions there.
    old_names=(
        (r"\.attentions\.0\.query\.", ".attentions.0.to_q."),
        (r"\.attentions\.0\.key\.", ".attentions.0.to_k."),
        (r"\.attentions\.0\.value\.", ".attentions.0.to_v."),
        (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
    ),
)


def parameters_of(rules: Rules, name: str, ndim: int) -> list[tuple[str, Transform]]:
    """Every parameter that a checkpoint's tensor fits; there should be one.

    Args:
        rules: of the network.
        name: in the checkpoint.
        ndim: dimensions of the tensor.

    Returns:
        names of ours with the transforms.
    """
    for pattern, replacement in rules.old_names:
        name = re.sub(pattern, replacement, name)
    place, _, last = name.rpartition(".")
    return [
        (f"{place}.{rule.ours}" if place else rule.ours, rule.transform)
        for rule in rules.rules
        if rule.theirs == last and rule.ndim in (None, ndim) and re.fullmatch(rule.where, place)
    ]


def tensor_of(rules: Rules, name: str, ndim: int) -> tuple[str, Transform]:
    """The checkpoint's tensor that a parameter is written to: `parameters_of` the other way round."""
    place, _, last = name.rpartition(".")
    found: list[tuple[str, Transform]] = [
        (f"{place}.{rule.theirs}" if place else rule.theirs, rule.transform)
        for rule in rules.rules
        if rule.ours == last and rule.ndim in (None, ndim) and re.fullmatch(rule.where, place) and not rule.legacy
    ]
    (only,) = found
    return only


def is_ignored(rules: Rules, name: str) -> bool:
    """Whether a name in a checkpoint may hold no parameter."""
    return any(re.fullmatch(pattern, name) for pattern in rules.ignore)


def to_ours(transform: Transform, tensor: np.ndarray) -> np.ndarray:
    """A tensor of a checkpoint in our layout."""
    match transform:
        case "copy":
            return tensor
        case "transpose":
            return tensor.T
        case "conv":
            return tensor.transpose(2, 3, 1, 0)
        case "flatten_conv":
            return tensor[:, :, 0, 0].T


def to_theirs(transform: Transform, tensor: np.ndarray) -> np.ndarray:
    """A parameter in the checkpoint's layout."""
    match transform:
        case "copy":
            return tensor
        case "transpose":
            return tensor.T
        case "conv":
            return tensor.transpose(3, 2, 0, 1)
        case "flatten_conv":
            return tensor.T[:, :, None, None]


def our_shape(transform: Transform, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `to_ours` gives a tensor of a shape."""
    match transform:
        case "copy":
            return shape
        case "transpose":
            return shape[::-1]
        case "conv":
            return (shape[2], shape[3], shape[1], shape[0])
        case "flatten_conv":
            return (shape[1], shape[0])
