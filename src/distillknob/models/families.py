"""Which families of models can be used here, asked of every model once, before any work.

What every figure rests on is tried with a few tokens: that the logits are the head times what the body gives, that a
row scores the same beside a longer one, that no token sees what comes after it, and that writing token by token is what
reading the whole row is. A family that fails is refused with the reason, in every stage alike; those that are known to
fail are refused by name, from the config alone, so that a dry run refuses them too.
"""

from __future__ import annotations

from typing import Any

import torch

from distillknob.errors import BadInputError
from distillknob.models.caches import UNREADABLE, config_key, measure_cache
from distillknob.models.forward import forward_pass
from distillknob.models.heads import body_of, checked_head

_CAPPED = "it bends its logits behind the head in a way that neither TRL's losses nor ours know"
_AHEAD = "its tokens see what comes after them, so that a text has no score to be learnt from"
# By transformers' `model_type`. tests/models/test_families.py holds that each of them does fail.
REFUSED: dict[str, str] = {
    "rwkv": "it reads no attention mask, so that a row's score depends on the padding before it",
    "recurrent_gemma": f"{_CAPPED} (logits_soft_cap)",
    "xlstm": f"{_CAPPED} (output_logit_soft_cap)",
    "whisper": "it answers speech",
    "moshi": "it answers in speech",
}
_SHORT, _LONG, _WRITTEN = 6, 9, 2  # tokens
# How far two ways to the same logits may lie apart, as a share of how far the logits of a row do from each other:
# rounding in float32, and in shorter types a mixture of experts that sends a token elsewhere.
_EXACT, _ROUNDED = 5e-3, 0.2
_TRIED: set[tuple[str, torch.dtype, str]] = set()


def check_config(config: Any, name: str) -> None:
    """Raise BadInputError for a family that is known to be unusable, and for a model that reads a text with another
    part than it writes one."""
    text = config.get_text_config(decoder=True)
    for model_type in dict.fromkeys((config.model_type, text.model_type)):
        if model_type in REFUSED:
            raise _refused(name, model_type, REFUSED[model_type])
    if hasattr(text, "index_topk"):
        raise _refused(name, text.model_type, "its sparse attention picks other tokens to write from than to read with")
    if getattr(config, "is_encoder_decoder", False):
        raise _refused(name, config.model_type, "an encoder reads the prompt and a decoder writes the answer")
    if getattr(text, "is_decoder", True) is False and hasattr(text, "add_cross_attention"):
        raise _refused(name, text.model_type, f"{_AHEAD} (is_decoder is false in its config)")


def check_family(model: Any, name: str) -> None:
    """Raise BadInputError for a model, whole on its device, that can't be used. Each config is tried once a process: a
    forward pass of a few tokens, five times."""
    check_config(model.config, name)
    if model.base_model is model and isinstance(getattr(model, "model", None), torch.nn.Module):
        model.base_model_prefix = "model"  # Llama 4's names another attribute, and TRL's losses go by it too
    key = (config_key(model.config), model.dtype, model.device.type)
    if key in _TRIED:
        return
    try:
        problem = _problem(model)
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _refused(name, model.config.model_type, f"it can't read a text alone ({first})") from error
    if problem is not None:
        raise _refused(name, model.config.model_type, problem)
    measure_cache(model)
    _TRIED.add(key)


def rope_switch(config: Any) -> int | None:
    """The length, in tokens, beyond which the longest row of a batch changes the positions of all others (LongRoPE with
    two sets of factors); None where there is none."""
    text = config.get_text_config(decoder=True)
    parameters = getattr(text, "rope_parameters", None) or {}
    lengths = []
    for kind in [part for part in parameters.values() if isinstance(part, dict)] or [parameters]:
        if kind.get("rope_type") == "longrope" and [*kind["short_factor"]] != [*kind["long_factor"]]:
            lengths.append(kind.get("original_max_position_embeddings") or text.max_position_embeddings)
    return min(lengths, default=None)


def check_length(config: Any, longest: int) -> None:
    """Raise BadInputError for rows of up to `longest` tokens that cross the length at which LongRoPE changes over."""
    switch = rope_switch(config)
    if switch is not None and longest > switch:
        raise BadInputError(
            f"a row of {longest} tokens is beyond the {switch} up to which this {config.model_type!r} model has the "
            "short factors of its LongRoPE: a longer row gives the long ones to all rows beside it, and to an answer "
            f"that was begun with the short ones, so that no text has one score. Keep prompts and answers within "
            f"{switch} tokens, or set short_factor to long_factor in the model's config.json"
        )


def _refused(name: str, model_type: str, reason: str) -> BadInputError:
    return BadInputError(
        f"{name!r} is a {model_type!r} model, which can't be used here: {reason}. docs/reference/families.md lists "
        "those that can"
    )


@torch.no_grad()
def _problem(model: Any) -> str | None:
    """What is wrong with the model's logits; None if nothing is."""
    head = checked_head(model)
    ids_3T, mask_3T = plain_rows(model.config, model.device)
    short = ids_3T[0, -_SHORT:]
    alone_TV = forward_pass(model, input_ids=short[None], use_cache=False).logits[0]
    hidden_3TH = forward_pass(
        body_of(model),
        input_ids=ids_3T,
        attention_mask=mask_3T,
        position_ids=(mask_3T.cumsum(-1) - 1).clamp(min=0),
        use_cache=False,
    ).last_hidden_state
    beside_3TV = head.logits(hidden_3TH[:, -_SHORT:].flatten(0, 1)).view(3, _SHORT, -1)
    limit = _EXACT if model.dtype in (torch.float32, torch.float64) else _ROUNDED
    if _apart(beside_3TV[0], alone_TV) > limit:
        return "behind padding, as in a batch of several lengths, a row scores otherwise than alone"
    if _apart(beside_3TV[1, :-1], alone_TV[:-1]) > limit:
        return _AHEAD
    written_TV, new = _written(model, ids_3T[[0, 2]], mask_3T[[0, 2]])
    read_TV = forward_pass(model, input_ids=torch.cat([short, new])[None], use_cache=False).logits[0, _SHORT - 1 : -1]
    if _apart(written_TV, read_TV) > limit:
        return "what it writes token by token has other probabilities than what it reads as a whole"
    return None


def plain_rows(config: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Make three rows [3, T] and their mask: a short one, padded on the left, the same with another last token, and a
    longer one; of tokens without a meaning of their own."""
    text = config.get_text_config(decoder=True)
    named = {**vars(config), **vars(text)}
    special = {
        value for key, value in named.items() if key.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    step = max(1, text.vocab_size // (2 * _LONG + 2))
    plain = [token for token in range(1, text.vocab_size, step) if token not in special] or [0]
    plain = (plain * (_LONG + _SHORT + 1))[: _LONG + _SHORT + 1]
    rows = torch.tensor([plain[:_LONG], [*plain[: _LONG - 1], plain[-1]], plain[_SHORT : _SHORT + _LONG]])
    mask = torch.ones_like(rows)
    mask[:2, : _LONG - _SHORT] = 0
    return rows.to(device), mask.to(device)


def _written(model: Any, ids_2T: torch.Tensor, mask_2T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [T, V] from which the next tokens of the first of two rows are written, and these tokens."""
    from transformers import GenerationConfig

    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=_WRITTEN,
        min_new_tokens=_WRITTEN,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    own, model.generation_config = model.generation_config, settings  # a checkpoint's would fill what is left open
    try:
        output = model.generate(
            input_ids=ids_2T,
            attention_mask=mask_2T,
            generation_config=settings,
            synced_gpus=False,
        )
    finally:
        model.generation_config = own
    return torch.stack(output.logits, dim=1)[0], output.sequences[0, ids_2T.size(1) :]


def _apart(one_TV: torch.Tensor, other_TV: torch.Tensor) -> float:
    """How far two sets of logits lie apart, up to a constant a row, as a share of their own spread."""
    one, other = (rows.float() - rows.float().mean(-1, keepdim=True) for rows in (one_TV, other_TV.to(one_TV.device)))
    width = min(one.size(-1), other.size(-1))
    return float((one[..., :width] - other[..., :width]).norm() / other.norm().clamp(min=1e-6))
