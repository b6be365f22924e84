"""Diagnoses set beside each other, problem by problem: the causal table of what a calibration changed.

Each diagnosis keeps its measures by problem (`by_prompt.json`). Diagnoses of the same student on the same problems are
paired, so that a difference is the teacher's. A value is the mean over problems of each problem's mean, which weights
problems alike; the pilot table weights tokens alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillknob.diagnosis.samples import Candidates, Continuations, ScoredAnswers, ScoredTokens, StyledAnswers
from distillknob.diagnosis.traps.capacity_gap import student_cost
from distillknob.diagnosis.traps.student_prefixes import HALF, score_by_prompt
from distillknob.diagnosis.traps.tail_noise import HEAD
from distillknob.diagnosis.traps.wrong_trace_preference import in_one_way, in_two_ways, preference_by_prompt
from distillknob.errors import BadInputError
from distillknob.results.experiments import MeasureByProblem, PairedRow
from distillknob.runs.files import read_json
from distillknob.runs.run import Run, load_run
from distillknob.stats import paired_difference

BY_PROMPT = "by_prompt.json"
SAME = ("student", "tasks", "problems", "samples", "candidates", "max_new_tokens", "seed")  # for a pairing by problem


def values_by_prompt(
    on_policy: ScoredAnswers,
    off_policy: ScoredAnswers,
    candidates: Candidates,
    styled: StyledAnswers,
    continuations: Continuations,
) -> list[dict[str, Any]]:
    """Measures of one task: `measure`, `unit`, and for each problem that has one its number and value."""
    cost_A = student_cost(styled)[styled.right_A]
    log_ratio_A = on_policy.per_answer(on_policy.student_logprob_N - on_policy.teacher_logprob_N)
    by_token = (
        _by_token(on_policy, off_policy)
        if isinstance(on_policy, ScoredTokens) and isinstance(off_policy, ScoredTokens)
        else []
    )
    found = [
        *by_token,
        ("sequence_reverse_kl", "nats/answer", _means(on_policy.prompt_A, log_ratio_A)),
        ("wrong_trace_preference", "share", preference_by_prompt(candidates, "sum")),
        ("wrong_trace_preference_per_token", "share", preference_by_prompt(candidates, "mean")),
        ("wrong_trace_preference_in_one_way", "share", preference_by_prompt(candidates, "sum", in_one_way)),
        ("wrong_trace_preference_in_two_ways", "share", preference_by_prompt(candidates, "sum", in_two_ways)),
        ("student_cost_of_right_answers", "nats/answer", _means(styled.prompt_A[styled.right_A], cost_A)),
        ("teacher_score", "share", score_by_prompt(continuations, 0.0)),
        ("teacher_score_on_student_prefixes", "share", score_by_prompt(continuations, HALF)),
    ]
    return [
        {"task": on_policy.task, "measure": measure, "unit": unit, "prompt": prompts, "value": values}
        for measure, unit, (prompts, values) in found
    ]


def _by_token(
    on_policy: ScoredTokens, off_policy: ScoredTokens
) -> list[tuple[str, str, tuple[list[int], list[float]]]]:
    """The measures that need one vocabulary."""
    at = max((j for j, k in enumerate(off_policy.ks) if k <= HEAD), default=0)
    beyond_N = off_policy.forward_kl_N - off_policy.forward_parts_topk_NK[:, at]
    nats = "nats/token"
    return [
        ("token_reverse_kl_on_policy", nats, _means(on_policy.prompt_N, on_policy.reverse_kl_N)),
        ("token_forward_kl_on_policy", nats, _means(on_policy.prompt_N, on_policy.forward_kl_N)),
        ("token_reverse_kl_off_policy", nats, _means(off_policy.prompt_N, off_policy.reverse_kl_N)),
        ("token_forward_kl_off_policy", nats, _means(off_policy.prompt_N, off_policy.forward_kl_N)),
        (f"forward_kl_beyond_top_{off_policy.ks[at]}", nats, _means(off_policy.prompt_N, beyond_N)),
    ]


def _means(prompt: torch.Tensor, value: torch.Tensor) -> tuple[list[int], list[float]]:
    """The problems in order, and the mean of each one's values."""
    prompts, place = prompt.unique(return_inverse=True)
    sums = torch.zeros(len(prompts), dtype=torch.float64).index_add_(0, place, value.double())
    return prompts.tolist(), (sums / torch.bincount(place, minlength=len(prompts))).tolist()


def compare(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Finished diagnoses of one student beside each other: `runs` (path, teacher), and `rows`, for each task, measure
    and run its `value`, and its `difference` to the first run with a 95 % interval, paired over the problems that both
    have (`n`). Differences of the first run are None.

    Raises BadInputError for fewer than two runs, runs that are no finished diagnoses, and runs whose student, problems
    or seed differ.
    """
    if len(paths) < 2:
        raise BadInputError(
            f"--compare got {len(paths)} run: give two or more finished diagnoses, the one before calibration first"
        )
    runs = [_diagnosis(Path(path)) for path in paths]
    for run in runs[1:]:
        for name in SAME:
            before, now = runs[0].config[name], run.config[name]
            if before != now:
                raise BadInputError(
                    f"{run.path} was diagnosed with {name}={now!r}, {runs[0].path} with {before!r}: diagnose both "
                    "on the same student and problems, or they can't be paired"
                )
    tables = [read_json(run.path / BY_PROMPT) for run in runs]
    rows = [
        {"run": str(run.path), "teacher": run.config["teacher"], **row}
        for run, table in zip(runs, tables, strict=True)
        for row in paired_rows(tables[0], table, first=run is runs[0])
    ]
    order = {(row["task"], row["measure"]): place for place, row in enumerate(tables[0])}
    rows.sort(key=lambda row: order[row["task"], row["measure"]])
    told = [{"run": str(run.path), "teacher": run.config["teacher"]} for run in runs]
    return {"stage": "compare", "student": runs[0].config["student"], "runs": told, "rows": rows}


def paired_rows(
    before: Sequence[MeasureByProblem], now: Sequence[MeasureByProblem], *, first: bool = False
) -> list[PairedRow]:
    """For each task and measure that both diagnoses have: `value` now, its `difference` to before with its `interval`,
    paired over the `n` problems that both have. `first`: these are the ones to compare with. Where every figure of
    every problem agrees it is the same teacher: nothing of a difference of 0 is uncertain then."""
    same = list(before) == list(now)
    table = {(row["task"], row["measure"]): row for row in now}
    return [
        _paired(row, table[row["task"], row["measure"]], first=first, same=same)
        for row in before
        if (row["task"], row["measure"]) in table
    ]


def _paired(before: MeasureByProblem, now: MeasureByProblem, *, first: bool, same: bool) -> PairedRow:
    row: PairedRow = {
        "task": before["task"],
        "measure": before["measure"],
        "unit": before["unit"],
        "value": _mean(now["value"]),
        "difference": None,
        "interval": None,
        "n": len(now["value"]) if first else 0,
    }
    if first:
        return row
    # An infinite KL has no number in the file.
    old, new = (
        {prompt: found for prompt, found in zip(row["prompt"], row["value"], strict=True) if found is not None}
        for row in (before, now)
    )
    shared = [prompt for prompt in old if prompt in new]
    if not shared:
        return row
    if same:
        return {**row, "difference": 0.0, "interval": [0.0, 0.0], "n": len(shared)}
    is_share = before["unit"] == "share"
    gap = paired_difference([old[p] for p in shared], [new[p] for p in shared], proportion=is_share)
    return {**row, "difference": gap.mean, "interval": gap.as_list(), "n": gap.n}


def _mean(values: Iterable[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None


def _diagnosis(path: Path) -> Run:
    run = load_run(path)
    if run.stage != "diagnose" or not run.complete:
        state = "" if run.complete else "unfinished "
        raise BadInputError(f"{path} holds an {state}{run.stage} run: --compare wants finished diagnoses")
    if not (path / BY_PROMPT).exists():
        raise BadInputError(f"{path} has no {BY_PROMPT}: it was written by an older distillknob, diagnose it again")
    return run
