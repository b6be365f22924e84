"""Our sampling beside transformers' `generate` of the same rows in one batch. Markdown on stdout.

    python benchmarks/sampling.py --model zoo:smollm2-teacher --tasks "tracking?moves=2"

Both draw at temperature 1 from the same model in the same process, to the end of each answer or the task's
`max_new_tokens`. Rounds alternate, so that a busy machine slows both alike, and the first of each isn't counted. Rows
are several answers to each of a few problems, as an evaluation and a calibration ask for them. Samples differ, so
tokens are told beside seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.sampling import Prompt, Sampling, generate
from distillknob.runtime.machine import keep_freed_memory
from distillknob.tasks import get_tasks

Way = Callable[[int], int]  # a seed → new tokens, ends included


def ours(model: LanguageModel, prompts: list[Prompt], samples: int, longest: int) -> Way:
    """Draw as the stages do."""

    def draw(seed: int) -> int:
        drawn = generate(model, prompts, samples, Sampling(max_new_tokens=longest, seed=seed))
        return sum(len(sample.token_ids) for row in drawn.completions for sample in row)

    return draw


def plain(model: LanguageModel, prompts: list[Prompt], samples: int, longest: int) -> Way:
    """Draw as transformers' documentation says, all rows in one batch."""
    tokenizer, causal = model.tokenizer, model.model
    pad = tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=longest,
        num_return_sequences=samples,
        eos_token_id=list(model.ends),
        pad_token_id=pad,
    )

    def draw(seed: int) -> int:
        torch.manual_seed(seed)
        batch = tokenizer.pad({"input_ids": prompt_ids(tokenizer, prompts)}, return_tensors="pt").to(causal.device)
        with torch.no_grad():
            out: Any = causal.generate(**batch, generation_config=config)  # type: ignore[operator]
        new_BT = out[:, batch["input_ids"].shape[1] :]
        ended_BT = torch.isin(new_BT, torch.tensor(list(model.ends), device=new_BT.device))
        # Up to the first end: what stands behind it is padding, which may be the same token.
        return int((ended_BT.cumsum(1) - ended_BT.long() == 0).sum())

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:teacher")
    parser.add_argument("--tasks", nargs="+", default=["math"])
    parser.add_argument("--problems", type=int, default=12, help="problems a task")
    parser.add_argument("--samples", type=int, default=8, help="answers to each")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    model, tasks = load_model(arguments.model), get_tasks(arguments.tasks)
    prompts = [task.messages(one) for task in tasks for one in task.examples("test", arguments.problems)]
    longest = max(task.max_new_tokens for task in tasks)
    ways = {"distillknob": ours, "transformers generate": plain}
    draws = {name: make(model, prompts, arguments.samples, longest) for name, make in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in draws}
    rates: dict[str, list[float]] = {name: [] for name in draws}
    for seed in range(arguments.rounds + 1):
        for name, draw in draws.items():
            started = time.perf_counter()
            tokens = draw(seed)
            took = time.perf_counter() - started
            if seed:
                seconds[name].append(took)
                rates[name].append(tokens / took)
    print(f"{len(prompts) * arguments.samples} rows, at most {longest} tokens, {arguments.rounds} rounds\n")
    print("| | tokens a second, median | lowest to highest | seconds, median |\n|---|---|---|---|")
    for name, values in rates.items():
        low, high = min(values), max(values)
        print(f"| {name} | {median(values):.0f} | {low:.0f}–{high:.0f} | {median(seconds[name]):.2f} |")
    own, other = (median(rates[name]) for name in ways)
    print(f"\ndistillknob / generate, tokens a second: {own / other:.2f}")


if __name__ == "__main__":
    main()
