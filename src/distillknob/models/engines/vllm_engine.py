"""One vLLM in this process: started when it is first asked, and freed again.

Written for the versions that TRL's trainers are (`pip install distillknob[vllm]`). It works in this process and not in
one of its own, so that it can be freed, be handed a training's weights, and be asked by a script without a main guard.
Left out on purpose: settings that change what a model writes or how likely it is (quantised weights and caches,
speculative decoding, penalties).
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from distillknob.errors import BadInputError, RunFailedError, first_line
from distillknob.runtime.processes import connect, process_count

FREE_SHARE = 0.9  # of the memory that is free when it starts
# Tokens of a step. Of each one's prompt it forms float32 logits where it scores: 2.5 GB for 152,000 tokens.
STEP_TOKENS = 4096
LARGEST = -1  # as long a context as the model has and the memory allows
IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"


class VllmEngine:
    """The vLLM of the model in `where` (a folder or hub id), in `dtype`; `options` are `EngineOptions.engine_options`.

    `generate` raises BadInputError where the engine can't be started, with the remedy, and RunFailedError where it
    fails at work.
    """

    def __init__(
        self,
        where: str,
        dtype: str,
        *,
        revision: str | None = None,
        options: Mapping[str, Any] | None = None,
        llm: Any = None,
    ):
        self.where, self._dtype, self._revision, self._options = where, dtype, revision, dict(options or {})
        self._llm = llm

    @property
    def context(self) -> int:
        """The most tokens of a prompt with its answer. Starts the engine."""
        return int(self._started().llm_engine.model_config.max_model_len)

    def generate(self, rows: Sequence[Sequence[int]], parameters: Sequence[Mapping[str, Any]]) -> list[Any]:
        """vLLM's RequestOutput to each row of token ids, sampled by the `SamplingParams` of these fields."""
        llm = self._started()
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": list(ids)} for ids in rows]
        try:
            outputs: list[Any] = llm.generate(
                prompts, [SamplingParams(**fields) for fields in parameters], use_tqdm=False
            )
        except _failures() as error:
            raise RunFailedError(
                f"vLLM failed on {self.where!r} ({first_line(error)}). What it gave before is kept: give it less at a "
                "time (engine_options, such as max_num_seqs or max_num_batched_tokens), then go on with --resume"
            ) from error
        if len(outputs) != len(prompts):
            raise RunFailedError(f"vLLM gave {len(outputs)} answers to {len(prompts)} prompts: go on with --resume")
        return outputs

    def close(self) -> None:
        """Free the engine's memory. It starts anew when it is asked again, unless it was handed over started."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory
        from vllm.distributed.parallel_state import destroy_model_parallel

        llm.llm_engine.engine_core.shutdown()
        del llm
        if process_count() > 1:  # the connection between the processes isn't vLLM's to close
            destroy_model_parallel()
            gc.collect()
            torch.cuda.empty_cache()
        else:
            cleanup_dist_env_and_memory()

    def _started(self) -> Any:
        if self._llm is None:
            self._llm = self._start()
        return self._llm

    def _start(self) -> Any:
        connect()  # vLLM takes part in the connection between the processes, and would open one of its own
        several = process_count() > 1
        parallel = self._options.get("tensor_parallel_size", 1)
        if several and parallel > 1:
            raise BadInputError(
                f"engine_options sets tensor_parallel_size to {parallel} in a run of {process_count()} processes, each "
                "of which has an engine of its own: start one process, or leave it out"
            )
        options = {
            "max_model_len": LARGEST,
            "max_num_batched_tokens": STEP_TOKENS,
            "dtype": self._dtype,
            **_memory(),
            **self._options,
        }
        if several:
            options["distributed_executor_backend"] = "external_launcher"
        with _in_this_process(parallel == 1), _own_random_state():
            from vllm import LLM

            try:
                # `generation_config`: otherwise the checkpoint's own sampling settings are its defaults.
                return LLM(
                    model=self.where,
                    revision=self._revision,
                    tokenizer_revision=self._revision,
                    generation_config="vllm",
                    seed=0,  # of rows that have none: ours all have one
                    **options,
                )
            except _failures() as error:
                raise BadInputError(
                    f"can't start vLLM on {self.where!r}: {first_line(error)}. Give it other engine_options (now "
                    f"{options}), such as a lower gpu_memory_utilization or max_model_len, or set engine to "
                    "transformers"
                ) from error


def _failures() -> tuple[type[Exception], ...]:
    """What vLLM raises for what it can't do: of its own, of its configs' checks (ValueError), and of torch where memory
    runs out (RuntimeError)."""
    from vllm.exceptions import VLLMValidationError

    # Its errors have had a common class of their own since VLLMValidationError is no ValueError any more.
    own = next((cls for cls in VLLMValidationError.__mro__ if cls.__name__ == "VLLMError"), VLLMValidationError)
    return (own, ValueError, RuntimeError)


def _memory() -> dict[str, float]:
    """The share of the device's memory that an engine may take: most of what is free, beside models that are loaded.
    vLLM counts it of the whole."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"gpu_memory_utilization": round(FREE_SHARE * free / total, 3)}


@contextmanager
def _in_this_process(inside: bool) -> Iterator[None]:
    """Have vLLM work in this process; over several devices it needs processes of its own."""
    before = os.environ.get(IN_PROCESS)
    if inside:
        os.environ[IN_PROCESS] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(IN_PROCESS, None)
        else:
            os.environ[IN_PROCESS] = before


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Keep the random states of this process, all of which an engine seeds when it starts."""
    import numpy as np

    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
