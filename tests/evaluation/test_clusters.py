"""Clusters of answers find the ways that a task names without being told them, and none where there are none."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from distillknob.evaluation.clusters import BACK, LONGEST, NUMBER, ON, Clusters, cluster, patterns, pieces
from distillknob.tasks import get_task

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=6)) for i in range(2000)]


def gold(name: str, n: int, samples: int, seed: int = 0) -> tuple[list[str], list[str], list[int], list[str]]:
    """Prompts, right answers in all ways of writing alike, the answers' problems, and their ways."""
    task = get_task(name)
    rng, answers, problem_of = random.Random(seed), [], []
    examples = task.examples("train", n, seed=seed)
    for i, example in enumerate(examples):
        answers += rng.choices(list(example.solutions.values()), k=samples)
        problem_of += [i] * samples
    return [example.prompt for example in examples], answers, problem_of, [task.style(answer) for answer in answers]


def prose(problems: int, samples: int, words: int, marks: Sequence[str]) -> tuple[list[str], list[str], list[int]]:
    """Answers of common and rare words, a quarter of them the prompt's, with one of `marks` at every 20th place."""
    rng = random.Random(0)
    weights = [1 / i for i in range(1, len(WORDS) + 1)]
    prompts, answers, problem_of = [], [], []
    for problem in range(problems):
        asked = rng.choices(WORDS, weights, k=20)
        prompts.append(" ".join(asked))
        for _ in range(samples):
            text = rng.choices(WORDS, weights, k=words)
            text[::4] = rng.choices(asked, k=len(text[::4]))
            mark = rng.choice(marks)
            answers.append(" ".join(f"{mark} {word}" if i % 20 == 0 else word for i, word in enumerate(text)))
            problem_of.append(problem)
    return prompts, answers, problem_of


def sizes(clusters: Clusters) -> list[int]:
    return sorted(np.bincount(clusters.labels).tolist())


def test_words_and_numbers_of_the_prompt_are_marks_that_keep_their_order() -> None:
    prompts = ["Add 30 to 007, Lina.", *("Add nothing.",) * 19]
    (pattern,) = patterns(prompts, ["Lina: 30 + 7 = 37\n30, lina"], [0])
    assert pattern == [ON, ":", BACK, "+", NUMBER, "=", NUMBER, "\n", BACK, ",", ON]
    (pattern,) = patterns(prompts, ["Add 30"], [0])
    assert pattern == ["add", ON]  # which most prompts say


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    assert pieces("東京は３つ 1,000.5 Ünder_x") == ["東", "京", "は", "３", "つ", "1,000.5", "ünder", "_", "x"]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["math", "qa"])
def test_the_ways_of_a_task_are_found_again_in_its_gold_solutions(name: str, seed: int) -> None:
    prompts, answers, problem_of, ways = gold(name, 150, 6, seed)
    clusters = cluster(prompts, answers, problem_of)
    assert adjusted_rand_score(ways, clusters.labels) > 0.9
    nearest = [ways[i] for i in clusters.nearest]
    assert set(nearest) == set(ways)
    assert [int(clusters.labels[i]) for i in clusters.nearest] == list(range(len(nearest)))
    assert clusters.silhouette is not None and clusters.silhouette > 0.5


def test_ways_are_found_in_prose_and_none_where_there_are_none() -> None:
    prompts, answers, problem_of = prose(80, 4, 100, ["\n-", "therefore"])
    clusters = cluster(prompts, answers, problem_of)
    assert adjusted_rand_score(["\n-" in answer for answer in answers], clusters.labels) > 0.95
    alike = cluster(*prose(80, 4, 100, ["therefore"]))
    assert sizes(alike) == [320] and alike.silhouette is None


def test_problems_that_are_answered_in_one_way_each_are_no_two_ways() -> None:
    prompts, answers, problem_of, _ = gold("math", 60, 1)
    assert len(sizes(cluster(prompts, answers * 4, problem_of * 4))) == 1


def test_one_input_gives_one_result() -> None:
    rows = gold("qa", 40, 4)[:3]
    first, second = cluster(*rows), cluster(*rows)
    assert first.labels.tolist() == second.labels.tolist()
    assert (first.nearest, first.silhouette) == (second.nearest, second.silhouette)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["x"], [1]),
        (["", " \n"], [2]),
        (["same answer"] * 12, [12]),
        (["same answer"] * 9 + ["", "", "\n"], [3, 9]),
        ([str(i) for i in range(12)], [12]),
        (["…"] * 12, [12]),
        (["a b c", "d e f"] * 6, [6, 6]),
        (["答案是五", "我们一步一步来"] * 6, [6, 6]),
        (["\x00\ud800 <b>&"] * 12, [12]),
    ],
)
def test_few_empty_and_strange_answers_are_clustered(answers: list[str], expected: list[int]) -> None:
    problem_of = [i // 4 for i in range(len(answers))]
    assert sizes(cluster(["one?", "two?", "three?"], answers, problem_of)) == expected


def test_what_stands_far_behind_in_long_answers_is_not_read() -> None:
    prompts, answers, problem_of = prose(20, 4, LONGEST, ["-"])
    longer = [f"{answer} {i % 2} {'end' * (i % 2)}" for i, answer in enumerate(answers)]
    assert patterns(prompts, longer, problem_of) == patterns(prompts, answers, problem_of)
