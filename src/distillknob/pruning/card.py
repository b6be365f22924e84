"""The model card of a pruned model, and the command that heals it."""

from __future__ import annotations

import shlex
from pathlib import Path

from distillknob.pruning.config import PruneConfig
from distillknob.results.prune import PruneResult

BY = {
    "even": "spread evenly, the first and the last among them",
    "first": "the first ones",
    "keep_layers": "named by hand",
    "influence": "those that change the hidden states most (block influence, arXiv 2403.03853)",
    "loss": "those without which the loss rises most (arXiv 2402.02834)",
    "block": "all but the block of neighbours across which the hidden states turn least (arXiv 2403.17887)",
}


def next_command(config: PruneConfig, run: Path) -> str:
    """Write the command that distils the pruned model's original into it: the same tasks where these were the texts."""
    words = ["distillknob", "distill", "--teacher", config.model, "--student", str(run / "model")]
    words += ["--method", "gkd"]
    words += ["--tasks", *(config.tasks if config.texts_file is None else ["TASK"])]
    return shlex.join([*words, "--output", f"{run}-healed"])


def pruned_card(config: PruneConfig, result: PruneResult) -> str:
    """Write how the model was made, what was measured of it, and what was not."""
    (deep, layers), (large, small) = result["layers"], result["parameters"]
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
    source = config.texts_file or f"train problems of {', '.join(config.tasks)}"
    before, after = result["before"], result["after"]
    return (
        f"---\nbase_model: {config.model}\ntags: [distillknob, pruned-model]\n---\n"
        f"# {config.model}, pruned to {small / 1e6:.3g} M of {large / 1e6:.3g} M parameters\n\n"
        f"Made by distillknob (`prune`). {' '.join(parts)} Nothing was trained.\n\n"
        f"Measured on {result['texts']} texts ({source}); perplexity of {result['held_back']} others "
        f"{before['perplexity']:.4g} before and {after['perplexity']:.4g} after.\n\n"
        "Unhealed such a model writes badly. Distil the original into it before any use:\n\n"
        f"    {result['next']}\n"
    )
