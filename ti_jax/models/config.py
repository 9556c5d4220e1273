"""Reading the `config.json` of a diffusers or transformers model, strictly."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ti_jax.errors import UserError

Config = TypeVar("Config")


def read_config(kind: type[Config], values: Mapping[str, Any], *, neutral: Mapping[str, Any], what: str) -> Config:
    """A config dataclass from a JSON object.

    Args:
        kind: a frozen dataclass; its fields are the keys that are implemented, its defaults the reference's.
        values: the JSON object. Keys beginning with `_` are ignored; lists become tuples.
        neutral: keys that are not implemented, with the value at which they change nothing. A tuple holds several.
        what: names the file in messages.

    Returns:
        the config; keys that are missing take the defaults.

    Raises:
        UserError: naming every key that is neither implemented nor neutral, and every value of a wrong type.
    """
    fields = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name in fields}
    known: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in values.items():
        if key.startswith("_"):
            continue
        if key in hints:
            known[key] = _as_python(value, hints[key])
            if not (_is_of_type(known[key], hints[key]) and _is_in_range(key, known[key])):
                problems.append(f"{key} = {value!r} is not a valid value")
        elif key not in neutral:
            problems.append(f"{key} = {value!r} is not known")
        elif not _is_neutral(value, neutral[key]):
            problems.append(f"{key} = {value!r} is not supported")
    if problems:
        raise UserError(f"{what}: {'; '.join(problems)}")
    return kind(**known)


def check_divides(what: str, name: str, parts: int, wholes: Iterable[int]) -> None:
    """Raises UserError unless a number of parts, such as heads, divides every width.

    Args:
        what: names the network in messages.
        name: of the number.
        parts: the number.
        wholes: the widths.
    """
    for whole in wholes:
        if parts < 1 or whole < 1 or whole % parts:
            raise UserError(f"{what}: {name} = {parts} does not divide {whole}")


ANY = object()
"""As a neutral value: the key never changes what the network computes here."""

_TRANSFORMERS_KEYS = """
architectures dtype torch_dtype transformers_version use_cache tie_word_embeddings
bad_words_ids begin_suppress_tokens chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
forced_bos_token_id forced_eos_token_id id2label is_encoder_decoder label2id length_penalty max_length min_length
no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores
prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k
top_p torchscript typical_p use_bfloat16
"""
TRANSFORMERS_KEYS = tuple(_TRANSFORMERS_KEYS.split())
"""Keys of transformers that touch no text encoder; old files hold every generation default of version 4."""


def _is_neutral(value: Any, neutral: Any) -> bool:
    if neutral is ANY:
        return True
    return value in neutral if isinstance(neutral, tuple) else value == neutral


def _as_python(value: Any, hint: Any) -> Any:
    """A JSON value: arrays become tuples, and whole numbers floats where those are wanted."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if hint is float and type(value) is int else value


def _is_in_range(key: str, value: Any) -> bool:
    """Whether sizes are no less than nothing, and not more than can be built: nobody has a thousand layers."""
    largest = 1000 if "layers" in key else 2**31
    return all(0 <= item <= largest for item in (value if isinstance(value, tuple) else (value,)) if type(item) is int)


def _is_of_type(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type: a plain class, a tuple of one, or a union of these."""
    if isinstance(hint, types.UnionType):
        return any(_is_of_type(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        element, *rest = typing.get_args(hint)
        fixed = rest and rest != [...]
        return (
            isinstance(value, tuple)
            and (not fixed or len(value) == 1 + len(rest))
            and all(_is_of_type(item, element) for item in value)
        )
    return type(value) is hint  # so that True is no number
