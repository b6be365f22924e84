"""The tokenizer of a GGUF file: its tokens and merges, how texts are cut into words before bytes are merged, and what
ends and pads.

transformers makes it of the file, and three things are mended.

- It knows the rules by which some vocabularies cut words, and takes GPT-2's for all others. The rules below
  (llama.cpp's names, `tokenizer.ggml.pre`) belong to GPT-2's, with or without every digit as a word of its own.
- It spells every token of a byte-level vocabulary in the byte alphabet, so that no text has a control token with a
  character outside of it (DeepSeek's).
- There are tokens that the model's other checkpoints haven't, with which two vocabularies that are one would differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError
from distillknob.models.gguf.header import Header, read_list

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "mellum", "granite-docling"}
GPT2 |= {"jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "a.x-4.0"}
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
_NUMBERED = {"bos": "bos", "eos": "eos", "unk": "unknown"}  # transformers' names, and the file's
_CONTROL, _USER_DEFINED = 3, 4
_WHOLE = (_CONTROL, _USER_DEFINED)  # types of a token that is never cut


def read_tokenizer(file: Path, header: Header, place: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer with the file's chat template; `name` is the file's in the folder `place`. Where the file names no
    padding token, the end of a text is one: a padded place is masked everywhere, so that any token does.

    Raises BadInputError for words that are cut by a rule that isn't known, and for a file without an end of a text or a
    chat template.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    read: Any = PreTrainedTokenizerFast.from_pretrained(place, gguf_file=name)
    if read.eos_token_id is None:
        raise BadInputError(
            f"{file} names no end of a text (tokenizer.ggml.eos_token_id), so no answer could ever end: give another "
            "file, or the original checkpoint"
        )
    if read.chat_template is None:
        raise BadInputError(
            f"{file} has no chat template (tokenizer.chat_template), so a prompt can't be told from an answer: give a "
            "file of the instruct model, or the original checkpoint"
        )
    _cut_words(read.backend_tokenizer, header, file)
    backend = _without_foreign_tokens(json.loads(read.backend_tokenizer.to_str()), header)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(_with_own_spelling(backend, header, file))),
        bos_token=read.bos_token,
        eos_token=read.eos_token,
        unk_token=read.unk_token,
        pad_token=read.pad_token or read.eos_token,
        chat_template=read.chat_template,
        padding_side="left",
    )
    for kind, key in _NUMBERED.items():
        number, meant = getattr(tokenizer, f"{kind}_token_id"), header.values.get(f"tokenizer.ggml.{key}_token_id")
        if meant is not None and number not in (meant, None):
            raise BadInputError(
                f"{file} says that token {meant} is its {kind} token, and transformers makes it number {number}, which "
                "no answer would have: give the original checkpoint"
            )
    return tokenizer


def _with_own_spelling(backend: dict[str, Any], header: Header, file: Path) -> dict[str, Any]:
    """A backend tokenizer, as JSON, whose tokens that are never cut are spelled as in the file, where that is
    byte-level and they have characters outside of the byte alphabet."""
    from tokenizers.pre_tokenizers import ByteLevel

    if header.values.get("tokenizer.ggml.model") != "gpt2":
        return backend
    alphabet = set(ByteLevel.alphabet())
    spelled, kinds = (read_list(file, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    never_cut = [(n, token) for n, (token, kind) in enumerate(zip(spelled, kinds, strict=False)) if kind in _WHOLE]
    whole = {n: token for n, token in never_cut if not set(token) <= alphabet}
    if not whole:
        return backend
    vocabulary = {token: n for token, n in backend["model"]["vocab"].items() if n not in whole}
    backend["model"]["vocab"] = vocabulary | {token: n for n, token in whole.items()}
    how = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = {token["id"]: token for token in backend["added_tokens"]}
    added |= {n: {"id": n, "content": token, **how, "special": kinds[n] == _CONTROL} for n, token in whole.items()}
    backend["added_tokens"] = [added[n] for n in sorted(added)]
    return backend


def _without_foreign_tokens(backend: dict[str, Any], header: Header) -> dict[str, Any]:
    """A backend tokenizer, as JSON, without the tokens that stand behind the file's, and without those that llama.cpp's
    converter puts into the file's where a model has more embeddings than tokens (`[PAD151700]`)."""
    size = header.values["tokenizer.ggml.tokens"]
    own = [token for token in backend["added_tokens"] if token["id"] < size]
    backend["added_tokens"] = [token for token in own if token["content"] != f"[PAD{token['id']}]"]
    vocabulary = backend["model"]["vocab"]
    if isinstance(vocabulary, dict):
        backend["model"]["vocab"] = {token: n for token, n in vocabulary.items() if token != f"[PAD{n}]"}
    return backend


def _cut_words(backend: Any, header: Header, file: Path) -> None:
    """Let a tokenizer that transformers made cut words by the rule that the file names. Raises BadInputError for a rule
    that isn't known: other words have other tokens, silently."""
    from tokenizers import pre_tokenizers

    rule = header.values.get("tokenizer.ggml.pre", "default")  # which isn't GPT-2's rule in llama.cpp either
    # Whatever isn't byte-level cuts no words by a rule, and the rules that transformers knows are no single step.
    known = not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
    if header.values.get("tokenizer.ggml.model") != "gpt2" or known or rule in GPT2 or header.architecture == "gpt2":
        return
    if rule == "default":
        raise BadInputError(
            f"{file} doesn't say by which rule it cuts words (tokenizer.ggml.pre), as old files don't: give a newer "
            "file of this model, or the original checkpoint"
        )
    if rule not in SINGLE_DIGITS:
        raise BadInputError(
            f"{file} cuts words by the rule {rule!r} (tokenizer.ggml.pre), which neither transformers nor distillknob "
            "knows: give the original checkpoint"
        )
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
