"""A GGUF file made into an ordinary checkpoint's folder: first its config and tokenizer, then its dequantised weights.

transformers reads both, with the package `gguf`. What it leaves out would be another model without a word, so each of
these is compared with the file: that its tensors and the model's hold as many numbers, that no weight is missing, that
positions are told apart (`positions`) and texts cut (`tokens`) as the file says. What can't be read right is refused.

The folder's weights have the type of the file's where it is float32, float16 or bfloat16, and are rounded to bfloat16
where they were quantised, as models are published: a step of 4 bits is some ten times as coarse, one of 8 bits about as
fine. Left out on purpose: working with quantised weights as they are, which can't be trained and are slower without
kernels of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError, few, first_line
from distillknob.models.gguf.header import Header, read_header
from distillknob.models.gguf.positions import DIVISORS, check_positions
from distillknob.models.gguf.tokens import read_tokenizer

_NAME = "model.gguf"
_ORIGINAL = "give the original checkpoint"
_OWN_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Layers of the models of 27 B, whose queries have a scale of their own.
_DEEPEST_GEMMA = {"gemma2": 46, "gemma3_text": 62}
# What transformers and a family's own code raise for a file that they can't use.
_UNUSABLE = (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, ImportError, RuntimeError)


def weights_dtype(header: Header) -> str:
    """Return the type of the folder's weights, as torch calls it."""
    return _OWN_TYPES.get(header.stored_as, "bfloat16")


def write_description(file: Path, folder: Path) -> None:
    """Write everything of the model but its weights into `folder`: config, generation config, tokenizer with its chat
    template.

    Raises BadInputError for a file that can't be read, or not right.
    """
    from transformers import GenerationConfig

    header = read_header(file)
    with _alone(file) as place, _read_right(file):
        config = _config(file, header, place)
        tokenizer = read_tokenizer(file, header, place, _NAME)
    own = config.eos_token_id if isinstance(config.eos_token_id, list) else []  # of a family that ends in several ways
    ends = dict.fromkeys([*own, tokenizer.eos_token_id, header.values.get("tokenizer.ggml.eot_token_id")])
    config.dtype = weights_dtype(header)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    generation = GenerationConfig.from_model_config(config)
    if len(all_ends := [end for end in ends if end is not None]) > 1:
        generation.eos_token_id = all_ends
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_weights(file: Path, described: Path, folder: Path) -> None:
    """Write the dequantised weights of the model that `write_description` described in `described` into `folder`, as
    safetensors. Raises BadInputError where one is missing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GgufConfig

    config = AutoConfig.from_pretrained(described)
    with _alone(file) as place, _read_right(file):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            gguf_file=_NAME,
            config=AutoConfig.from_pretrained(described),  # which is marked as quantised while it is read
            dtype=config.dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    read, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise BadInputError(f"{file} has nothing that transformers takes for {few(missing)}: {_ORIGINAL}")
    # Its own class saves no model that came from GGUF, so the weights move into one that didn't.
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = GenerationConfig.from_pretrained(described)
    plain.save_pretrained(folder)


def _config(file: Path, header: Header, place: Path) -> Any:
    """The config, of a causal language model that the file fills."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from distillknob.models.families import check_config

    config = AutoConfig.from_pretrained(place, gguf_file=_NAME)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise BadInputError(f"{file} holds {config.model_type}, which is no causal language model: give one that is")
    check_config(config, str(file))
    width = header.own("attention.key_length")
    if width is not None and hasattr(config, "head_dim") and not hasattr(config, "global_head_dim"):
        config.head_dim = width  # which transformers reads of some families alone
    set_query_scale(config)
    check_positions(file, header, config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    kept = sum(state.numel() for name, state in model.state_dict().items() if name not in parameters)
    numbers = sum(parameter.numel() for parameter in model.parameters()) + kept
    if numbers != header.numbers - _read_elsewhere(header):
        strange = [tensor.name for tensor in header.tensors if not tensor.name.startswith(("blk.", "token_embd"))]
        raise BadInputError(
            f"{file} holds {header.numbers} numbers, and the {config.model_type} that transformers makes of its "
            f"settings {numbers}, so that it would be another model (tensors outside of its layers: "
            f"{', '.join(strange)}): {_ORIGINAL}"
        )
    config.architectures = [type(model).__name__]
    return config


def set_query_scale(config: Any) -> None:
    """Set by what the queries of Gemma 2 and 3 are scaled, in place: no file says it, and llama.cpp finds it by the
    number of layers."""
    if config.model_type in _DEEPEST_GEMMA:
        deepest = config.num_hidden_layers == _DEEPEST_GEMMA[config.model_type]
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if deepest else config.head_dim


def _read_elsewhere(header: Header) -> int:
    """Numbers of the tensor that is a setting, which `check_positions` has read."""
    return sum(tensor.numbers for tensor in header.tensors if tensor.name == DIVISORS)


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A folder with nothing but the file: transformers would take settings of others from the folder around it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _NAME).symlink_to(file.absolute())
        yield Path(folder)


@contextmanager
def _read_right(file: Path) -> Iterator[None]:
    """Say which file it is that transformers can't read."""
    try:
        yield
    except _UNUSABLE as error:
        raise BadInputError(f"transformers can't read {file}: {first_line(error)}. {_ORIGINAL.capitalize()}") from error
