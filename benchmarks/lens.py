"""Does the lens, before any training, predict what a student gains? And how often does it alarm without a cause?

    python benchmarks/lens.py study --output runs/lens-study            # 12 pairs, judged
    python benchmarks/lens.py study --pilot --output runs/lens-pilot    # another one, to try the way
    python benchmarks/lens.py alarms --output runs/lens-alarms          # 20 pairs with nothing planted

`study` trains independent, uncalibrated pairs on the embedded mathematics. Sizes, numbers of steps and habits of
writing are drawn from a seed before anything is trained, separately for teacher and student. Each pair is diagnosed,
then the student is distilled (GKD) and evaluated before and after. The predictor is `distillknob.diagnosis.forecast`,
which stood as it is before the judged pairs were trained; the baselines are the student's accuracy and the mean
token KL.

`alarms` trains ten models alike but for their seeds, in a ring: each is the teacher of the next two. Both go on where
they were stopped.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.stage import diagnose
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.models.load import load_tokenizer
from distillknob.runs.files import atomic_directory, atomic_write
from distillknob.stats import interval, spearman
from distillknob.zoo.build import MATH, Phase, Recipe, train_phase, untrained

HABITS = ((1, 4), (1, 2), (1, 1), (2, 1), (4, 1))  # every step : two at a time, in what a model reads
METHOD: dict[str, Any] = {
    "method": "gkd",
    "max_steps": 150,
    "per_device_train_batch_size": 72,
    "tokens_per_step": 1200,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "gradient_checkpointing": False,
    "problems": 2000,
}


@dataclass(frozen=True)
class Making:
    """How one model is made: width, layers, steps of 64 examples, and how often it reads each way of writing."""

    hidden: int
    layers: int
    steps: int
    habit: tuple[int, int]
    seed: int


def drawn_pairs(count: int, seed: int) -> list[tuple[Making, Making]]:
    """Teacher and student of each pair, every property drawn on its own."""
    rng = random.Random(seed)
    pairs = []
    for i in range(count):
        teacher = Making(rng.choice((56, 64, 72)), 2, rng.choice((2000, 2500, 3000)), rng.choice(HABITS), 1000 + 10 * i)
        student = Making(rng.choice((40, 48)), 2, rng.choice((1000, 1500, 2000)), rng.choice(HABITS), 1005 + 10 * i)
        pairs.append((teacher, student))
    return pairs


def made(making: Making, folder: Path) -> str:
    """The trained model's folder; trained if it isn't there."""
    if folder.exists():
        return str(folder)
    tokenizer = load_tokenizer("zoo:teacher")
    recipe = Recipe("qwen3", making.hidden, making.layers, 4, 4 * making.hidden, "main", making.seed, ())
    every, two = making.habit
    phase = Phase(making.steps, 4e-3, mixture=MATH, practice={"every_step": every, "two_at_a_time": two})
    set_seed(making.seed)
    model = untrained(recipe, tokenizer)
    steps = folder.with_name(f"{folder.name}-steps")
    train_phase(model, tokenizer, "main", phase, making.seed, steps, progress=False)
    with atomic_directory(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return str(folder)


def score(model: str, folder: Path) -> dict[str, Any]:
    """The model's result on 500 test problems × 8 samples."""
    config = EvaluateConfig(models=[model], tasks=["math"], problems=500, samples=8, k=8)
    task: dict[str, Any] = evaluate(config, folder, resume=True).result["models"][0]["tasks"][0]
    return task


def lens(teacher: str, student: str, folder: Path) -> dict[str, Any]:
    """The diagnosis of the pair on 150 training problems."""
    config = DiagnoseConfig(teacher=teacher, student=student, tasks=["math"])
    result: dict[str, Any] = diagnose(config, folder, resume=True).result
    return result


def studied(teacher: Making, student: Making, folder: Path) -> dict[str, Any]:
    """One pair: what the lens said, and what came of the student."""
    names = made(teacher, folder / "teacher"), made(student, folder / "student")
    seen = lens(*names, folder / "diagnose")
    config = DistillConfig(teacher=names[0], student=names[1], tasks=["math"], seed=student.seed, **METHOD)
    distilled = distill(config, folder / "distill", resume=True)
    before, after = score(names[1], folder / "before"), score(str(distilled.path / "model"), folder / "after")
    told = {row["name"]: row["value"] for row in seen["findings"] if row["applicable"]}
    kl = {
        row["policy"]: row["value"]
        for row in seen["pilot"]
        if row["level"] == "token" and "forward" in row["direction"]
    }
    return {
        "teacher": asdict(teacher),
        "student": asdict(student),
        "teacher_score": score(names[0], folder / "teacher-score")["score"],
        "student_score": before["score"],
        "gain": after["score"] - before["score"],
        "styles": {"before": before["styles"], "after": after["styles"]},
        "forecast": seen["forecast"][0]["gain"],
        "lens_student_score": seen["forecast"][0]["score"],
        "mean_kl": kl["off_policy"],
        "findings": told,
    }


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlations with the gain, and 95 % percentile intervals of a bootstrap over pairs. `lead` is by how much
    the forecast's is above the absolute value of each baseline's."""
    gain = np.array([row["gain"] for row in rows])
    by: dict[str, Any] = {
        "forecast": np.array([row["forecast"] for row in rows]),
        "student_score": np.array([row["lens_student_score"] for row in rows]),
        "mean_kl": np.array([row["mean_kl"] for row in rows]),
        "capacity_gap": np.array([row["findings"].get("capacity_gap", np.nan) for row in rows]),
    }
    draws = np.random.default_rng(0).integers(len(rows), size=(10_000, len(rows)))

    def resampled(of: Callable[[np.ndarray], float]) -> list[float]:
        found = np.array([of(draw) for draw in draws])
        return [float(end) for end in np.nanquantile(found, [0.025, 0.975])]

    found: dict[str, Any] = {"pairs": len(rows)}
    for name, values in by.items():
        found[name] = {
            "spearman": spearman(values, gain),
            "interval": resampled(lambda at, v=values: spearman(v[at], gain[at])),  # type: ignore[misc]
        }
    for name in ("student_score", "mean_kl"):
        found[name]["lead"] = resampled(
            lambda at, v=by[name]: spearman(by["forecast"][at], gain[at]) - abs(spearman(v[at], gain[at]))  # type: ignore[misc]
        )
    found["mean_absolute_error"] = float(np.abs(by["forecast"] - gain).mean())
    return found


def study(output: Path, *, pilot: bool) -> dict[str, Any]:
    rows = []
    pairs = drawn_pairs(1, seed=99) if pilot else drawn_pairs(12, seed=1)
    for i, (teacher, student) in enumerate(pairs):
        rows.append(studied(teacher, student, output / f"pair-{i:02d}"))
        print(json.dumps(rows[-1]), flush=True)
    return {"rows": rows, **({} if pilot else {"judged": judged(rows)})}


def alarms(output: Path, models: int = 10) -> dict[str, Any]:
    """How often each trap fires, and how gravely, over the ring's pairs."""
    names = [made(Making(48, 2, 1500, (1, 1), 2000 + i), output / f"model-{i:02d}") for i in range(models)]
    fired: dict[str, list[str]] = {}
    for i, step in ((i, step) for i in range(models) for step in (1, 2)):
        seen = lens(names[i], names[(i + step) % models], output / f"diagnose-{i:02d}-{step}")
        for row in seen["findings"]:
            if row["applicable"]:
                fired.setdefault(row["name"], []).append(row["severity"])
    rates = {}
    for name, severities in fired.items():
        rate = interval(np.array([float(severity != "none") for severity in severities]))
        rates[name] = {
            "fired": rate.mean,
            "interval": rate.as_list(),
            "severities": {level: severities.count(level) for level in ("none", "low", "medium", "high")},
            "pairs": len(severities),
        }
    return {"rates": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["study", "alarms"])
    parser.add_argument("--output", type=Path, required=True, help="folder of the models and runs, and of the result")
    parser.add_argument("--pilot", action="store_true", help="another pair, not judged")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = study(arguments.output, pilot=arguments.pilot) if arguments.what == "study" else alarms(arguments.output)
    atomic_write(arguments.output / "lens.json", json.dumps(found, indent=2).encode())
    print(json.dumps(found.get("judged") or found.get("rates") or found["rows"], indent=2))


if __name__ == "__main__":
    main()
