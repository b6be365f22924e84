"""What `gpu.py` measures beside others' code, one piece of work in a process: steps beside TRL's, sampling beside
transformers' and vLLM's, and a GPU's figures beside a CPU's.

    python benchmarks/gpu_work.py calibrate-step FOLDER tiny cpu

FOLDER holds `teacher` and `student`, as gpu.py's part `models` makes them. Each result is a line of JSON on stdout, so
that what was measured before a failure stays.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {
    "qwen3": {"rows": 16, "tokens": 128, "steps": 2, "sampled": (64, 256), "new": 256, "problems": 32},
    "tiny": {"rows": 8, "tokens": 8, "steps": 1, "sampled": (4,), "new": 8, "problems": 4},
}


def main() -> None:
    """Run the work that the command line names."""
    from distillknob.runtime.machine import quiet_libraries

    work, folder, shapes, device = sys.argv[1:]
    quiet_libraries()
    for name, value in WORKS[work](Path(folder), SIZES[shapes], device):
        print(json.dumps({name: value}), flush=True)


# ---- Steps ----------------------------------------------------------------------------------------------------------


def calibrate_step(folder: Path, sizes: dict[str, Any], device: str) -> Any:
    """Our calibration and plain GRPO of the same teacher with the same adapter, on the same problems."""
    from trl import GRPOTrainer  # type: ignore[attr-defined]

    from distillknob.calibration.config import CalibrationConfig
    from distillknob.calibration.rows import training_rows
    from distillknob.calibration.trainer import CalibrationTrainer
    from distillknob.models.load import load_model
    from distillknob.tasks import get_task
    from distillknob.training.grading import task_reward

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        texts = [messages[0]["content"] for messages in completions]
        added = {"finished": [True] * len(texts), "answer_text": texts}  # as our trainer adds it
        return task_reward(completions, **added | columns)

    def make(trainer: Any, output: str) -> Any:
        teacher = load_model(str(folder / "teacher"), device=device)
        config = CalibrationConfig(
            **_common(sizes, device, output),
            teacher=str(folder / "teacher"),
            target=str(folder / "student"),
            eta=-0.25,
            gate=False,  # random weights are never right
            num_generations=8,
            guard=False,
        )
        ours = trainer is CalibrationTrainer
        return trainer(
            model=teacher.model,
            reward_funcs=[reward],
            args=config,
            train_dataset=training_rows([get_task("math")], 64, seed=0),
            processing_class=teacher.tokenizer,
            peft_config=_adapter(),
            **({"target": load_model(str(folder / "student"), device=device)} if ours else {}),
        )

    for name, trainer in (("distillknob", CalibrationTrainer), ("TRL GRPO", GRPOTrainer)):
        yield name, _steps(lambda output, trainer=trainer: make(trainer, output), device)


def distill_step(folder: Path, sizes: dict[str, Any], device: str) -> Any:
    """Our GKD and TRL's DistillationTrainer of the same student with the same adapter, on its own samples."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer  # type: ignore[attr-defined]

    from distillknob.distillation.config import DistillConfig
    from distillknob.distillation.trainer import DistillTrainer
    from distillknob.models.load import load_model
    from distillknob.tasks import get_task

    task = get_task("math")
    rows = [{"prompt": task.messages(example)} for example in task.examples("train", 64)]

    def make(ours: bool, output: str) -> Any:
        student, teacher = (load_model(str(folder / name), device=device) for name in ("student", "teacher"))
        common = _common(sizes, device, output) | {"beta": 0.5, "temperature": 1.0}
        config = DistillConfig(**common, method="gkd", lmbda=1.0) if ours else DistillationConfig(**common)
        return (DistillTrainer if ours else DistillationTrainer)(
            model=student.model,
            teacher_model=teacher.model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=student.tokenizer,
            peft_config=_adapter(),
        )

    for name, ours in (("distillknob", True), ("TRL DistillationTrainer", False)):
        yield name, _steps(lambda output, ours=ours: make(ours, output), device)


def _common(sizes: dict[str, Any], device: str, output: str) -> dict[str, Any]:
    """What the configs of all trainers are told."""
    return {
        "output_dir": output,
        "max_steps": sizes["steps"] + 1,
        "per_device_train_batch_size": sizes["rows"],
        "max_completion_length": sizes["tokens"],
        "learning_rate": 1e-6,
        "gradient_checkpointing": True,
        "bf16": device == "cuda",
        "use_cpu": device == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
    }


def _adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _steps(make: Callable[[str], Any], device: str) -> dict[str, Any]:
    """Seconds of each step but the first, which loads and compiles, and peak bytes with the weights."""
    import torch
    from transformers import TrainerCallback

    from distillknob.training.callbacks import add_callbacks

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as output:
        trainer = make(output)
        add_callbacks(trainer, Clock())
        trainer.train()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    del trainer
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return {"seconds": [after - before for before, after in itertools.pairwise(ends)], "peak_bytes": peak}


# ---- Sampling -------------------------------------------------------------------------------------------------------


def sampling(folder: Path, sizes: dict[str, Any], device: str) -> Any:
    """New tokens a second from the teacher's shapes."""
    from sampling import ours, plain
    from transformers import GenerationConfig

    from distillknob.models.chat import prompt_ids
    from distillknob.models.load import load_model
    from distillknob.tasks import get_task

    model = load_model(str(folder / "teacher"), device=device)
    task, new = get_task("math"), sizes["new"]
    examples = task.examples("train", max(sizes["sampled"]) // 4)
    prompts = [task.messages(example) for example in examples for _ in range(4)]
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new,
        eos_token_id=model.ends, pad_token_id=model.tokenizer.pad_token_id,
    )  # fmt: skip

    def continuous(rows: int) -> int:
        out = model.model.generate_batch(inputs=prompt_ids(model.tokenizer, prompts[:rows]), generation_config=config)
        return sum(len(one.generated_tokens) for one in out.values())

    ways: dict[str, Callable[[int], int]] = {
        "distillknob": lambda rows: ours(model, prompts[:rows], 1, new)(0),
        "transformers generate": lambda rows: plain(model, prompts[:rows], 1, new)(0),
    }
    if device == "cuda":  # paged attention has no CPU kernel worth timing
        ways["transformers generate_batch"] = continuous
    for name, way in ways.items():
        for rows in sizes["sampled"]:
            way(2)  # what is loaded and compiled once
            yield f"{name}, {rows} rows", _rate(lambda way=way, rows=rows: way(rows), device)
    if importlib.util.find_spec("vllm") is None:
        yield "vLLM", "not installed"
        return
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    engine = LLM(model=str(folder / "teacher"), max_model_len=1024, gpu_memory_utilization=0.6)  # beside ours
    for rows in sizes["sampled"]:

        def served(rows: int = rows) -> int:
            out = engine.chat(prompts[:rows], SamplingParams(temperature=1.0, max_tokens=new))
            return sum(len(one.outputs[0].token_ids) for one in out)

        yield f"vLLM, {rows} rows", _rate(served, device)


def _rate(call: Callable[[], int], device: str) -> dict[str, float]:
    import torch

    started = time.perf_counter()
    tokens = call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


# ---- A GPU's figures beside a CPU's ---------------------------------------------------------------------------------


def parity(folder: Path, sizes: dict[str, Any], device: str) -> Any:
    """The embedded pair in float32 on both: samples of one seed, their log-probabilities, and divergences of them."""
    import torch

    from distillknob.divergences.fused import fused_divergence
    from distillknob.models.chat import prompt_ids
    from distillknob.models.heads import head_of
    from distillknob.models.load import load_model
    from distillknob.models.sampling import Sampling, generate
    from distillknob.models.scoring import answer_hidden, batch_of, token_logprobs
    from distillknob.tasks import get_task

    task = get_task("math")
    prompts = [task.messages(one) for one in task.examples("train", sizes["problems"])]
    drawn: dict[str, Any] = {}
    scored: dict[str, Any] = {}
    divergences: dict[str, dict[str, float]] = {}
    for where in ("cpu", device):
        student, teacher = (load_model(f"zoo:{name}", device=where, dtype="float32") for name in ("student", "teacher"))
        drawn[where] = generate(teacher, prompts, 4, Sampling(max_new_tokens=56, seed=3))
        asked, samples, _ = drawn["cpu"].flat()
        ids = [sample.token_ids for sample in samples]
        scored[where] = torch.cat(token_logprobs(teacher, asked, ids))
        rows = list(range(len(ids)))
        batch = batch_of(rows, prompt_ids(teacher.tokenizer, asked), ids, torch.device(where))
        with torch.no_grad():
            hidden = [answer_hidden(side, batch) for side in (student, teacher)]
        heads = [head_of(side.model) for side in (student, teacher)]
        divergences[where] = {
            kind: float(fused_divergence(hidden[0], heads[0].weight_VH, hidden[1], heads[1].weight_VH, kind))
            for kind in ("forward_kl", "reverse_kl", "jsd")
        }
    texts = [[sample.token_ids for sample in drawn[where].flat()[1]] for where in ("cpu", device)]
    yield "equal samples", sum(map(list.__eq__, *texts)) / len(texts[0])
    yield "samples", len(texts[0])
    yield "largest difference of a log-probability, nats", float((scored["cpu"] - scored[device]).abs().max())
    yield "divergences", divergences


WORKS: dict[str, Callable[[Path, dict[str, Any], str], Any]] = {
    "calibrate-step": calibrate_step,
    "distill-step": distill_step,
    "sampling": sampling,
    "parity": parity,
}


if __name__ == "__main__":
    main()
