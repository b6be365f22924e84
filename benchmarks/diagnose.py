"""What the trap lens costs beside two bare forward passes, on a pair the size of Qwen3-0.6B with random weights.

    python benchmarks/diagnose.py --output diagnose.json             # some ten minutes on two cores, 12 GiB
    python benchmarks/diagnose.py --device cuda --answers 256 --output diagnose-gpu.json
    python benchmarks/diagnose.py --small --answers 2 --length 8     # tries the script, on a pair of two layers

`bare` runs both models over the batches and keeps their logits of the answers; `score` is what `diagnose` does with the
same texts: every divergence at every token, and the traps that read them. Rounds alternate. Sampling and gradients are
timed apart. `growth` is the peak memory of scoring ever more tokens, beyond the loaded models, in a process each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.gradients import compare_gradients
from distillknob.diagnosis.pair_scores import score_pair
from distillknob.diagnosis.pilot import pilot_rows
from distillknob.diagnosis.samples import ScoredTokens
from distillknob.diagnosis.traps.off_policy import off_policy_instability, off_policy_rows
from distillknob.diagnosis.traps.signal_sparsity import position_rows, quadrant_rows, signal_sparsity
from distillknob.diagnosis.traps.tail_noise import scatter_rows, tail_noise, tail_rows
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_tokenizer
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import answer_logits, batches, token_logprobs
from distillknob.tasks import get_task

VOCABULARY = 151_936
LARGE = {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16}
SMALL = {"hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 768, "num_attention_heads": 4}
BATCH_TOKENS = 2048


def random_model(shape: dict[str, int], device: str, seed: int) -> LanguageModel:
    """A Qwen3 of this shape under the embedded tokenizer, whose tokens are the first of the vocabulary."""
    tokenizer = load_tokenizer("zoo:teacher")
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=VOCABULARY,
        head_dim=128 if shape is LARGE else 64,
        num_key_value_heads=shape["num_attention_heads"] // 2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **shape,
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return LanguageModel(model.to(device).eval(), tokenizer)


def texts(answers: int, length: int) -> tuple[list[list[dict[str, str]]], list[list[int]]]:
    """Prompts of the embedded mathematics, and answers of random tokens of the whole vocabulary."""
    task = get_task("math")
    prompts = [task.messages(example) for example in task.examples("train", answers)]
    ids = torch.randint(VOCABULARY, (answers, length), generator=torch.Generator().manual_seed(0))
    return prompts, ids.tolist()


def bare(pair: tuple[LanguageModel, LanguageModel], prompts: list[Any], ids: list[list[int]]) -> None:
    """Both models' forward passes over the batches that scoring makes."""
    with torch.no_grad():
        for batch in batches(prompt_ids(pair[0].tokenizer, prompts), ids, pair[0].model.device, BATCH_TOKENS):
            for side in pair:
                answer_logits(side, batch)


def scored(pair: tuple[LanguageModel, LanguageModel], prompts: list[Any], ids: list[list[int]], ks: list[int]) -> Any:
    """The divergences of both models at every token, as `diagnose` scores the teacher's answers."""
    named: dict[str, Any] = {"task": "math", "policy": "off_policy", "prompt_A": torch.arange(len(ids))}
    return score_pair(*pair, prompts, ids, ks, batch_tokens=BATCH_TOKENS, **named)


def traps(sample: ScoredTokens) -> int:
    """Every trap that reads scores, and how many rows and findings they gave."""
    rows = [pilot_rows([sample]), tail_rows(sample), scatter_rows(sample), off_policy_rows(sample, sample)]
    rows += [position_rows(sample), quadrant_rows(sample)]
    findings = [tail_noise(sample), signal_sparsity(sample), off_policy_instability(sample)]
    return sum(map(len, rows)) + len(findings)


def timed(work: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def costs(shape: dict[str, int], answers: int, length: int, rounds: int, device: str) -> dict[str, Any]:
    teacher, student = pair = random_model(shape, device, 0), random_model(shape, device, 1)
    prompts, ids = texts(answers, length)
    ks = [*DiagnoseConfig().ks, VOCABULARY]

    def score() -> None:
        traps(scored(pair, prompts, ids, ks))

    def judge() -> None:
        token_logprobs(teacher, prompts, ids, batch_tokens=BATCH_TOKENS)

    bare(pair, prompts[:2], ids[:2])  # what the first call costs is no part of it
    seconds: dict[str, list[float]] = {"bare": [], "score": [], "candidates": []}
    for _ in range(rounds):
        seconds["bare"].append(timed(lambda: bare(pair, prompts, ids)))
        seconds["score"].append(timed(score))
        seconds["candidates"].append(timed(judge))
    few, sampling = prompts[:4], Sampling(max_new_tokens=16)
    apart = {
        "sampling, 4 × 2 answers of 16 tokens": timed(lambda: generate(student, few, 2, sampling)),
        "gradients, 1 prompt × 2 answers": timed(
            lambda: compare_gradients(teacher, student, "math", prompts[:1], [[row[:16] for row in ids[:2]]])
        ),
    }
    best = {name: min(values) for name, values in seconds.items()}
    return {
        "answers": answers,
        "length": length,
        "seconds": seconds,
        "score / bare": best["score"] / best["bare"],
        "candidates / bare of one model": 2 * best["candidates"] / best["bare"],
        "apart": apart,
    }


def peak_bytes() -> int:
    """This process's high-water mark of resident memory (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def growth_child(answers: int) -> None:
    teacher, student = random_model(SMALL, "cpu", 0), random_model(SMALL, "cpu", 1)
    prompts, ids = texts(answers, 64)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = peak_bytes()
    scored((teacher, student), prompts, ids, [1, 5, 50, 500, VOCABULARY])
    print(json.dumps({"tokens": 64 * answers, "extra_mib": (peak_bytes() - before) / 2**20}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a pair of two layers, and no growth")
    parser.add_argument("--growth-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.growth_of:
        growth_child(arguments.growth_of)
        return
    shape = SMALL if arguments.small else LARGE
    found = costs(shape, arguments.answers, arguments.length, arguments.rounds, arguments.device)
    if arguments.device == "cpu" and not arguments.small:
        found["growth"] = []
        for answers in (16, 32, 64, 128):
            command = [sys.executable, __file__, "--growth-of", str(answers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found["growth"].append(json.loads(done.stdout.splitlines()[-1]))
    print(json.dumps(found, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
