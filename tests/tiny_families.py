"""Tiny random models of all families of causal language models that transformers has, and what comes of each here.

python tests/tiny_families.py [FAMILY ...]      the lists of docs/reference/families.md
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
import warnings
from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from trl import DistillationTrainer, GRPOTrainer  # type: ignore[attr-defined]
from trl.trainer.utils import add_fused_lm_head

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.families import check_config, check_family
from distillknob.models.forward import number_positions, silence
from distillknob.models.heads import head_of
from distillknob.models.loaded.decoding import Decoder
from distillknob.models.names import zoo_path
from distillknob.models.scoring import token_logprobs
from distillknob.training.rollouts import PolicyTrainer
from distillknob.training.shared_prompts import prompts_read_once, repeatable, shared_prompts

LIMIT = 5e-3  # nats between two ways to the log-probability of a token, in float32
LARGEST = 3_000_000  # parameters; what can't be made smaller isn't tried
FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
PROMPTS = [
    [{"role": "user", "content": text}]
    for text in ("Hi", "Start with 12. Add 30, then 5, and take 7 away. What is it?", "Who is Ada?")
]
EVERY: dict[str, Any] = {
    "vocab_size": 2080,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
# Set where a family's config has a setting of that name.
WHERE_NAMED: dict[str, Any] = {
    **dict.fromkeys(("head_dim", "qk_head_dim", "index_head_dim", "swa_head_dim", "swa_v_head_dim"), 16),
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size", "query_pre_attn_scalar"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "index_n_heads", "n_groups", "num_heads"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "embedding_size"), 16),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_ffn_hidden_size", "num_buckets"), 16),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "swa_num_key_value_heads"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("o_lora_rank", "index_topk", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_num_heads", "mamba_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("linear_num_key_heads", "swa_num_attention_heads", "num_layers", "mamba_expand"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "decoder_attention_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "dim_ff"), 64),
    **dict.fromkeys(("d_model", "dim_model", "lru_width", "word_embed_proj_dim"), 32),
    "linear_num_value_heads": 4,
    "intermediate_size_mlp": 64,
    "vocab_size_per_layer_input": 2080,
    "zero_expert_num": 0,
    **dict.fromkeys(("use_mamba_kernels", "enable_pronunciation", "enable_shape", "use_conv_bias"), False),
}
_MLA = {"head_dim": 8, "num_key_value_heads": 2}
_HYBRID: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
_SEES = {
    "vision_config": {
        **dict.fromkeys(("hidden_size", "intermediate_size", "out_hidden_size"), 32),
        **dict.fromkeys(("num_hidden_layers", "depth", "num_attention_heads", "num_heads"), 2),
        **{"image_size": 28, "patch_size": 14, "num_position_embeddings": 16},
    }
}
# What one family needs beside these, or in place of them.
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v3", "longcat_flash", "youtu"), _MLA),
    **dict.fromkeys(("deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "minicpm3", "dots1"), _MLA),
    "diffllama": {"num_key_value_heads": 2, "attention_dropout": 0.0},  # which its own code refuses
    "dots3_note_text": {"num_key_value_heads": 2},
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp_text"), _HYBRID),
    "bailing_hybrid": {**_HYBRID, **_MLA},
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2},
    "kimi_linear": {**_HYBRID, **_MLA, "linear_num_heads": 2, "linear_head_dim": 8},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "num_local_experts": 0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "falcon_h1": {"mamba_d_ssm": 64},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "zamba": {"num_hidden_layers": 3, "layer_types": ["mamba", "mamba", "hybrid"]},
    "zamba2": {"layer_types": ["mamba", "hybrid"], "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8, "num_attention_heads": 4, "n_head": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma4_text": {
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 32,
    },
    "zaya": {"num_experts_per_tok": 1},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
}
# What a family's own code raises where a small config isn't one.
UNBUILDABLE = (
    *(ValueError, TypeError, AttributeError, LookupError, ImportError, RuntimeError, AssertionError),
    StrictDataclassError,
)
BENT = GenerationConfig(min_p=0.3, repetition_penalty=2.0, no_repeat_ngram_size=2, suppress_tokens=[5, 6], top_k=3)


@cache
def tokenizer() -> Any:
    """The embedded tokenizer, which all of them share."""
    return AutoTokenizer.from_pretrained(zoo_path("teacher"), padding_side="left")


def tiny_config(family: str) -> Any:
    """A config of that family with settings as small as it takes."""
    plain = AutoConfig.for_model(family)
    named = {**dict.fromkeys(plain.attribute_map, 0), **vars(plain)}
    shape = {name: value for name, value in WHERE_NAMED.items() if name in named}
    if named.get("sliding_window") is None:
        shape.pop("sliding_window", None)
    ends = {name: getattr(tokenizer(), name) for name in ("eos_token_id", "pad_token_id")}
    noise = {
        name: 0.1
        for name, value in vars(plain).items()
        if re.search("drop|jitter", name) and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return AutoConfig.for_model(family, **{**ends, **EVERY, **noise, **shape, **OWN.get(family, {})})


def outcome(family: str, device: str = "cpu", dtype: torch.dtype = torch.float32, limit: float = LIMIT) -> str:
    """What comes of a family: works, refused or not tried, and why. Raises AssertionError where two ways to one score
    lie further than `limit` nats a token apart."""
    try:
        config = tiny_config(family)
        check_config(config, family)
        with torch.device("meta"):
            parameters = AutoModelForCausalLM.from_config(config).num_parameters()
        if parameters > LARGEST:
            return f"not tried: {parameters / 1e6:.0f} M parameters at its smallest"
        torch.manual_seed(1)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        if dtype != torch.float32:
            model = as_loaded(model, dtype)
    except BadInputError as error:
        return f"refused: {error}"
    except UNBUILDABLE as error:
        return f"not tried: no small one can be made ({type(error).__name__})"
    language_model = LanguageModel(model.to(device), tokenizer())
    try:
        check_family(model, family)
    except BadInputError as error:
        return f"refused: {error}"
    agreement(language_model, limit)
    training_agrees(language_model, limit)
    return "works"


def as_loaded(model: Any, dtype: torch.dtype) -> Any:
    """The model as its checkpoint is loaded in this type: some families keep a part of it in float32."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, dtype=dtype).eval()


def agreement(language_model: LanguageModel, limit: float = LIMIT) -> None:
    """Assert that generation under settings that would bend it, rows alone, rows in a batch and rows that share their
    prompts give each token one log-probability."""
    model: Any = language_model.model
    model.generation_config = BENT
    rows = [row for row in prompt_ids(language_model.tokenizer, PROMPTS) for _ in range(2)]
    written = Decoder(language_model, 4).decoded(rows, range(len(rows)))  # each prompt twice, which is read once
    in_one_stretch = Decoder(language_model, 4, in_step=True).decoded(rows, range(len(rows)))
    ids = [row.token_ids for row in written[::2]]
    alone = [token_logprobs(language_model, [p], [a])[0] for p, a in zip(PROMPTS, ids, strict=True)]
    ways = {
        "generated": [torch.tensor(row.logprobs) for row in written[::2]],
        "batch": token_logprobs(language_model, PROMPTS, ids),
        "shared prompt": token_logprobs(
            language_model, [prompt for prompt in PROMPTS for _ in range(4)], [a for a in ids for _ in range(4)]
        )[::4],
    }
    compare(ways, alone, limit)
    compare(  # whose tokens may be others in half precision
        {"in one stretch": [torch.tensor(row.logprobs) for row in in_one_stretch[::2]]},
        [
            token_logprobs(language_model, [p], [row.token_ids])[0]
            for p, row in zip(PROMPTS, in_one_stretch[::2], strict=True)
        ],
        limit,
    )


def compare(ways: dict[str, Any], alone: list[torch.Tensor], limit: float) -> None:
    """Assert that each way gives the log-probabilities of the rows alone."""
    for way, rows in ways.items():
        apart = max(float((row.float().cpu() - own).abs().max()) for row, own in zip(rows, alone, strict=True))
        assert apart <= limit, f"{way}: {apart:.4f} nats from the row alone"


def training_agrees(language_model: LanguageModel, limit: float = LIMIT) -> None:
    """Assert that what both trainers draw from a model, and how each reads it in training, under a config with dropout
    and settings that would bend the draw, gives each token the log-probability of the row alone: without noise, and
    behind TRL's padding."""
    model: Any = language_model.model
    alone_ids = prompt_ids(language_model.tokenizer, PROMPTS[:2])
    padded = language_model.tokenizer.pad({"input_ids": alone_ids}, return_tensors="pt", padding_side="left")
    padded = padded.to(model.device)
    new = 3
    model.train()
    number_positions(model)
    silence(model)
    # A trainer each would take minutes over all families: these are the parts of TRL's that read and write.
    trainer: Any = SimpleNamespace(
        model=model,
        use_vllm=False,
        accelerator=SimpleNamespace(autocast=nullcontext, is_main_process=False),
        model_kwarg_keys=inspect.signature(model.forward).parameters,
        _is_vlm=False,
    )
    model.generation_config = BENT
    with PolicyTrainer._as_it_is(trainer):
        never = [10**9]  # ends an answer, so that all have one length
        written = Decoder(language_model, new, ends=never).decoded(alone_ids, [1, 2])
    answers_BN = torch.tensor([row.token_ids for row in written], device=model.device)
    sequences_BT = torch.cat([padded["input_ids"], answers_BN], dim=1)
    mask_BT = torch.cat([padded["attention_mask"], torch.ones_like(answers_BN)], dim=1)
    assert model.training
    add_fused_lm_head(model)
    with torch.no_grad():
        calibrated, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, model, sequences_BT, mask_BT, new)
        hidden_BNH = DistillationTrainer._get_last_hidden_state(trainer, model, sequences_BT, mask_BT, new)
        shared = calibrated
        if repeatable(model):
            twice_RT, mask_RT = sequences_BT.repeat_interleave(2, 0), mask_BT.repeat_interleave(2, 0)
            short = slice(-new - 1, None)
            with prompts_read_once(model, shared_prompts(twice_RT, mask_RT, new)):
                shared, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(
                    trainer, model, twice_RT[:, short], mask_RT[:, short], new
                )
            shared = shared[::2]
    studied_BNV = torch.stack([head_of(model).logits(rows).log_softmax(-1) for rows in hidden_BNH])
    ways = {
        "rolled out": torch.tensor([row.logprobs for row in written]),
        "calibrated": calibrated,
        "calibrated, each prompt read once": shared,
        "distilled": studied_BNV.gather(-1, answers_BN[..., None])[..., 0],
    }
    pairs = zip(PROMPTS[:2], answers_BN.tolist(), strict=True)
    model.eval()
    compare(ways, [token_logprobs(language_model, [prompt], [ids])[0] for prompt, ids in pairs], limit)


SECTIONS = {"works": "## Work", "refused": "## Refused", "not tried": "## Not tried"}


def documented(page: str) -> dict[str, str]:
    """What docs/reference/families.md says of each family: a key of SECTIONS."""
    verdicts: dict[str, str] = {}
    for verdict, heading in SECTIONS.items():
        section = page.partition(f"{heading}\n")[2].partition("\n## ")[0]
        verdicts |= dict.fromkeys(re.findall(r"`([\w-]+)`", section), verdict)
    return verdicts


def main() -> None:
    """Prints the lists of docs/reference/families.md."""
    warnings.filterwarnings("ignore")
    outcomes = {}
    for family in sys.argv[1:] or FAMILIES:
        try:
            outcomes[family] = outcome(family)
        except Exception as error:
            outcomes[family] = f"FAILS: {type(error).__name__}: {error}"
        print(f"{family}: {outcomes[family]}", file=sys.stderr, flush=True)
    for verdict, heading in SECTIONS.items():
        print(f"{heading}\n")
        by_reason: dict[str, list[str]] = {}
        for family, came in outcomes.items():
            if came.startswith(verdict):
                reason = came.partition("here: ")[2].partition(". docs/")[0] or came.partition(": ")[2]
                by_reason.setdefault(reason, []).append(f"`{family}`")
        for reason, names in by_reason.items():
            print(", ".join(names) if not reason else f"- {', '.join(names)}: {reason}")
        print()


if __name__ == "__main__":
    main()
