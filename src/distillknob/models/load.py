"""Loading causal language models and their tokenizers, checked before any long work starts.

A model is named by a folder, a hub id, or `zoo:NAME` for an embedded checkpoint. Knows no task. Left out on purpose:
wrappers around transformers' own classes. What comes back is an ordinary model and an ordinary tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distillknob.errors import BadInputError, nearest
from distillknob.models.checkpoint_files import (
    ADAPTER,
    adapter_base,
    check_readable,
    check_whole,
    is_adapter,
    read_whole_json,
)
from distillknob.runtime.hub import offline
from distillknob.runtime.processes import device as own_device
from distillknob.runtime.template_date import CLOCK, HEADER, pin_date, templates_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SERVED = ("http://", "https://")  # how the name of a model behind a server begins
# save_pretrained writes the second of every tokenizer; older checkpoints have one of the others alone.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
DEFAULT_STUDENT = "zoo:student"
ZOO = ("teacher", "student", "proxy", "student-other")


class LanguageModel(NamedTuple):
    """A model in evaluation mode and its tokenizer (padding on the left). Unpacks as `model, tokenizer`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def zoo_path(name: str) -> Path:
    """The folder of an embedded checkpoint. Raises BadInputError with the nearest known name."""
    if name not in ZOO:
        guess = nearest(name, ZOO, otherwise=".")
        raise BadInputError(f"no embedded checkpoint named {name!r}{guess} Known: {', '.join(ZOO)}")
    return Path(str(resources.files("distillknob") / "zoo" / "checkpoints" / name))


def name_zoo_base(adapter: Path) -> None:
    """Write `zoo:NAME` into the adapter's config where it holds the folder of an embedded checkpoint, which is another
    on every machine."""
    file = adapter / ADAPTER
    config = read_whole_json(file)
    base = Path(config.get("base_model_name_or_path") or "")
    if base.name in ZOO and base == zoo_path(base.name):
        file.write_text(json.dumps({**config, "base_model_name_or_path": f"zoo:{base.name}"}, indent=2) + "\n")


def resolve(name: str) -> str:
    """`name` as transformers loads it: `zoo:NAME` becomes its folder, folders are checked, hub ids and URLs pass.

    Raises BadInputError for a folder that isn't there, holds no checkpoint, or one with a missing or damaged file, and
    for a server's URL without a model.
    """
    if name.startswith(SERVED):
        url, _, rest = name.partition("#")
        if not rest.partition("#")[0]:
            raise BadInputError(f"{name!r} names a server and no model: give URL#NAME, e.g. {url}#Qwen/Qwen3-8B")
        return name
    if name.startswith("zoo:"):
        path = zoo_path(name.removeprefix("zoo:"))
        if not (path / "config.json").exists():
            raise BadInputError(f"the embedded checkpoint {name!r} is not in {path}: run `distillknob zoo build`")
        return str(path)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
            found = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
            hint = f", did you mean {path / 'model'}?" if (path / "model" / "config.json").exists() else ""
            raise BadInputError(f"{path} holds no checkpoint (no config.json; it holds {found}){hint}")
        check_whole(path, name)
        return str(path.absolute())  # it is kept in what is made of it, and read from other places
    if path.is_file():
        check_readable(path)
    # "org/name" and "name" may be hub ids; anything else can only have been meant as a path.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        raise BadInputError(f"there is no checkpoint folder {name!r}: give an existing folder, a hub id or zoo:NAME")
    offline()  # asked once, so that no library goes on trying where there is no network
    return name


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


def check_meant(
    setting: str, name: str, tokenizer: PreTrainedTokenizerBase, of: str, their_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise BadInputError where `setting` is the embedded student, as by default, and the model `of` has another
    tokenizer: the setting was forgotten, and hours of work would go into a pair that nobody meant."""
    if name == DEFAULT_STUDENT and tokenizer.get_vocab() != their_tokenizer.get_vocab():
        raise BadInputError(
            f"{setting} is {name!r}, the embedded model of the default, but {of!r} has another tokenizer: set "
            f"{setting} to a model of your own (or to the folder of the embedded one, if you mean it)"
        )


# A line that `set_in_templates` puts before a template.
_SET = re.compile(r'\{%- set (\w+) = (?:true|false|-?[\d.eE+-]+|"(?:[^"\\]|\\.)*") %\}')


def set_in_templates(
    tokenizers: Mapping[str, PreTrainedTokenizerBase], values: Mapping[str, Any] | None, *, needed: bool = True
) -> None:
    """Set variables of the chat templates of these models' tokenizers, such as `{"enable_thinking": False}`, in place.

    They are written into the templates, so that whoever renders a prompt from here on renders the same, TRL and vLLM
    included, and a model that is saved with its tokenizer answers as it was trained. A template that doesn't read a
    variable is as it was. Raises BadInputError where it is `needed` and none reads it, and for values that aren't
    plain.
    """
    for name, value in (values or {}).items():
        if name == CLOCK:
            pin_date(tokenizers, value, needed=needed)
            continue
        if not name.isidentifier() or not isinstance(value, bool | int | float | str):
            raise BadInputError(
                f"chat_template_kwargs sets {name!r} to {value!r}: give a variable's name and a bool, number or string"
            )
        readers = 0
        for tokenizer in tokenizers.values():
            changed = {}
            line = f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} %}}"
            for kind, template in templates_of(tokenizer).items():
                body, before = template, ""
                while (found := _SET.match(body) or HEADER.match(body)) is not None:
                    before += found[0] if found[1] != name else ""  # a value that was set before gives way
                    body = body[found.end() :]
                reads = _reads(body, name)
                readers += reads
                changed[kind] = f"{line}{before}{body}" if reads else template
            tokenizer.chat_template = changed.get("", changed)  # one, or several by name
        if needed and not readers:
            raise BadInputError(
                f"chat_template_kwargs sets {name!r}, but no chat template of {', '.join(tokenizers)} reads it: check "
                "its spelling, or leave it out"
            )


def _reads(template: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", template) is not None


def values_read(tokenizer: PreTrainedTokenizerBase, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of the `values` whose variables the chat template reads; None where it reads none."""
    templates = templates_of(tokenizer).values()
    return {key: value for key, value in values.items() if any(_reads(one, key) for one in templates)} or None


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
    except (OSError, ValueError) as error:
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
    accelerator, if there is one). `dtype` defaults to the checkpoint's own on an accelerator and to float32 on a CPU;
    `options` go to transformers' `from_pretrained` (revision, attn_implementation …).

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
    given = dict(options or {})
    tokenizer = load_tokenizer(name, revision=given.get("revision"))
    try:
        if not is_adapter(where):
            config = AutoConfig.from_pretrained(where, revision=given.get("revision"))
            check_config(config, name)
            check_tokenizer(tokenizer, name, config.get_text_config().vocab_size)
        if device is None:
            device = own_device()
        given = {"dtype": dtype or ("float32" if device == "cpu" else "auto"), **given}
        with _whole_weights():
            model: Any = (
                _adapted(where, tokenizer, {**given, "dtype": "float32"} if whole else given)
                if is_adapter(where)
                else AutoModelForCausalLM.from_pretrained(where, **given)
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
    found = LanguageModel(model.eval(), tokenizer)
    check_family(model, name)
    end, known = turn_end(tokenizer), eos_ids(found)
    if model.generation_config is not None and end not in known:
        # A base checkpoint ends texts, and its chat template turns. A student that learns to end its turns goes on
        # behind them otherwise, here as with whoever loads what is saved.
        model.generation_config.eos_token_id = [*known, end]
    return found


@contextmanager
def _whole_weights() -> Iterator[None]:
    """Load as if there were no ZeRO-3. Under it transformers hands every process a part of the weights, which only an
    engine puts together, and models are sampled from and score without one; what is trained is dealt out later, when
    the Trainer makes its engine."""
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref  # which has a setter and no getter
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if held is not None and held() is not None:
            deepspeed.set_hf_deepspeed_config(held())


def _adapted(where: str, tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]) -> PreTrainedModel:
    """The base model of an adapter with the adapter in it: one of transformers' own classes either way, so whatever
    reads its layers needs no second way."""
    import torch
    from peft import PeftModelForCausalLM
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    name, revision = adapter_base(where)
    options = {key: value for key, value in given.items() if key != "revision"}  # the adapter's, which is in a folder
    plain: Any = AutoModelForCausalLM.from_pretrained(resolve(name), revision=revision or "main", **options)
    if len(tokenizer) > plain.get_input_embeddings().num_embeddings:  # tokens that came with the adapter
        plain.resize_token_embeddings(len(tokenizer))
    adapted: Any = PeftModelForCausalLM.from_pretrained(plain, where)
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


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[dict[str, str]]]) -> list[list[int]]:
    """Chat messages as token ids, by the tokenizer's own chat template, up to where the answer starts."""
    if not prompts:
        return []
    ids: Any = tokenizer.apply_chat_template(
        list(prompts), add_generation_prompt=True, tokenize=True, return_dict=True, padding=False
    )
    return [list(row) for row in ids["input_ids"]]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which an answer ends in the tokenizer's chat template, which isn't the eos for Gemma and Phi-3:
    they end a turn by a token of its own. The eos where the template shows none."""
    from jinja2 import TemplateError

    turn = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "ANSWER"}]
    try:
        rendered = str(tokenizer.apply_chat_template(turn, tokenize=False))
    except TemplateError:  # a template of prompts alone
        return int(tokenizer.eos_token_id)
    behind: list[int] = tokenizer(rendered.rpartition("ANSWER")[2].lstrip(), add_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_decoder
    ends = behind and behind[0] in added and added[behind[0]].special
    return int(behind[0] if ends else tokenizer.eos_token_id)


def eos_ids(language_model: LanguageModel) -> list[int]:
    """Every token that ends an answer: the tokenizer's eos and those of the model's generation config."""
    model, tokenizer = language_model
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return sorted({tokenizer.eos_token_id, *ids})
