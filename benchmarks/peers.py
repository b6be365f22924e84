"""Our distillation beside TRL's on the same work: the step on the student's own samples, and a whole GKD training.

    python benchmarks/peers.py --output peers.json                    # about fifteen minutes on two cores
    python benchmarks/peers.py --core --output peers.json             # and the divergence core (divergence.py), an hour
    python benchmarks/peers.py --before ../older/src --only step      # beside an older source tree of ours

Contenders: our `DistillTrainer`, TRL's `DistillationTrainer` and TRL's experimental `GKDTrainer`. All train the same
student on the same prompts by the same divergence (Jensen–Shannon, β 0.5, temperature 1), as many rows a step, with the
student's own samples at the very same steps; none of these options is one that another lacks.

    step       every step on-policy; seconds of a step, the first left out (it loads and compiles what others reuse)
    training   λ 0.5: half of the steps on stored traces of the teacher; seconds from the trainer's making to its end
    budget     ours alone, at 96 rows as the demo trains: λ 0.5, 72 rows of which the first 896 tokens count

Each round of each contender is a process of its own, and rounds alternate, so that a busy machine slows all alike.
Memory is the peak beyond what was resident with both models loaded: of the process on Linux, of the allocator on a GPU.
Samples differ, so tokens are told beside seconds. Ratios travel better than seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What each of the contenders does."""

    name: str
    contenders: tuple[str, ...]
    share_on_policy: float
    batch: int
    tokens_per_step: int | None = None
    whole: bool = False  # is the time that of the whole training?


def works(batch: int) -> list[Work]:
    """The work that is compared."""
    return [
        Work("step", ("ours", "trl", "gkd", "before"), 1.0, batch),
        Work("training", ("ours", "gkd", "before"), 0.5, batch, whole=True),
        Work("budget", ("ours", "before"), 0.5, batch * 3 // 4, tokens_per_step=batch * 28 // 3),
    ]


# ---- In the child: one contender, one work --------------------------------------------------------------------------


def traces(teacher: str, student: str, tasks: Sequence[str], problems: int) -> list[Row]:
    """The teacher's answers to problems of the train split: rows of `prompt`, `completion` and `completion_ids`."""
    from distillknob.distillation.traces import TraceOptions, make_traces
    from distillknob.models.load import load_model
    from distillknob.tasks import get_tasks

    sides = load_model(student), load_model(teacher)
    return make_traces("teacher", get_tasks(tasks), problems, *sides, None, TraceOptions())


def measured(contender: str, work: Work, rows: list[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds (of each step but the first, or of the whole), trained tokens of each step, and peak memory beyond the
    loaded models in bytes."""
    import torch
    from divergence import Peak
    from transformers import TrainerCallback

    import distillknob
    from distillknob.models.load import load_model
    from distillknob.training.callbacks import add_callbacks

    ends: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    student, teacher = load_model(settings["student"], dtype="float32"), load_model(settings["teacher"])
    peak = Peak(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        make = {"ours": _ours, "before": _ours, "trl": _trl, "gkd": _gkd}[contender]
        trainer = make(work, rows, student, teacher.model, {**settings, "output_dir": folder}, tokens)
        add_callbacks(trainer, Clock())
        trainer.train()
    whole = time.perf_counter() - started
    return {
        "seconds": [whole] if work.whole else [after - before for before, after in pairwise(ends)],
        "tokens": tokens,
        "peak_bytes": peak.extra(),
        "source": str(Path(distillknob.__file__).parents[1]),
    }


def _common(work: Work, settings: dict[str, Any]) -> dict[str, Any]:
    """What the configs of all three trainers are told."""
    import torch

    return {
        "output_dir": settings["output_dir"],
        "max_steps": settings["steps"] + (0 if work.whole else 1),
        "per_device_train_batch_size": work.batch,
        "learning_rate": 1e-6,  # the student stays what it is, so that all steps sample alike
        "beta": 0.5,
        "temperature": 1.0,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
        "bf16": settings["bf16"],
        "use_cpu": not torch.cuda.is_available(),
    }


def _counting(base: type, tokens: list[int], mask: str) -> Any:
    """The trainer, which counts the tokens that it trains on: those of the column `mask` that aren't 0 (or −100)."""

    class Counting(base):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            values = inputs[mask]
            tokens.append(int((values[:, 1:] != -100).sum() if mask == "labels" else values.sum()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    return Counting


def _ours(work: Work, rows: list[Row], student: Any, teacher: Any, settings: dict[str, Any], tokens: list[int]) -> Any:
    from datasets import Dataset

    from distillknob.distillation.config import DistillConfig
    from distillknob.distillation.trainer import DistillTrainer

    config = DistillConfig(
        **_common(work, settings),
        method="gkd",
        lmbda=work.share_on_policy,
        max_completion_length=settings["longest"],
        tokens_per_step=work.tokens_per_step,
    )
    return _counting(DistillTrainer, tokens, "loss_mask")(
        model=student.model,
        teacher_model=teacher,
        args=config,
        train_dataset=Dataset.from_list([{name: row[name] for name in ("prompt", "completion_ids")} for row in rows]),
        processing_class=student.tokenizer,
    )


def _trl(work: Work, rows: list[Row], student: Any, teacher: Any, settings: dict[str, Any], tokens: list[int]) -> Any:
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer  # type: ignore[attr-defined]

    config = DistillationConfig(
        **_common(work, settings), max_completion_length=settings["longest"], dataloader_pin_memory=False
    )
    return _counting(DistillationTrainer, tokens, "completion_mask")(
        model=student.model,
        teacher_model=teacher,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
        processing_class=student.tokenizer,
    )


def _gkd(work: Work, rows: list[Row], student: Any, teacher: Any, settings: dict[str, Any], tokens: list[int]) -> Any:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from distillknob.distillation.trainer import DistillTrainer

    config = GKDConfig(
        **_common(work, settings),
        lmbda=work.share_on_policy,
        max_new_tokens=settings["longest"],
        dataloader_pin_memory=False,
        use_liger_kernel=False,
    )
    trainer = _counting(GKDTrainer, tokens, "labels")(
        model=student.model,
        teacher_model=teacher,
        args=config,
        train_dataset=Dataset.from_list(
            [{"messages": [*row["prompt"], {"role": "assistant", "content": row["completion"]}]} for row in rows]
        ),
        processing_class=student.tokenizer,
    )

    class SameSteps(TrainerCallback):
        """On the student's own samples at the steps at which ours is."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ours: Any = SimpleNamespace(args=SimpleNamespace(seed=args.seed, share_on_policy=work.share_on_policy))
            trainer.lmbda = 1.0 if DistillTrainer.on_policy(ours, state.global_step) else -1.0

    trainer.add_callback(SameSteps())
    return trainer


# ---- In the parent --------------------------------------------------------------------------------------------------


def in_a_process(asked: dict[str, Any], source: Path | None) -> Any:
    """What a child answers, of the package in that source tree."""
    path = {} if source is None else {"PYTHONPATH": str(source)}
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(asked)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | quiet | path,
    )
    return json.loads(done.stdout.splitlines()[-1])


def answer(asked: dict[str, Any]) -> Any:
    """A child's work."""
    file = Path(asked["rows"])
    if "contender" in asked:
        return measured(asked["contender"], Work(**asked["work"]), json.loads(file.read_text()), asked["settings"])
    settings = asked["settings"]
    rows = traces(settings["teacher"], settings["student"], settings["tasks"], settings["problems"])
    file.write_text(json.dumps(rows))
    return max(len(row["completion_ids"]) for row in rows)


def table(measurements: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a contender: medians over all rounds, and ours relative to it."""
    lines = [
        "| work | contender | seconds | trained tokens a step | peak MB | ours / it: time | time a token | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in measurements:
        ours = _medians(one["results"]["ours"])
        for name, rounds in one["results"].items():
            seconds, tokens, peak = _medians(rounds)
            ratios = "– | – | –"
            if name != "ours":
                by_token = (ours[0] / ours[1]) / (seconds / tokens)
                ratios = f"{ours[0] / seconds:.2f} | {by_token:.2f} | {ours[2] / peak:.2f}"
            lines.append(
                f"| {one['work']['name']} | {name} | {seconds:.3f} | {tokens:.0f} | {peak / 1e6:.0f} | {ratios} |"
            )
    return "\n".join(lines)


def _medians(rounds: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Seconds, tokens a step, and the largest peak of a contender's rounds."""
    seconds, tokens = ([value for one in rounds for value in one[name]] for name in ("seconds", "tokens"))
    return median(seconds), sum(tokens) / len(tokens), max(one["peak_bytes"] for one in rounds)


def compared(chosen: list[Work], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Each work by each of its contenders, round by round in turn. What was measured is kept after every work."""
    settings = {name: getattr(arguments, name) for name in ("teacher", "student", "tasks", "problems", "steps", "bf16")}
    measurements: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        asked = {"rows": str(Path(folder) / "rows.json"), "settings": settings}
        settings["longest"] = in_a_process(asked, None)
        for work in chosen:
            names = [name for name in work.contenders if name != "before" or arguments.before]
            results: dict[str, list[Any]] = {name: [] for name in names}
            for _ in range(arguments.rounds):
                for name in names:
                    source = arguments.before if name == "before" else None
                    results[name].append(in_a_process({**asked, "contender": name, "work": asdict(work)}, source))
            measurements.append({"work": asdict(work), "results": results})
            write(arguments, measurements)
    return measurements


def core(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The divergence core beside TRL's, GKD's and Liger's (`divergence.py`)."""
    from divergence import cases, measure, show

    measurements = []
    for case in cases([256, 1024], "cpu"):
        if len(case.contenders) > 1:
            results = measure(case, 2, 2, arguments.threads, 900.0)
            show(case, results)
            measurements.append({"case": asdict(case), "results": results})
    return measurements


def write(arguments: argparse.Namespace, measurements: list[dict[str, Any]], **more: Any) -> None:
    """Write what was measured so far, if a file is named."""
    if arguments.output:
        machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        settings = {"threads": arguments.threads, "rounds": arguments.rounds, "steps": arguments.steps}
        text = json.dumps({**machine, **settings, "measured": measurements, **more}, indent=2)
        arguments.output.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="zoo:teacher")
    parser.add_argument("--student", default="zoo:student")
    parser.add_argument("--tasks", nargs="+", default=["math", "qa", "instruct"])
    parser.add_argument("--problems", type=int, default=400, help="problems a task")
    parser.add_argument(
        "--batch", type=int, default=96, help="rows a step; three quarters of them in the work `budget`"
    )
    parser.add_argument("--steps", type=int, default=8, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16, the student's weights in float32")
    parser.add_argument("--threads", type=int, default=2, help="threads of the divergence core's processes")
    parser.add_argument("--only", choices=[work.name for work in works(1)], help="one work")
    parser.add_argument("--core", action="store_true", help="the divergence core as well, an hour longer")
    parser.add_argument(
        "--before", type=Path, help="the folder src of an older source tree of ours, measured beside it"
    )
    parser.add_argument("--output", type=Path, help="write the measurements as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        from distillknob.runtime.machine import keep_freed_memory, quiet_libraries

        quiet_libraries()
        keep_freed_memory()
        print(json.dumps(answer(json.loads(arguments.child))))
        return
    if arguments.before and not (arguments.before / "distillknob").is_dir():
        parser.error(
            f"--before {arguments.before}: there is no package distillknob in it; give the folder src of a tree"
        )
    chosen = [work for work in works(arguments.batch) if arguments.only in (None, work.name)]
    measurements = compared(chosen, arguments)
    print(table(measurements))
    if arguments.core:
        write(arguments, measurements, core=core(arguments))


if __name__ == "__main__":
    main()
