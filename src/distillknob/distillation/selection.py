"""Which of a teacher's right answers to a problem is the trace: the best of n, by what a target makes of them.

Selection is what calibration has to be set beside: it chooses among the answers of a teacher that stays as it is.

    likelihood        the answer that the target finds likeliest: the largest Σ log π_C over all of its tokens
    sure_tokens       the answer that the target follows best where its author was sure: the smallest
                      Σ (log π − log π_C) over the tokens to which the teacher that wrote them gave more than 0.9
    sure_tokens_soft  the same sum over all tokens, each with a weight by how sure the teacher was

The likelihood of a whole answer is in part the target's habit, which way of writing it is used to, for that is settled
at the tokens at which the teacher could have gone on otherwise. The sure tokens leave how well it can follow. The last
two are the calibration rewards of these names with their sign turned (`models.sure_tokens` has the arithmetic, also for
two vocabularies).

Of the sums that could be taken over sure tokens it is the log-ratio's, not log π_C itself and no mean. Each token adds
to −Σ log π_C, so that an answer with few sure tokens is preferred for that alone; a token that the target follows as
surely as the teacher adds nothing to the log-ratio. A mean lets a long answer dilute the one step that the target can't
follow. Left out on purpose: weights of one's own, and answers that are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.same_text import answers_logprob
from distillknob.models.sampling import Sample, Sampler
from distillknob.models.scoring import Prompt, Scorer, sequence_logprob, token_logprobs
from distillknob.models.sure_tokens import Weighting, read_in_pieces
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import notice

SELECTIONS = ("likelihood", "sure_tokens", "sure_tokens_soft")
WEIGHTINGS: dict[str, Weighting] = {"sure_tokens": "hard", "sure_tokens_soft": "soft"}
HELD_AT_ONCE = 16_384  # answers of whose tokens the log-probabilities are held together


def best_of_n(
    selection: str,
    teacher: Sampler,
    target: Scorer,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Sample]],
    journal: Journal | None = None,
    *,
    held_at_once: int = HELD_AT_ONCE,
) -> list[Sample | None]:
    """The best of each problem's candidates by `selection`, [P]; None for a problem without any. Of equals it is the
    first. `candidates` [P][n] are the teacher's own samples to `prompts` [P]; the log-probabilities of their tokens are
    held for `held_at_once` samples at a time. Every process makes this same call, and scores a part; what `journal`
    holds isn't scored again.

    Raises BadInputError for a teacher without log-probabilities where they are asked for, and where it was sure of no
    token of any candidate; RunFailedError for a model that gives no numbers.
    """
    if selection != "likelihood" and teacher.scorer is None:
        refuse_without_scores(teacher.name, selection)
    journal = journal or Journal()
    best: list[Sample | None] = [None] * len(prompts)
    choices, undecided = 0, 0  # problems with several answers to choose from; those where all were equal
    for number, problems in enumerate(_parts(candidates, held_at_once)):
        rows = [(i, sample) for i in problems for sample in candidates[i]]
        part = journal.part(f"part-{number}")
        values = _values(selection, teacher, target, [prompts[i] for i, _ in rows], [s for _, s in rows], part)
        of_problem: dict[int, list[tuple[float, Sample]]] = {}
        for (i, sample), value in zip(rows, values, strict=True):
            of_problem.setdefault(i, []).append((value, sample))
        for i, valued in of_problem.items():
            best[i] = max(valued, key=lambda one: one[0])[1]
            if len({tuple(sample.token_ids) for _, sample in valued}) > 1:
                choices += 1
                undecided += all(value == valued[0][0] for value, _ in valued)
    if undecided and selection == "sure_tokens":
        _tell_of_undecided(teacher.name, undecided, choices)
    return best


def refuse_without_scores(teacher: str, selection: str) -> NoReturn:
    """Raise BadInputError: the selection asks for what this teacher doesn't give."""
    raise BadInputError(
        f"selection={selection}: {teacher!r} gives no log-probabilities of its samples, and by these alone is known of "
        "which tokens it was sure: serve it with vLLM (URL#NAME with the API's root), give a folder or hub id, or set "
        "selection to likelihood (method sft_best_of_n)"
    )


def _parts(candidates: Sequence[Sequence[Sample]], most: int) -> Iterator[list[int]]:
    """The problems that have candidates, in parts of at most so many candidates and at least one problem."""
    part: list[int] = []
    held = 0
    for i, row in enumerate(candidates):
        if part and held + len(row) > most:
            yield part
            part, held = [], 0
        if row:
            part.append(i)
            held += len(row)
    if part:
        yield part


def _values(
    selection: str,
    teacher: Sampler,
    target: Scorer,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    journal: Journal,
) -> list[float]:
    """How good each of the teacher's samples is by the selection, in nats: the larger the better."""
    if selection == "likelihood":
        values = _likelihood(teacher, target, prompts, samples, journal)
    else:
        values = _followed(WEIGHTINGS[selection], teacher, target, prompts, samples, journal)
    broken = sum(math.isnan(value) for value in values)
    if broken:
        raise RunFailedError(
            f"{broken} of {len(values)} samples have no number by which to choose them: the target {target.name!r} "
            "gives a token that was drawn the probability 0, or no number. Take a target that gives every token a "
            "probability (where one is served, without top-k, top-p or masked tokens)"
        )
    return values


def _likelihood(
    teacher: Sampler, target: Scorer, prompts: Sequence[Prompt], samples: Sequence[Sample], journal: Journal
) -> list[float]:
    """How likely the target finds the teacher's samples: their tokens, or the texts of a chat interface."""
    finished = [sample.finished for sample in samples]
    named: dict[str, Any] = {"journal": journal, "shared": True, "description": "best of n"}
    if teacher.tokenizer is None:
        scored = sequence_logprob(target, prompts, [sample.text for sample in samples], finished, **named)
    else:
        ids = [sample.token_ids for sample in samples]
        scored = answers_logprob(target, prompts, ids, finished, teacher.tokenizer, **named)
    return [float(value) for value in scored]


def _followed(
    weighting: Weighting,
    teacher: Sampler,
    target: Scorer,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    journal: Journal,
) -> list[float]:
    """How well the target follows the teacher's samples where the teacher was sure: the log-ratio of the two over these
    tokens, its sign turned."""
    scorer = teacher.scorer
    assert scorer is not None
    ids, finished = [sample.token_ids for sample in samples], [sample.finished for sample in samples]
    own = token_logprobs(
        scorer, prompts, ids, journal=journal.part("teacher"), shared=True, description="best of n: sure tokens"
    )
    pieces = read_in_pieces(
        target,
        prompts,
        ids,
        finished,
        scorer.tokenizer,
        journal=journal.part("target"),
        shared=True,
        description="best of n: target",
    )
    return [-piece.log_ratio(own_T, own_T, weighting) for piece, own_T in zip(pieces, own, strict=True)]


def _tell_of_undecided(teacher: str, undecided: int, choices: int) -> None:
    """Say where no answer had a sure token, so that the first was taken. Raises BadInputError if none had anywhere."""
    why = (
        f"on {undecided} of {choices} problems with several right answers of {teacher} these are equal by "
        "selection=sure_tokens: it was sure (above 0.9) of none of their tokens"
    )
    remedy = "sure_tokens_soft has no threshold, and likelihood asks for all tokens"
    if undecided == choices:
        raise BadInputError(f"{why}, so there is nothing to choose by: set selection to another; {remedy}")
    notice(f"note: {why}, and the first was taken ({remedy})")
