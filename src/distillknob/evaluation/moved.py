"""What moved between two models' answers to the same problems of a task: length, ways of writing, sure tokens.

All figures are means over problems, paired by problem, with 95 % intervals. Left out on purpose: corrections for the
number of figures. Of twenty intervals of a model beside its equal, one leaves out 0.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distillknob.errors import BadInputError
from distillknob.evaluation.clusters import cluster
from distillknob.models.sampling import Sample
from distillknob.models.scoring import Prompt
from distillknob.models.sure_tokens import SURE
from distillknob.results.stages import Figure, MovedCluster, MovedFigure, MovedShare, MovedTask, MovedWay
from distillknob.stats import paired_difference, pass_at_k
from distillknob.tasks import Task
from distillknob.tasks.base import as_prompt

SHOWN = 1000  # characters of an example
OTHER = "other"  # what tasks call an answer in none of the ways that they name


@dataclass(frozen=True)
class Written:
    """What a model wrote on problems of one task, a row a sample. `right` says which samples are right and finished;
    `logprobs` holds each sample's log-probabilities under the model itself, token by token in nats, or is None where
    they are not known."""

    prompts: Sequence[Prompt]
    samples: Sequence[Sample]
    right: Sequence[bool]
    logprobs: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        n = len(self.samples)
        logprobs = n if self.logprobs is None else len(self.logprobs)
        if {len(self.prompts), len(self.right), logprobs} != {n}:
            raise BadInputError(
                f"{n} samples, but {len(self.prompts)} prompts, {len(self.right)} marks of right ones and {logprobs} "
                "rows of log-probabilities: give one of each for a sample"
            )

    def by_problem(self) -> dict[str, list[int]]:
        """The places of each problem's samples, by its prompt."""
        places: dict[str, list[int]] = {}
        for i, prompt in enumerate(self.prompts):
            places.setdefault(json.dumps(prompt, ensure_ascii=False), []).append(i)
        return places


Problem = tuple[list[int], list[int]]  # the places of its samples: the first model's, the second's


def moved_on(task: Task, before: Written, after: Written, *, same: bool = False) -> MovedTask:
    """Tell what moved on `task` from one model's answers to another's, over the problems that both answered.

    Named ways and clusters count all answers, and come by the size of their change. With `same`, both are one model and
    no difference is uncertain. Raises BadInputError where the two share no problem.
    """
    first, second = before.by_problem(), after.by_problem()
    problems = [(first[prompt], second[prompt]) for prompt in first if prompt in second]
    if not problems:
        raise BadInputError(f"the two models' answers to {task.name} share no problem: give both the same problems")
    clusters, silhouette = _clusters(before, after, problems)
    moved: MovedTask = {
        "task": task.name,
        "problems": len(problems),
        "figures": _figures(before, after, problems),
        "ways": _ways(task, before, after, problems),
        "clusters": clusters,
        "silhouette": silhouette,
    }
    rows: list[MovedFigure | MovedWay | MovedCluster] = [*moved["figures"], *moved["ways"], *moved["clusters"]]
    for row in rows:
        if same and row["difference"] is not None:
            row["difference"], row["interval"] = 0.0, [0.0, 0.0]
    return moved


def _tokens(written: Written, places: list[int], drawn: int) -> float | None:
    lengths = [len(written.samples[i].token_ids) for i in places if written.right[i]]
    return float(np.mean(lengths)) if lengths else None


def _finished(written: Written, places: list[int], drawn: int) -> float:
    return float(np.mean([written.samples[i].finished for i in places]))


def _different(written: Written, places: list[int], drawn: int) -> float | None:
    """How many different right answers there are to be expected among `drawn` (rarefaction: Hurlbert, Ecology 52:577,
    1971), so that more right answers are not more different ones."""
    texts = Counter(written.samples[i].text.strip() for i in places if written.right[i])
    return sum(pass_at_k(texts.total(), count, drawn) for count in texts.values()) if drawn else None


def _sure(written: Written, places: list[int], drawn: int) -> float | None:
    if written.logprobs is None:
        return None
    values = [value > math.log(SURE) for i in places if written.right[i] for value in written.logprobs[i]]
    return float(np.mean(values)) if values else None


# Of right answers, but for `finished`, which is one of all.
FIGURES: dict[Figure, Callable[[Written, list[int], int], float | None]] = {
    "tokens": _tokens,
    "finished": _finished,
    "different": _different,
    "sure": _sure,
}


def _figures(before: Written, after: Written, problems: Sequence[Problem]) -> list[MovedFigure]:
    right = [(sum(before.right[i] for i in one), sum(after.right[i] for i in two)) for one, two in problems]
    figures: list[MovedFigure] = []
    for name, of in FIGURES.items():
        values = [
            (of(before, one, min(both)), of(after, two, min(both)))
            for (one, two), both in zip(problems, right, strict=True)
        ]
        pairs = [(one, two) for one, two in values if one is not None and two is not None]
        row: MovedFigure = {
            "name": name,
            "before": None,
            "after": None,
            "difference": None,
            "interval": [None, None],
            "problems": len(pairs),
        }
        if pairs:
            first, second = np.array(pairs).T
            change = paired_difference(first, second, proportion=name in ("finished", "sure"))
            row |= {
                "before": float(first.mean()),
                "after": float(second.mean()),
                "difference": change.mean,
                "interval": change.as_list(),
            }
        figures.append(row)
    return figures


def _share(marked: Sequence[bool], n: int, problems: Sequence[Problem]) -> MovedShare:
    """How the share of the marked answers moved. The first model's `n` answers stand before the other's."""
    shares = [
        (float(np.mean([marked[i] for i in one])), float(np.mean([marked[n + i] for i in two])))
        for one, two in problems
    ]
    first, second = np.array(shares).T
    change = paired_difference(first, second)
    return {
        "before": float(first.mean()),
        "after": float(second.mean()),
        "difference": change.mean,
        "interval": change.as_list(),
    }


def _by_change(row: MovedShare) -> float:
    return -abs(row["difference"])


def _ways(task: Task, before: Written, after: Written, problems: Sequence[Problem]) -> list[MovedWay]:
    """The ways that the task names; none where it names none."""
    ways = [task.style(sample.text) for sample in (*before.samples, *after.samples)]
    names = sorted(set(ways))
    if names == [OTHER]:
        return []
    n = len(before.samples)
    return sorted(
        ({"way": name, **_share([way == name for way in ways], n, problems)} for name in names), key=_by_change
    )


def _clusters(before: Written, after: Written, problems: Sequence[Problem]) -> tuple[list[MovedCluster], float | None]:
    """Clusters of what both wrote on these problems, and their silhouette."""
    n = len(before.samples)
    places = [i for one, two in problems for i in (*one, *(n + j for j in two))]
    problem_of = [number for number, (one, two) in enumerate(problems) for _ in (*one, *two)]
    samples = [*before.samples, *after.samples]
    prompts = [as_prompt(before.prompts[one[0]]) for one, _ in problems]
    clusters = cluster(prompts, [samples[i].text for i in places], problem_of)
    label_of = dict(zip(places, clusters.labels.tolist(), strict=True))
    rows: list[MovedCluster] = []
    for label, nearest in enumerate(clusters.nearest):
        marked = [label_of.get(i) == label for i in range(len(samples))]
        example = samples[places[nearest]].text
        rows.append(
            {
                "example": example if len(example) <= SHOWN else f"{example[:SHOWN]}…",
                "answers": sum(marked),
                **_share(marked, n, problems),
            }
        )
    return sorted(rows, key=_by_change), clusters.silhouette
