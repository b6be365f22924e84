"""The embedded checkpoints: small, real Hugging Face folders that ship with the library, and how they were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError, nearest
from distillknob.models.load import load_model
from distillknob.models.names import ZOO, zoo_path
from distillknob.runs.files import atomic_write, sha256

CARD = "zoo.json"  # hashes of the weights, and the scores measured when they were made
SEED = "seed.json"  # which seed a folder of `zoo build` was begun with, for one that is interrupted and goes on
CHECKED_PROBLEMS = 1000


def checkpoints() -> Path:
    """The folder of the embedded checkpoints."""
    return zoo_path(ZOO[0]).parent


def _card() -> dict[str, Any]:
    card: dict[str, Any] = json.loads((checkpoints() / CARD).read_text())
    return card


def list_zoo() -> list[dict[str, Any]]:
    """Name, size and recorded scores of each embedded checkpoint."""
    return [
        {"name": name, "parameters": entry["parameters"], "KiB": entry["bytes"] // 1024, **entry["scores"]}
        for name, entry in _card().items()
    ]


def measure(folder: Path) -> dict[str, float]:
    """Mean score by task on held-out problems, 4 samples each at temperature 1."""
    from distillknob.evaluation.task_result import evaluate_task
    from distillknob.tasks import get_task
    from distillknob.zoo.tokenizers import TASKS

    language_model = load_model(str(folder))

    def score(name: str) -> float:
        what = f"zoo {folder.name}"
        task = get_task(name)
        result = evaluate_task(
            language_model, task, problems=CHECKED_PROBLEMS, samples=4, modes=False, description=what
        )
        return result.score.mean

    return {name: score(name) for name in TASKS}


def verify_zoo() -> list[dict[str, Any]]:
    """Check each checkpoint's hash and its scores against the recorded ones: `holds` is False where one differs.

    Scores are sampled with a fixed seed; another machine's arithmetic may move them by the tolerance of 2 points.
    """
    rows = []
    for name, entry in _card().items():
        folder = checkpoints() / name
        same = sha256(folder / "model.safetensors") == entry["sha256"]
        scores = measure(folder)
        near = all(abs(scores[task] - recorded) <= 0.02 for task, recorded in entry["scores"].items())
        rows.append({"name": name, "hash": "same" if same else "differs", **scores, "holds": same and near})
    return rows


def build_zoo(output: Path, only: list[str] | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Retrain the checkpoints into `output` from nothing; complete ones are kept, interrupted ones go on.

    Another `seed` gives other weights and another reading of the same length; 0 is that of the checkpoints shipped.

    Raises:
        BadInputError: an unknown name in `only`, a negative seed, or checkpoints of another seed in `output`.
    """
    from distillknob.zoo.build import RECIPES, train

    for name in only or []:
        if name not in RECIPES:
            raise BadInputError(
                f"no embedded checkpoint named {name!r}{nearest(name, RECIPES, otherwise='.')} "
                f"Known: {', '.join(RECIPES)}"
            )
    if seed < 0:
        raise BadInputError(f"seed is {seed}; give 0 or more")
    output.mkdir(parents=True, exist_ok=True)
    mark = output / SEED
    begun = json.loads(mark.read_text())["seed"] if mark.exists() else seed
    if begun != seed:
        raise BadInputError(f"{output} holds checkpoints of seed {begun}, not {seed}: give another --output")
    atomic_write(mark, (json.dumps({"seed": seed}) + "\n").encode())
    for name, recipe in RECIPES.items():
        if (not only or name in only) and not (output / name / "model.safetensors").exists():
            train(recipe.reseeded(seed), output / name)
    card: dict[str, Any] = {}
    for name in RECIPES:
        weights = output / name / "model.safetensors"
        if weights.exists():
            model = load_model(str(output / name)).model
            card[name] = {
                "parameters": model.num_parameters(),
                "bytes": sum(file.stat().st_size for file in (output / name).iterdir()),
                "sha256": sha256(weights),
                "scores": measure(output / name),
            }
    atomic_write(output / CARD, (json.dumps(card, indent=2) + "\n").encode())
    return [{"name": name, "parameters": entry["parameters"], **entry["scores"]} for name, entry in card.items()]
