"""What is said of how far the knob can turn: a word for each η, why it isn't more, and what could be done.

It is no trap, as a stiff knob harms no distillation: its severity is always `none`, and it tells its `room` instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from distillknob.diagnosis.finding import FAR, Finding, finding_of, not_applicable, room_of
from distillknob.diagnosis.knob import Knob, frontier_rows, knob_rows, reward_rows, turns
from distillknob.diagnosis.samples import Gathered, Missing
from distillknob.diagnosis.tilt import divergence, effective_samples
from distillknob.diagnosis.traps.base import Trap
from distillknob.results.diagnosis import Turns
from distillknob.results.schema import Room
from distillknob.stats import Interval, interval

NAME = "knob_range"
ROOMS: tuple[Room, ...] = ("none", "unclear", "little", "some", "much")  # the side with more room is told
MOST = 0.5  # of the problems, or of what could be had: what holds for most of them is the reason
WORTH = 0.05  # of a student's score: what is gained or lost by it is worth a calibration
ONE_SAMPLE = 1.5  # effective samples: below it one answer carries the weight, and a better one would, too


def knob_finding(knob: Knob) -> Finding:
    """Say how far the knob turns at each η by ways of writing, and why not farther where it hardly does.

    The value is the distance in nats an answer between the ends of what was asked for: the log-ratio at the largest η
    less that at the smallest, where both are of one sign that of the teacher as it is.
    """
    task, etas = knob.samples.task, sorted(knob.samples.etas)
    if not bool(knob.samples.right_A.any()):
        return not_applicable(
            NAME, task, "the teacher is right in none of these answers, and calibrate rewards right ones alone"
        )
    words = {eta: turns(knob.change("ways", eta), eta) for eta in etas}
    reasons = {eta: _reason(knob, eta, words[eta]) for eta in etas if words[eta] not in ("far", "can't tell")}
    advised = _by_student(knob, words)
    whys = list(dict.fromkeys(why for why, _ in reasons.values()))  # both sides mostly have one
    return finding_of(
        NAME,
        task,
        interval(_span(knob, etas), proportion=False),
        unit=f"nats an answer between η = {min(*etas, 0):+g} and {max(*etas, 0):+g}, by ways of writing",
        severity="none",
        room=max((_room(knob, eta) for eta in etas), key=ROOMS.index),
        cause="; ".join(_turn_text(knob, eta, words[eta]) for eta in etas)
        + "".join(f", because {why}" if why is whys[0] else f"; because {why}" for why in whys)
        + _ways(knob, etas)
        + _alone(knob, etas),
        remedy="; ".join(
            [
                *dict.fromkeys(remedy for eta, (_, remedy) in reasons.items() if eta not in advised),
                *([] if reasons else [_turn_it(words)]),
                *advised.values(),
            ]
        ),
    )


def _room(knob: Knob, eta: float) -> Room:
    """The room on the side of η, by ways of writing: none where it would turn the wrong way."""
    change = knob.change("ways", eta)
    low, high = (change.low, change.high) if eta > 0 else (-change.high, -change.low)
    return room_of(replace(change, low=low, high=high))


def _turn_text(knob: Knob, eta: float, word: Turns) -> str:
    change, spent = knob.change("ways", eta), divergence(knob.weights("ways", eta))
    return f"η = {eta:+g}: {word}, {change.mean:+.2f} nats an answer at a KL of {float(spent.mean()):.2f}"


def _turn_it(words: Mapping[float, Turns]) -> str:
    """What to do where it turns far: below 0 calibrate or select; above 0 alone, protect."""
    if set(words.values()) == {"can't tell"}:
        return "diagnose more problems (problems)"
    far = [eta for eta, word in words.items() if word == "far"]
    if min(far) > 0:
        return f"calibrate (eta={min(far):g}), which makes the teacher harder to learn from"
    eta = max(eta for eta in far if eta < 0)
    return (
        f"calibrate the teacher (eta={eta:g}), so that it writes what this student can follow. Or leave it as it is "
        "and train on those of its right answers that the student follows best (method=sft_best_of_n_sure)"
    )


def _by_student(knob: Knob, words: Mapping[float, Turns]) -> dict[float, str]:
    """By η, what to do where a student would surely be better at an η below 0, or worse above it. By the reward that
    was asked about: to calibrate although the log-ratio doesn't surely move far. Else by the other reward that does
    most, of those that don't surely cost the teacher."""
    rows, advice = [row for row in knob.by_reward if row["student_change"] is not None], {}
    for eta, word in words.items() if rows else ():
        here = {row["reward"]: row for row in rows if row["eta"] == eta}
        asked = _effect(here[knob.samples.reward])
        if asked.low > 0:
            name, worth = knob.samples.reward, asked.mean >= WORTH and word not in ("far", "the wrong way")
            what = f"calibrate all the same (eta={eta:g})"
        else:
            effects = {reward: _effect(row) for reward, row in here.items() if row["score_interval"][1] >= 0}
            name = max(effects, key=lambda one: effects[one].mean, default=knob.samples.reward)
            worth = name in effects and effects[name].low > 0 and effects[name].mean > asked.mean
            what = f"at η = {eta:+g} take another reward (eta={eta:g}, reward={name})"
        if worth:
            advice[eta] = (
                f"{what}: a student that writes as the teacher does would go from "
                f"{here[name]['student_before']:.0%} to {here[name]['student_after']:.0%}"
            )
    return advice


def _effect(row: Mapping[str, Any]) -> Interval:
    """What turning does to the student, counted as it is wanted at this η: a gain below 0, a loss above."""
    low, high = row["student_interval"]
    if row["eta"] < 0:
        return Interval(mean=row["student_change"], low=low, high=high, n=row["n"])
    return Interval(mean=-row["student_change"], low=-high, high=-low, n=row["n"])


def _span(knob: Knob, etas: list[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The log-ratio at the largest η less that at the smallest, by problem; 0 stands for the teacher as it is."""
    ends = [
        knob.mean_log_ratio(knob.untilted_PS if eta == 0 else knob.weights("ways", eta))
        for eta in (min(*etas, 0), max(*etas, 0))
    ]
    span_P = (ends[1] - ends[0]).numpy()
    return np.asarray(span_P[np.isfinite(span_P)])


def _reason(knob: Knob, eta: float, word: Turns) -> tuple[str, str]:
    """Why a calibration at η doesn't turn the knob farther, and what could be done: the first that holds, from what no
    setting helps to what one does."""
    if word == "the wrong way":
        return _against(knob), "hold the task rather than reward it (task_term=hold)"
    alike, wrong = _nothing_to_choose(knob)
    if alike + wrong >= MOST:
        if alike >= wrong:
            why = f"all {knob.samples.samples} answers are the same on {alike:.0%} of the problems"
            return why, "there is nothing to choose from: take another teacher, or prompts that leave a choice"
        why = f"on {wrong:.0%} of the problems the right answers are the same, or none is, and what differs is wrong"
        return why, "train the teacher on the task first, since calibration chooses among right answers"
    side = math.copysign(1.0, eta)
    toward, away = (side * s * knob.change("answers", s * side * math.inf).mean for s in (1.0, -1.0))
    deviation, within = _spread(knob)
    if toward < FAR and away < FAR:
        why = (
            f"the log-ratio hardly differs between right answers to one problem (deviation {deviation:.2f} nats; "
            f"{within:.0%} of its variance lies there, the rest between problems, where η can't reach)"
        )
        turning = [row["reward"] for row in knob.by_reward if row["eta"] == eta and row["turns"] == "far"]
        another = f", or a log-ratio that does differ (eta={eta:g}, reward={turning[0]})" if turning else ""
        return why, f"take another student as the target{another}"
    if toward < FAR:
        why = (
            f"the teacher mostly writes so already: the best of {knob.samples.samples} answers are {toward:.2f} nats "
            f"away, those at the other end {away:.2f}"
        )
        return why, "turn it to the other side, which has room"
    best = side * knob.change("answers", eta).mean
    common, ceiling = (side * knob.change("ways", one).mean for one in (eta, side * math.inf))
    if best < MOST * toward or (ceiling >= FAR and common < MOST * ceiling):
        why = (
            f"|η| is small beside the anchor (|η| / β = {abs(eta) / knob.samples.beta:.2g}): of the {toward:.2f} nats "
            f"that the samples leave room for it takes {best:.2f}"
        )
        return why, "take a larger |η| (eta), or a smaller anchor (beta)"
    why = (
        "all answers are of one way of writing"
        if len(set(knob.samples.way_A)) == 1
        else "no way of writing is favoured on all problems alike"
    )
    beyond = "beyond that " if word == "a little" else ""
    return (
        f"{beyond}{why}, so that each problem has to be learnt for itself",
        "select the teacher's answers rather than calibrate it (method=sft_best_of_n_sure)",
    )


def _nothing_to_choose(knob: Knob) -> tuple[float, float]:
    """The share of the problems whose answers are all alike, and of those whose answers differ, but not in two right
    ones."""
    alike = wrong = 0
    for answers, rights in zip(knob.answer_PS.tolist(), knob.right_PS.tolist(), strict=True):
        right = {answer for answer, is_right in zip(answers, rights, strict=True) if is_right}
        if len(right) < 2:
            alike += len(set(answers)) == 1
            wrong += len(set(answers)) > 1
    return alike / len(knob.answer_PS), wrong / len(knob.answer_PS)


def _spread(knob: Knob) -> tuple[float, float]:
    """The deviation of the log-ratio between right answers to one problem, pooled over problems, in nats, and the share
    of its variance that lies there rather than between the problems' means."""
    rows = [
        [value for value, right in zip(values, rights, strict=True) if right]
        for values, rights in zip(knob.log_ratio_PS.tolist(), knob.right_PS.tolist(), strict=True)
    ]
    several = [np.array(row) for row in rows if len(row) > 1]
    if not several:
        return 0.0, 0.0
    within = sum(((row - row.mean()) ** 2).sum() for row in several) / sum(len(row) - 1 for row in several)
    # A problem's mean scatters by what lies within, too.
    noise = float(np.mean([within / len(row) for row in several]))
    between = max(0.0, float(np.var([row.mean() for row in several], ddof=min(1, len(several) - 1))) - noise)
    return math.sqrt(within), float(within / (within + between)) if within + between else 0.0


def _against(knob: Knob) -> str:
    """That the task's reward pulls the other way: how often each way is right."""
    rights: dict[str, list[bool]] = {}
    for ways, row in zip(knob.way_PS, knob.right_PS.tolist(), strict=True):
        for way, right in zip(ways, row, strict=True):
            rights.setdefault(way, []).append(right)
    shares = ", ".join(f"{way!r} in {np.mean(row):.0%}" for way, row in sorted(rights.items()))
    return f"the task's reward pulls the other way: right are {shares} of the answers"


def _ways(knob: Knob, etas: list[float]) -> str:
    """The way whose share moves farthest between the ends."""
    ways = sorted(set(knob.samples.way_A))
    if len(ways) == 1:
        return ""
    weights = [knob.untilted_PS, *(knob.weights("ways", eta) for eta in etas)]
    shares = {way: [knob.share_of(way, weight) for weight in weights] for way in ways}
    way = max(ways, key=lambda name: max(shares[name]) - min(shares[name]))
    ends = " and ".join(f"{share:.0%} (η = {eta:+g})" for share, eta in zip(shares[way][1:], etas, strict=True))
    return f". Of its answers {shares[way][0]:.0%} are {way!r}, then {ends}"


def _alone(knob: Knob, etas: list[float]) -> str:
    """What each problem could be learnt for itself, and whether the samples show how far that goes."""
    ends = " and ".join(f"{knob.change('answers', eta).mean:+.2f}" for eta in etas)
    alone = f". With each problem learnt for itself: {ends} nats"
    worth = min(float(effective_samples(knob.weights("answers", eta)).mean()) for eta in etas)
    if worth >= ONE_SAMPLE:
        return alone
    return f"{alone}, or more: one of {knob.samples.samples} answers carries the weight (knob_samples)"


def _prepared(gathered: Gathered) -> Knob | Missing:
    return gathered.knob if isinstance(gathered.knob, Missing) else Knob(gathered.knob, gathered.own)


KNOB = Trap(
    name=NAME,
    needs=_prepared,
    finding=knob_finding,
    tables={"knob": knob_rows, "knob_rewards": reward_rows, "frontier": frontier_rows},
)
