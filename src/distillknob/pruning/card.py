"""The model card of a pruned model, and the command that heals it."""

from __future__ import annotations

from pathlib import Path

from distillknob.config.rates import usual_rate
from distillknob.inputs.preflight import LARGE
from distillknob.pruning.config import PruneConfig
from distillknob.publishing.card import Card
from distillknob.results.prune import PruneResult
from distillknob.results.schema import Bounds
from distillknob.runs.commands import command, current_recipe, unused
from distillknob.verdicts.pruned import nearly_anew

# Of the command that heals. Half of the embedded teacher came back to 17 % in 900 steps of 32 rows at three times a
# student's usual rate, and to 1.5 % in 600 at that rate itself (docs/how-to/compress-a-model.md). How many a lighter
# cut takes wasn't measured.
HEAL_STEPS, ANEW_STEPS = 500, 2000
ANEW_TIMES = 3  # a student's usual rate, trained in full; an adapter's is high already
ROWS, STEP_ROWS, WARM_UP = 8, 32, 10

BY = {
    "even": "spread evenly, the first and the last among them",
    "first": "the first ones",
    "keep_layers": "named by hand",
    "influence": "those that change the hidden states most (block influence, arXiv 2403.03853)",
    "loss": "those without which the loss rises most (arXiv 2402.02834)",
    "block": "all but the block of neighbours across which the hidden states turn least (arXiv 2403.17887)",
}


def next_command(config: PruneConfig, run: Path, parameters: int, *, anew: bool) -> str:
    """Write the command that distils the pruned model's original into it, which has so many `parameters`.

    It runs as it stands: by the recipe that the run was started with, which has lengths, rows and rates of its own, or
    else with a rate for this size. The teacher writes the traces (`lmbda` 0), since the student can't write yet.
    `anew`: next to nothing of the model is left.
    """
    recipe = current_recipe()
    large = parameters >= LARGE
    rate = usual_rate("distill", parameters, lora=large)
    if anew and not large:
        rate *= ANEW_TIMES
    training = {
        "learning_rate": f"{rate:g}",
        "lr_scheduler_type": "cosine",
        "warmup_steps": WARM_UP,
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": STEP_ROWS // ROWS,
    }
    adapter = ["--use-peft", "--merge-adapter", "--gradient-checkpointing"] if large else []
    tasks = config.tasks if config.texts_file is None else None
    if tasks is None and (recipe is None or "tasks" not in recipe.says):
        tasks = ["TASK"]
    return command(
        "distill",
        *([] if recipe else adapter),
        recipe=recipe,
        teacher=config.model,
        student=str(run / "model"),
        method="gkd",
        lmbda=0,
        tasks=tasks,
        max_steps=ANEW_STEPS if anew else HEAL_STEPS,
        **({} if recipe else training),
        chat_template_kwargs=config.chat_template_kwargs,
        output=unused(run.with_name(f"{run.name}-healed")),
    )


def pruned_card(config: PruneConfig, run: Path, result: PruneResult) -> str:
    """Write how the model was made, what was measured of it, and what was not."""
    large, small = result["parameters"]
    return Card(
        title=f"{config.model}, pruned to {small / 1e6:.3g} M of {large / 1e6:.3g} M parameters",
        base=config.model,
        kind="pruned-model",
        made=f"Made by distillknob (`prune`). {' '.join(_left_out(result))} Nothing was trained.",
        evidence=_evidence(config, result),
        limits=[
            "Unhealed such a model writes badly.",
            *([f"{left[:1].upper()}{left[1:]}."] if (left := nearly_anew(result)) is not None else []),
            "What it lost was measured on the texts above alone.",
        ],
        use=f"A student to start from. Distil the original into it before any use:\n\n    {result['next']}",
        misuse="Don't use it as it is. The original's licence and its limits hold here too.",
        run=run,
        seed=config.seed,
        place=config.hub_model_id,
    ).text()


def _left_out(result: PruneResult) -> list[str]:
    deep, layers = result["layers"]
    parts = []
    if layers < deep:
        again = ", one at a time, each measured anew" if result["iterative"] else ""
        parts.append(
            f"Of {deep} layers (numbered from 0) these stay: {', '.join(map(str, result['stays']))}; "
            f"{BY[result['by']]}{again}."
        )
    if result["mlp_width"] is not None:
        wide, narrow = result["mlp_width"]
        parts.append(
            f"Of the {wide} intermediate neurons of each MLP {narrow} stay: those with the largest sum of absolute "
            "activations (arXiv 2407.14679)."
        )
    return parts


def _source(config: PruneConfig) -> str:
    return config.texts_file or f"train problems of {', '.join(config.tasks)}"


def _evidence(config: PruneConfig, result: PruneResult) -> str:
    rows = [
        f"| {name} | {row['perplexity']:.4g} | {_interval(row['perplexity_interval'])} |"
        for name, row in (("before", result["before"]), ("after", result["after"]))
    ]
    table = "\n".join(["| model | perplexity | 95 % interval |", "| --- | --- | --- |", *rows])
    return (
        f"Chosen on {result['texts']} texts ({_source(config)}), compared on {result['held_back']} others:\n\n{table}"
    )


def _interval(bounds: Bounds) -> str:
    low, high = bounds
    return "–" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
