"""A stand-in for vLLM: its public face as of 0.31, over a transformers model on the CPU.

It takes the arguments that vLLM takes and no others, seeds the process's random states as vLLM does in this process,
and lets one engine live at a time, as a device's memory would.
"""

from __future__ import annotations

import importlib.machinery
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

VERSION = "0.31.0"
# Of vllm.EngineArgs, those that vllm.LLM doesn't name itself.
ENGINE_ARGS = {
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_sleep_mode",
    "generation_config",
    "logprobs_mode",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "model_impl",
}
KNOWN = {"Qwen3ForCausalLM"}
living: list[LLM] = []
started: list[dict[str, Any]] = []


class VLLMError(Exception):
    """As in vllm.exceptions."""


class VLLMClientError(VLLMError):
    """As in vllm.exceptions."""


class VLLMValidationError(VLLMClientError):
    """As in vllm.exceptions."""


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if not 0 < self.top_p <= 1 or self.top_k < -1 or self.n < 1 or (self.max_tokens or 0) < 1:
            raise VLLMValidationError(f"{self} can't be sampled by")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise VLLMValidationError(f"seed {self.seed}")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass
class _Row:
    ids: list[int]
    params: SamplingParams
    generator: torch.Generator
    new: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    reason: str | None = None


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ):
        if unknown := set(kwargs) - ENGINE_ARGS:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {min(unknown)!r}")
        if living:
            raise ValueError("Free memory on device cuda:0 (1.0/80.0 GiB) on startup is less than desired")
        started.append({"model": model, "dtype": dtype, **kwargs})
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        config = AutoConfig.from_pretrained(model)
        if config.architectures[0] not in KNOWN:
            raise ValueError(f"Model architectures {config.architectures} are not supported for now.")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        ends = self.model.generation_config.eos_token_id
        self.eos = set(ends if isinstance(ends, list) else [ends])
        longest = kwargs.get("max_model_len") or -1
        context = config.max_position_embeddings if longest == -1 else longest
        self.asleep = False
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self._load_weights))
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=context),
            engine_core=SimpleNamespace(shutdown=lambda: living.remove(self)),
            model_executor=SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner)),
        )
        living.append(self)

    def _load_weights(self, weights: Sequence[tuple[str, torch.Tensor]]) -> None:
        named = dict(self.model.named_parameters())
        for name, tensor in weights:
            named[name].data.copy_(tensor)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        return True

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        self.asleep = True
        if level == 2:
            for parameter in self.model.parameters():
                parameter.data.zero_()

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.asleep = False

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
        priority: list[int] | None = None,
    ) -> list[RequestOutput]:
        if self.asleep:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        params = [sampling_params] * len(prompts) if isinstance(sampling_params, SamplingParams) else sampling_params
        assert params is not None and len(params) == len(prompts)
        rows = []
        for prompt, one in zip(prompts, params, strict=True):
            ids = prompt["prompt_token_ids"]
            if len(ids) >= self.llm_engine.model_config.max_model_len:
                raise VLLMValidationError(f"The decoder prompt (length {len(ids)}) is longer than the maximum")
            generator = torch.Generator()
            if one.seed is None:
                generator.seed()
            else:
                generator.manual_seed(one.seed)
            rows.append(_Row(list(ids), one, generator))
        while writing := [row for row in rows if row.reason is None]:
            logits_BTV = self._logits([row.ids + row.new for row in writing])
            for row, logits_TV in zip(writing, logits_BTV, strict=True):
                self._write(row, logits_TV[-1].float())
        return [self._output(number, row) for number, row in enumerate(rows)]

    def _logits(self, ids: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, ids))
        mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        ids_BT = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
        position_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        logits: torch.Tensor = self.model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_BT).logits
        return logits

    def _write(self, row: _Row, logits_V: torch.Tensor) -> None:
        params = row.params
        bent_V = logits_V / params.temperature
        if params.top_k > 0:
            bent_V = bent_V.masked_fill(bent_V < bent_V.topk(params.top_k).values[-1], -torch.inf)
        noise_V = torch.empty_like(bent_V).exponential_(generator=row.generator)
        token = int((bent_V.softmax(-1) / noise_V).argmax())
        row.new.append(token)
        row.logprobs.append({token: Logprob(float(logits_V.log_softmax(-1)[token]))})
        if token in self.eos or token in (params.stop_token_ids or []):
            row.reason = "stop"
        elif len(row.new) == params.max_tokens:
            row.reason = "length"

    def _output(self, number: int, row: _Row) -> RequestOutput:
        scored: list[dict[int, Logprob] | None] | None = None
        if row.params.prompt_logprobs is not None:
            logprobs_TV = self._logits([row.ids])[0].float().log_softmax(-1)
            scored = [None]
            scored += [{token: Logprob(float(logprobs_TV[t, token]))} for t, token in enumerate(row.ids[1:])]
        logprobs = row.logprobs if row.params.logprobs is not None else None
        answer = CompletionOutput(0, "", row.new, None, logprobs, row.reason)
        return RequestOutput(str(number), None, row.ids, scored, [answer])


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, *, gpu: bool = True) -> type[LLM]:
    """Put the stand-in where `import vllm` finds it, with its metadata in `folder`. `gpu`: it works on one."""
    metadata = folder / f"vllm-{VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
    monkeypatch.syspath_prepend(folder)
    platform = SimpleNamespace(is_cuda_alike=lambda: gpu)
    registry = SimpleNamespace(get_supported_archs=lambda: KNOWN)
    parts: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams, "ModelRegistry": registry, "__version__": VERSION},
        "vllm.platforms": {"current_platform": platform},
        "vllm.exceptions": {"VLLMError": VLLMError, "VLLMValidationError": VLLMValidationError},
        "vllm.distributed": {"cleanup_dist_env_and_memory": lambda shutdown_ray=False: None},
        "vllm.distributed.parallel_state": {"destroy_model_parallel": lambda: None},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    living.clear()
    started.clear()
    return LLM
