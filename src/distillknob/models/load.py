"""Loading causal language models and their tokenizers, checked before any long work starts.

A model is named by a folder, a GGUF file, a hub id, or `zoo:NAME` (see `names`). Knows no task. Left out on purpose:
wrappers around transformers' own classes. What comes back is an ordinary model and an ordinary tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError, first_line
from distillknob.models.architecture import architecture, model_config
from distillknob.models.base import LanguageModel
from distillknob.models.chat import turn_end
from distillknob.models.checkpoint_files import adapter_base, check_tokenizer_files, is_adapter
from distillknob.models.dtypes import dtype_on, own_dtype
from distillknob.models.names import SERVED, resolve
from distillknob.models.whole_weights import whole_weights, with_adapter
from distillknob.runtime.checkpoint import load_whole
from distillknob.runtime.processes import device as own_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# save_pretrained writes the second of every tokenizer; older checkpoints have one of the others alone.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str, vocab_size: int) -> None:
    """Raise BadInputError for a tokenizer that a stage could only fail on later: no eos, no pad, no chat template, or
    more tokens than the model has embeddings (`vocab_size`)."""
    if tokenizer.eos_token_id is None:
        raise BadInputError(
            f"the tokenizer of {name!r} has no eos token, so no answer could ever end: set tokenizer.eos_token and "
            "save it beside the model"
        )
    if tokenizer.pad_token_id is None:
        raise BadInputError(
            f"the tokenizer of {name!r} has no pad token: set tokenizer.pad_token (to its eos token "
            f"{tokenizer.eos_token!r}, if it has nothing better) and save it beside the model"
        )
    if tokenizer.chat_template is None:
        raise BadInputError(
            f"the tokenizer of {name!r} has no chat template, so a prompt can't be told from an answer: set "
            "tokenizer.chat_template and save it beside the model"
        )
    beyond = [n for n in tokenizer.get_vocab().values() if n >= vocab_size] if len(tokenizer) > vocab_size else []
    added, meant = tokenizer.added_tokens_decoder, {tokenizer.eos_token_id, tokenizer.pad_token_id}
    # Special tokens of another use may lie there, which no text has: Gemma 3 1B has the tokenizer of its siblings that
    # see, with a token for images and no embedding for it.
    if any(number in meant or number not in added or not added[number].special for number in beyond):
        raise BadInputError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens but the model only {vocab_size} embeddings: they "
            "don't belong together, or the model needs model.resize_token_embeddings(len(tokenizer))"
        )


def check_device(setting: str, name: str) -> None:
    """Raise BadInputError for what isn't the name of a device. Is it there? That is asked where it is used: a config
    may be checked on another machine."""
    import torch

    try:
        torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"{setting}={name!r} is no device: give cpu, cuda or cuda:1") from error


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, padding on the left. Raises BadInputError if there is none."""
    from transformers import AutoTokenizer

    where = resolve(name)
    # Asked before transformers is, which makes up an empty tokenizer for some architectures.
    if Path(where).is_dir() and not any((Path(where) / file).exists() for file in TOKENIZER_FILES):
        raise BadInputError(
            f"the folder {name!r} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}): save it beside the "
            f"model, tokenizer.save_pretrained({name!r})"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            where, padding_side="left", revision=revision or "main"
        )
    except Exception as error:  # the package tokenizers raises no narrower class for a file that it can't read
        check_tokenizer_files(Path(where))
        raise BadInputError(
            f"can't load a tokenizer from {name!r}: {first_line(error).rstrip('.')}{_remedy(where)}"
        ) from error
    return tokenizer


def load_model(
    name: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
    whole: bool = False,
) -> LanguageModel:
    """Load a model and its tokenizer, ready: checked, in evaluation mode, on `device` (default: this process's
    accelerator, if there is one). `dtype` defaults to the checkpoint's own on an accelerator, and on a CPU to what
    `dtypes` says; `options` go to transformers' `from_pretrained` (revision, attn_implementation …).

    A folder with a LoRA adapter gives its base model with the adapter merged into it in float32, and at work beside it
    in a shorter type: an adapter's changes are lost in the rounding of bfloat16 weights. `whole` asks for float32 and
    merged whatever the type, to be trained or saved.

    Raises BadInputError for a checkpoint that isn't there or can't be used, with the remedy.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    from distillknob.models.families import check_config, check_family

    where = resolve(name)
    if device is not None:
        check_device("device", device)
    if where.startswith(SERVED):
        raise BadInputError(
            f"{name!r} stands behind a server, but this needs the weights themselves: give a folder or id"
        )
    options = dict(options or {})
    tokenizer = load_tokenizer(name, revision=options.get("revision"))
    try:
        if is_adapter(where):
            config, _ = model_config(name)  # its base's
        else:
            config = AutoConfig.from_pretrained(where, revision=options.get("revision"))
            check_config(config, name)
            check_tokenizer(tokenizer, name, config.get_text_config().vocab_size)
        if device is None:
            device = own_device()
        if dtype is None and "dtype" not in options:
            dtype = dtype_on(device, own_dtype(config), lambda: architecture(name).parameters)
        options = {"dtype": dtype, **options}
        with whole_weights():
            where = resolve(name, weights=True)
            model: Any = (
                _adapted(where, tokenizer, {**options, "dtype": "float32"} if whole else options)
                if is_adapter(where)
                else load_whole(AutoModelForCausalLM, where, name, **options)
            )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError, SafetensorError) as error:
        # Of a family's own code too: a config that it can't read, a package that it needs.
        raise BadInputError(f"can't load a causal language model from {name!r}: {first_line(error)}") from error
    check_tokenizer(tokenizer, name, model.get_input_embeddings().num_embeddings)
    check_finite(model, name)
    try:
        model.to(device)
    except (AssertionError, RuntimeError) as error:  # a torch without CUDA, a number that isn't there, no memory left
        raise BadInputError(f"can't put {name!r} on the device {device!r}: {first_line(error)}") from error
    language_model = LanguageModel(model.eval(), tokenizer)
    check_family(model, name)
    end, ends = turn_end(tokenizer), language_model.ends
    if model.generation_config is not None and end not in ends:
        # A base checkpoint ends texts, and its chat template turns. A student that learns to end its turns goes on
        # behind them otherwise, here as with whoever loads what is saved.
        model.generation_config.eos_token_id = [*ends, end]
    return language_model


def _adapted(where: str, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> PreTrainedModel:
    """The base model of an adapter with the adapter in it: one of transformers' own classes either way, so whatever
    reads its layers needs no second way."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    name, revision = adapter_base(where)
    of_base = {key: value for key, value in options.items() if key != "revision"}  # the adapter's, which is in a folder
    folder = resolve(name, weights=True)
    plain: Any = load_whole(AutoModelForCausalLM, folder, name, revision=revision or "main", **of_base)
    if len(tokenizer) > plain.get_input_embeddings().num_embeddings:  # tokens that came with the adapter
        plain.resize_token_embeddings(len(tokenizer))
    adapted: Any = with_adapter(plain, where, name)
    base: PreTrainedModel = adapted.get_base_model()
    if adapted.active_peft_config.is_prompt_learning:
        raise BadInputError(f"{where!r} holds learnt prompts, which a model doesn't carry in its weights: give a LoRA")
    if base.get_input_embeddings().weight.dtype in (torch.float32, torch.float64):
        return adapted.merge_and_unload().requires_grad_(True)
    if isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise BadInputError(
            f"{where!r} is an adapter of the head too, which is read by its weights: make it a whole model (the run "
            "that made it with --merge-adapter), or load it in float32"
        )
    return base.requires_grad_(True)


def check_finite(model: PreTrainedModel, name: str) -> None:
    """Raise BadInputError for a checkpoint that holds NaN or an infinite weight: its every figure would be nonsense."""
    for parameter, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            broken = int((~weight.isfinite()).sum())
            raise BadInputError(
                f"{name!r} is a broken checkpoint: {broken} of the {weight.numel()} numbers in {parameter} are NaN or "
                "infinite, as a training that diverged or an overflow in float16 leaves it: take an earlier one"
            )


def _remedy(where: str) -> str:
    """What to do about a name on the hub that didn't load; nothing for a folder, whose files are to blame."""
    if Path(where).is_dir():
        return ""
    return ". Give a folder, fetch it first (`hf download`), or log in if it is gated (`hf auth login`)"
