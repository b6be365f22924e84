"""Every trap, planted in a small pair of models and diagnosed by the real stage; and the pairs in which it isn't.

The models are tables (tests/planted.py), so that what a trap should find can be computed. A pair without the trap is
never a pair of equals: its student differs from the teacher a little, at every word and without structure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillknob import tasks
from distillknob.calibration.stage import CalibrationConfig
from distillknob.config.fields import checked, fields_of
from distillknob.diagnosis import DiagnoseConfig, diagnose
from distillknob.diagnosis.traps.teacher_hacking import teacher_hacking
from distillknob.distillation.stage import DistillConfig, distill
from distillknob.distillation.teacher_cache import CacheConfig
from distillknob.errors import BadInputError
from distillknob.runs.run import Run
from distillknob.tasks import register_task
from planted import ASKED, EOS, TEMPLATE, PlantedTask, Table, chain, logits_of, save_bigram, tokenizer_of, words_of

MILD = 0.15  # standard deviation of the logits of a student that differs without structure
Diagnose = Callable[..., dict[str, Any]]


@pytest.fixture
def lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diagnose:
    """Write a pair of tables as checkpoints, diagnose it, and return the result with its findings by name."""
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))

    def look(
        teacher: Table, student: Table, task: PlantedTask | None = None, *, mild: float = 0.0, **values: Any
    ) -> dict[str, Any]:
        task = task or PlantedTask()
        register_task(task.name, lambda: task)
        words = words_of(teacher, student)
        tokenizer = tokenizer_of(words)
        config = DiagnoseConfig(
            teacher=save_bigram(tmp_path / "teacher", tokenizer, logits_of(teacher, words)),
            student=save_bigram(tmp_path / "student", tokenizer, logits_of(student, words, noise=mild, seed=1)),
            tasks=[task.name],
            **{"problems": 120, "gradient_problems": 0, "candidates": 2, **values},
        )
        result: dict[str, Any] = diagnose(config, tmp_path / "run").result
        return {**result, **{row["name"]: row for row in result["findings"]}}

    return look


def fired(finding: Mapping[str, Any], *severities: str) -> bool:
    """Told with one of the severities, a value inside of its interval, and a remedy that can be carried out."""
    assert finding["applicable"] and finding["n"] > 1
    low, high = finding["interval"]
    assert low <= finding["value"] <= high
    assert recipe_lines(finding["remedy"]), finding["remedy"]
    return finding["severity"] in severities


def silent(finding: Mapping[str, Any]) -> bool:
    return bool(finding["applicable"]) and finding["severity"] == "none"


def covers(finding: Mapping[str, Any], truth: float) -> bool:
    return bool(finding["interval"][0] <= truth <= finding["interval"][1])


def recipe_lines(remedy: str) -> list[tuple[str, str]]:
    """The `field=value` of a remedy and the fields alone in brackets, each checked against the stages' configs."""
    stages = [fields_of(cls) for cls in (DiagnoseConfig, DistillConfig, CalibrationConfig, CacheConfig)]
    named = [(field, value) for field, value in re.findall(r"\b([a-z_]+)=([\w.-]*\w)", remedy)]
    named += [(field, "") for field in re.findall(r"\(([a-z_]+)\)", remedy)]
    for field, value in named:
        having = [fields for fields in stages if field in fields]
        assert having, f"no stage has a field {field!r}"
        if value:
            hint = having[0][field][1]
            number = float(value) if re.fullmatch(r"-?[\d.]+", value) else value
            checked(having[0][field], int(number) if hint is int else number)
    return named


def test_recipe_lines_are_found_and_checked() -> None:
    assert recipe_lines("do this (method=gkd), or that (eta=-0.25, top_k=5) with more (problems)") == [
        ("method", "gkd"),
        ("eta", "-0.25"),
        ("top_k", "5"),
        ("problems", ""),
    ]
    for unknown in ("(temprature=2)", "(lambada)"):
        with pytest.raises(AssertionError, match="no stage has a field"):
            recipe_lines(unknown)
    with pytest.raises(BadInputError, match="magic"):
        recipe_lines("(method=magic)")


def pairs(step: int, share: float = 0.5) -> dict[str, float]:
    """A step of an answer that is one of two words."""
    return {f"a{step}": share, f"b{step}": 1 - share}


# No trap


def test_a_pair_without_a_trap_sets_none(lens: Diagnose) -> None:
    """Two ways of writing, eight open words, an answer that is right 97 times of 100, and a student a little apart."""
    ways = {"easy": 0.5, "hard": 0.5}
    told = lens(
        table := chain(ways, *(pairs(i) for i in range(8)), {"yes": 0.97, "no": 0.03}),
        table,
        PlantedTask(lambda words: "yes" in words, lambda words: words[0]),
        mild=MILD,
        gradient_problems=50,
        samples=4,
        candidates=16,
    )
    assert len(told["findings"]) == 8
    for finding in told["findings"]:
        assert silent(finding), finding
    assert told["pilot"][0]["value"] > 1e-3  # the two models do differ


# Tail noise


def spread(heads: float = 0.85, tails: float = 0.02) -> dict[str, dict[str, float]]:
    """After every word the same: five words to say, two hundred that are hardly ever said, or the end."""
    row = {f"h{i}": heads / 5 for i in range(5)} | {f"t{i}": tails / 200 for i in range(200)}
    row |= {EOS: 1 - heads - tails}
    return {word: row for word in (ASKED, *(word for word in row if word != EOS))}


def test_tail_noise_is_found_in_a_pair_whose_tails_disagree(lens: Diagnose) -> None:
    teacher = spread()
    tails = (3.0 * torch.randn(200, generator=torch.Generator().manual_seed(3))).softmax(0).tolist()
    row = dict(teacher[ASKED]) | {f"t{i}": 0.02 * tails[i] for i in range(200)}
    student = dict.fromkeys(teacher, row)
    finding = lens(teacher, student)["tail_noise"]
    p, q = (torch.tensor(list(table[ASKED].values()), dtype=torch.float64) for table in (teacher, student))
    tail = torch.arange(len(p)).ge(5) & torch.arange(len(p)).lt(205)
    exact = float((p[tail] * (p[tail] / q[tail]).log()).sum() / (p * (p / q).log()).sum())  # nothing but the tail's
    assert exact == pytest.approx(1.0) and finding["value"] == pytest.approx(exact, rel=1e-3)
    assert fired(finding, "high")
    assert "a hundredth of its likeliest" in finding["cause"] and "top_k=" in finding["remedy"]


def test_a_tail_that_is_only_too_heavy_is_no_noise(lens: Diagnose) -> None:
    """A student that says unsaid words ten times too often, all alike: most of the KL lies beyond the top 5, and it is
    one number, which a loss with one bucket knows."""
    told = lens(spread(), spread(heads=0.67, tails=0.2))
    assert silent(told["tail_noise"]) and told["tail_noise"]["value"] < 0.01
    beyond = 1 - next(row["share"] for row in told["tail"] if row["k"] == 5)
    assert beyond > 0.5 and f"{beyond:.0%} of the KL" in told["tail_noise"]["cause"]


def test_a_pair_that_differs_everywhere_alike_has_no_tail_noise(lens: Diagnose) -> None:
    told = lens(spread(), spread(), mild=MILD)["tail_noise"]
    assert silent(told) and 0 < told["value"] < 0.05


def test_fifty_words_to_choose_from_are_no_tail(lens: Diagnose) -> None:
    row = {f"w{i}": 0.9 / 50 for i in range(50)} | {EOS: 0.1}
    table = {word: row for word in (ASKED, *(f"w{i}" for i in range(50)))}
    told = lens(table, table, mild=MILD)
    assert silent(told["tail_noise"])
    assert next(row["share"] for row in told["tail"] if row["k"] == 5) < 0.5


# Signal sparsity


def test_signal_sparsity_is_found_where_one_word_in_twenty_differs(lens: Diagnose) -> None:
    teacher = chain(*(pairs(i) for i in range(19)))
    student = chain(*(pairs(i, 0.1 if i == 7 else 0.5) for i in range(19)))
    finding = lens(teacher, student)["signal_sparsity"]
    assert fired(finding, "high") and finding["value"] == pytest.approx(1 / 20, abs=0.01) and covers(finding, 1 / 20)
    assert "of 4800 tokens; at 5% of them" in finding["cause"]  # 240 answers of twenty, of which the end is sure


def test_a_pair_that_differs_everywhere_alike_has_no_sparse_signal(lens: Diagnose) -> None:
    table = chain(*(pairs(i) for i in range(19)))
    assert silent(lens(table, table, mild=MILD)["signal_sparsity"])


# Off-policy instability


def squared_weight(teacher: Table, student: Table, word: str = ASKED) -> float:
    """E[w²] of an answer of the teacher, w = q / p, along the table."""
    if word == EOS:
        return 1.0
    p, q = teacher.get(word, {EOS: 1.0}), student.get(word, {EOS: 1.0})
    following = {after: squared_weight(teacher, student, after) for after in dict.fromkeys([*p][:1])}
    (rest,) = following.values()  # whatever came, the next step is the same
    return sum(q[after] ** 2 / p[after] for after in p) * rest


@pytest.mark.parametrize(("drift", "severity"), [(0.58, "none"), (0.62, "low"), (0.9, "high")])
def test_off_policy_instability_is_found_where_weights_multiply(lens: Diagnose, drift: float, severity: str) -> None:
    teacher, student = chain(*(pairs(i) for i in range(20))), chain(*(pairs(i, drift) for i in range(20)))
    finding = lens(teacher, student, samples=8, seed=2)["off_policy_instability"]
    exact = 1 / squared_weight(teacher, student)
    assert exact == pytest.approx((0.5 / (drift**2 + (1 - drift) ** 2)) ** 20)
    assert fired(finding, severity)
    # The seed was chosen: at 0 the interval just misses the truth here, as it does in one of ten runs or so.
    if drift < 0.6:
        assert covers(finding, exact)
    elif drift < 0.7:  # where some answers carry most of the weight the estimate is too high more often than not
        assert finding["value"] == pytest.approx(exact, rel=0.25)
    else:  # a twenty-thousandth is left, which no thousand answers can show: those that matter never came
        assert exact < 1e-4 < finding["value"] < 0.02
    assert "multiply over the tokens" in finding["cause"] and "method=opd_rkl" in finding["remedy"]


def test_off_policy_estimates_of_a_pair_near_each_other_are_stable(lens: Diagnose) -> None:
    table = chain(*(pairs(i) for i in range(20)))
    finding = lens(table, table, mild=MILD)["off_policy_instability"]
    assert silent(finding) and 0.5 < finding["value"] < 1.0


# Sequence-KL myopia


def expected_cosine(teacher: Table, student: Table) -> float:
    """E[cos(∇ of the sampled token, ∇ of the whole KL)] of answers of one word, over all words and parameters."""
    words = words_of(teacher, student)
    logp_V, logq_V = (
        logits_of(table, words)[words.index(ASKED)].double().log_softmax(-1) for table in (teacher, student)
    )
    size = len(words)
    scale = (1 / size + 1e-6) ** 0.5
    head_VH = logits_of(student, words).double().T * scale

    def logits(embedding_H: torch.Tensor, norm_H: torch.Tensor, head_VH: torch.Tensor) -> torch.Tensor:
        return head_VH @ (norm_H * embedding_H / embedding_H.square().mean().add(1e-6).sqrt())

    inputs = (
        torch.eye(size, dtype=torch.float64)[words.index(ASKED)],
        torch.ones(size, dtype=torch.float64),
        head_VH,
    )
    jacobian = torch.cat([part.reshape(size, -1) for part in torch.autograd.functional.jacobian(logits, inputs)], 1)
    kernel_VV = jacobian @ jacobian.T
    q_V, gap_V = logq_V.exp(), logq_V - logp_V
    whole_V = q_V * (gap_V - (q_V * gap_V).sum())
    sampled_VV = gap_V[:, None] * (torch.eye(size, dtype=torch.float64) - q_V)
    inner_V = sampled_VV @ kernel_VV @ whole_V
    length_V = ((sampled_VV @ kernel_VV) * sampled_VV).sum(1).clamp_min(0).sqrt()
    return float((q_V * inner_V / (length_V * (whole_V @ kernel_VV @ whole_V).sqrt())).nan_to_num(0.0).sum())


def test_sequence_myopia_is_found_where_one_word_of_many_is_seen(lens: Diagnose) -> None:
    shares = torch.randn(100, generator=torch.Generator().manual_seed(5)).softmax(0).tolist()
    teacher = {ASKED: {f"w{i}": shares[i] for i in range(100)}}
    student = {ASKED: {f"w{i}": 1 / 100 for i in range(100)}}
    told = lens(teacher, student, samples=1, problems=140, gradient_problems=140)
    finding = told["sequence_myopia"]
    assert fired(finding, "high") and covers(finding, expected_cosine(teacher, student))
    assert "sees the sampled token alone" in finding["cause"] and "method=gkd" in finding["remedy"]


def test_a_sampled_word_of_two_tells_the_whole(lens: Diagnose) -> None:
    table = chain(*(pairs(i) for i in range(8)))
    finding = lens(table, table, mild=MILD, gradient_problems=50)["sequence_myopia"]
    assert silent(finding) and finding["value"] > 0.7


# Wrong-trace preference


def right(words: list[str]) -> bool:
    return "right" in words


def test_wrong_traces_that_the_teacher_prefers_are_found(lens: Diagnose) -> None:
    """Of two wrong answers the teacher likes one better than the right one; the student writes both alike."""
    teacher = {ASKED: {"right": 0.3, "wrong": 0.6, "worse": 0.1}}
    student = {ASKED: {"right": 0.5, "wrong": 0.25, "worse": 0.25}}
    told = lens(teacher, student, PlantedTask(right), candidates=16)
    for name in ("wrong_trace_preference", "wrong_trace_preference_per_token"):
        finding = told[name]
        assert fired(finding, "high") and covers(finding, 0.5)
        assert (
            "habits of writing" in finding["cause"] and "2.0 tokens on average, the right ones 2.0" in finding["cause"]
        )
        assert "method=sft_verified" in finding["remedy"]


def test_a_teacher_that_knows_better_prefers_no_wrong_trace(lens: Diagnose) -> None:
    table = {ASKED: {"right": 0.9, "wrong": 0.05, "worse": 0.05}}
    told = lens(table, table, PlantedTask(right), mild=MILD, candidates=16)
    for name in ("wrong_trace_preference", "wrong_trace_preference_per_token"):
        assert silent(told[name]) and told[name]["value"] == 0.0


@pytest.mark.parametrize("longer", ["right", "wrong"])
def test_a_bias_of_length_is_told_by_one_of_the_two_preferences(lens: Diagnose, longer: str) -> None:
    """Sums of log-likelihoods favour the short answer, means the long one whose every word is likelier."""
    shorter = "wrong" if longer == "right" else "right"
    # log 0.4 = -0.92 over two tokens, against log 0.6 + 5·log 0.8 = -1.63 over seven.
    steps = [{f"c{i}": 0.8, f"d{i}": 0.2} for i in range(5)]
    table = {ASKED: {longer: 0.6, shorter: 0.4}, **chain(*steps, start=longer)}
    told = lens(table, table, PlantedTask(lambda words: words[0] == "right"), candidates=32, problems=60)
    summed, mean = told["wrong_trace_preference"], told["wrong_trace_preference_per_token"]
    if longer == "right":
        # Every long answer loses by its sum; by its mean only those with two or more of the unlikely words.
        assert (
            fired(summed, "high")
            and summed["value"] == 1.0
            and "wrong answers that it prefers have 2.0" in summed["cause"]
        )
        assert "the right ones 7.0" in summed["cause"]
    else:
        assert silent(summed) and summed["value"] == 0.0
        assert fired(mean, "high") and "wrong answers that it prefers have 7.0" in mean["cause"]
    # A short answer has -0.46 a token; a long one -0.23, and 0.20 less for each unlikely word: it wins with up to one.
    loses = 1 - 0.8**5 - 5 * 0.8**4 * 0.2
    assert covers(mean, loses if longer == "right" else 1 - loses)


# Capacity gap


def ways(hard: float, habit: float = 0.5) -> dict[str, dict[str, float]]:
    """Answers in an easy way (four words) or a hard one (three steps), at each of which the hard way's own word comes
    with this probability, and something else otherwise."""
    table = {ASKED: {"easy": 1 - habit, "hard": habit}}
    table |= chain(*({f"e{i}": 0.95, f"x{i}": 0.05} for i in range(3)), {"right": 1.0}, start="easy")
    return table | chain(*({f"h{i}": hard, f"y{i}": 1 - hard} for i in range(3)), {"right": 1.0}, start="hard")


def written(words: list[str]) -> str:
    return words[0]


def divergent(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_a_capacity_gap_is_found_where_one_way_is_beyond_the_student(lens: Diagnose) -> None:
    finding = lens(ways(0.95), ways(0.1), PlantedTask(right, written), candidates=16)["capacity_gap"]
    exact = 0.5 * 3 * divergent(0.95, 0.1)  # the KL of half of the answers, above that of the easy ones, which is 0
    assert fired(finding, "high") and covers(finding, exact) and finding["value"] == pytest.approx(exact, rel=0.1)
    assert "'hard'" in finding["cause"] and "'easy' " in finding["cause"]
    assert {"method", "eta"} <= {field for field, _ in recipe_lines(finding["remedy"])}


def test_a_way_that_the_student_seldom_writes_is_no_gap(lens: Diagnose) -> None:
    finding = lens(ways(0.95), ways(0.95, habit=0.05), PlantedTask(right, written), mild=MILD, candidates=16)[
        "capacity_gap"
    ]
    assert silent(finding) and abs(finding["value"]) < 0.3


def test_a_way_with_many_wordings_is_no_gap(lens: Diagnose) -> None:
    """It costs the student much, and the teacher as much: twelve wordings at each of three places."""
    many = {f"v{i}": 1 / 12 for i in range(12)}
    table = {ASKED: {"easy": 0.5, "hard": 0.5}, "easy": {"right": 1.0}}
    table |= chain(*({f"{word}{i}": p for word, p in many.items()} for i in range(3)), {"right": 1.0}, start="hard")
    told = lens(table, table, PlantedTask(right, written), mild=MILD, candidates=16)
    costs = {row["style"]: row["cost"] for row in told["style"]}
    assert costs["hard"] - costs["easy"] == pytest.approx(3 * math.log(12), rel=0.05)
    assert silent(told["capacity_gap"]) and abs(told["capacity_gap"]["value"]) < 0.3


# Accuracy on student prefixes


def led(astray: float, way_back: float) -> dict[str, dict[str, float]]:
    """Four words and a verdict. An answer begins badly with this probability; from there each word but the first goes
    back to the good side with that one. What is good stays so."""
    table = {ASKED: {"good0": 1 - astray, "bad0": astray}}
    for i in range(3):
        table[f"good{i}"] = {f"good{i + 1}": 1.0}
        table[f"bad{i}"] = {f"good{i + 1}": way_back, f"bad{i + 1}": 1 - way_back}
    return table | {"good3": {"right": 1.0}, "bad3": {"wrong": 1.0}}


def test_a_teacher_that_student_prefixes_lead_astray_is_found(lens: Diagnose) -> None:
    finding = lens(led(0.05, 0.02), led(0.8, 0.02), PlantedTask(right), samples=4)["accuracy_on_student_prefixes"]
    # Half of an answer of six tokens is its first three words: two chances to have come back, one more from there.
    stays = 0.98**3
    assert fired(finding, "high") and covers(finding, (1 - 0.05 * stays) - (1 - 0.8 * stays))
    assert "doesn't find its way back" in finding["cause"] and "lmbda=0" in finding["remedy"]


def test_a_teacher_that_finds_its_way_back_is_left_alone(lens: Diagnose) -> None:
    told = lens(led(0.05, 0.9), led(0.8, 0.02), PlantedTask(right), samples=4)
    assert silent(told["accuracy_on_student_prefixes"])
    halves = {row["kept"]: row["score"] for row in told["prefix"]}
    assert halves[0.75] < halves[0.0]  # too late to come back: the student does go astray


# Teacher hacking


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Run:
    """A short real training of one table towards another."""
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("planted", PlantedTask)
    teacher, student = chain(*(pairs(i, 0.9) for i in range(6))), chain(*(pairs(i, 0.3) for i in range(6)))
    words = words_of(teacher, student)
    tokenizer = tokenizer_of(words)
    config = DistillConfig(
        **{
            "teacher": save_bigram(folder / "teacher", tokenizer, logits_of(teacher, words)),
            "student": save_bigram(folder / "student", tokenizer, logits_of(student, words)),
            "tasks": ["planted"],
            "problems": 64,
            "per_device_train_batch_size": 16,
            "max_steps": 80,
            "lmbda": 0.0,
            "warmup_steps": 0,
            "gradient_checkpointing": False,
            **values,
        }
    )
    return distill(config, folder / "run")


def test_a_short_training_keeps_to_its_power_law_unless_it_is_bent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, monkeypatch, optim="sgd", learning_rate=0.3, lr_scheduler_type="constant")
    (finding,) = run.result["findings"]
    assert silent(finding) and finding["n"] == 80
    # The same losses, which from the middle on fall twice as fast, as they do where flaws are fitted.
    rows = [row for row in run.metrics() if row.get("loss") is not None]
    steps = [row["step"] for row in rows]
    bent = [row["loss"] * min(1.0, 40 / row["step"]) ** 2 for row in rows]
    hacked = asdict(teacher_hacking(steps, bent))
    assert fired(hacked, "high") and "and then faster" in hacked["cause"] and "lies below" in hacked["unit"]
    added = 2 * sum(math.log(step / 40) for step in steps[40:]) / 40
    sign = 1 if "lies below" in finding["unit"] else -1
    assert hacked["value"] == pytest.approx(added + sign * finding["value"], abs=1e-6)


def test_a_training_that_follows_no_power_law_has_none_to_depart_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, monkeypatch, optim="adamw_torch", learning_rate=1e-3, lr_scheduler_type="constant")
    (finding,) = run.result["findings"]
    assert not finding["applicable"] and "bends on a log-log scale" in finding["cause"]


# Identical models


RELATIVE = ("tail_noise", "signal_sparsity", "off_policy_instability", "sequence_myopia", "capacity_gap")
SPLIT = {"easy": ("ea", "sy"), "right": ("ri", "gh", "t"), "a1": ("a", "1")}


def weak() -> dict[str, dict[str, float]]:
    """A model that is right seven times of ten, in two ways of writing, of which one has many wordings."""
    table = {ASKED: {"easy": 0.6, "hard": 0.4}} | chain(pairs(0, 0.9), start="easy")
    table |= chain(pairs(1, 0.5), pairs(2, 0.5), start="hard")
    return table | {word: {"right": 0.7, "wrong": 0.3} for word in ("a0", "b0", "a2", "b2")}


def copies(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, pieces: Mapping[str, Any] | None = None, backwards: bool = False
) -> tuple[str, str]:
    """The same table twice, in two folders; the student's in other tokens, if wanted."""
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("planted", lambda: PlantedTask(right, written))
    words = words_of(weak())
    others = words[:2] + words[2:][::-1] if backwards else words
    return (
        save_bigram(folder / "one", tokenizer_of(words), logits_of(weak(), words)),
        save_bigram(folder / "other", tokenizer_of(others, pieces), logits_of(weak(), others, pieces=pieces)),
    )


def diagnosed(teacher: str, student: str, output: Path, **values: Any) -> dict[str, Any]:
    config = DiagnoseConfig(teacher=teacher, student=student, tasks=["planted"], **{"problems": 60, **values})
    result: dict[str, Any] = diagnose(config, output).result
    return {**result, **{row["name"]: row for row in result["findings"]}}


def test_gradients_that_were_not_asked_for_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = diagnosed(*copies(tmp_path, monkeypatch), tmp_path / "run", gradient_problems=0)
    finding = told["sequence_myopia"]
    assert not finding["applicable"] and finding["cause"] == "left out, as gradient_problems is 0"


def test_two_copies_in_two_folders_differ_in_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = copies(tmp_path, monkeypatch)
    for number, pair in enumerate([(teacher, student), (teacher, teacher)]):
        told = diagnosed(*pair, tmp_path / f"run-{number}", gradient_problems=10)
        assert all(row["value"] == 0.0 and set(row["interval"]) == {0.0} for row in told["pilot"])
        assert all(row["value"] == row["deviation"] == 0.0 for row in told["off_policy"] if row["weighting"] == "plain")
        assert all(row["share"] == row["left_out"] == 0.0 for row in told["tail"])
        assert all(row["share_of_kl"] == 0.0 for row in told["quadrant"]) and told["myopia"] == []
        for name in ("tail_noise", "signal_sparsity"):
            assert not told[name]["applicable"] and "agree exactly" in told[name]["cause"]
        assert (
            not told["sequence_myopia"]["applicable"] and "no batch has a gradient" in told["sequence_myopia"]["cause"]
        )
        assert told["off_policy_instability"]["value"] == 1.0 and silent(told["off_policy_instability"])
        # Its ways of writing don't cost it the same, but not more than they cost itself.
        costs = [row["cost"] for row in told["style"]]
        assert max(costs) - min(costs) > 0.5 and silent(told["capacity_gap"])
        assert silent(told["accuracy_on_student_prefixes"])


@pytest.mark.parametrize("pieces", [None, SPLIT], ids=["other ids", "other tokens"])
def test_a_copy_in_other_tokens_differs_in_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: Mapping[str, Any] | None
) -> None:
    teacher, student = copies(tmp_path, monkeypatch, pieces=pieces, backwards=True)
    told = diagnosed(teacher, student, tmp_path / "run")
    assert {row["level"] for row in told["pilot"]} == {"span", "sequence"}
    assert all(abs(row["value"]) < 1e-5 for row in told["pilot"])
    for name in ("tail_noise", "signal_sparsity", "sequence_myopia"):
        assert not told[name]["applicable"] and "different tokenizers" in told[name]["cause"]
    assert told["off_policy_instability"]["value"] == pytest.approx(1.0, abs=1e-6)
    for name in ("off_policy_instability", "capacity_gap", "accuracy_on_student_prefixes"):
        assert silent(told[name])


# Any two causal models


def test_a_vocabulary_padded_to_another_width_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, _ = copies(tmp_path, monkeypatch)
    words = words_of(weak())
    wide = save_bigram(tmp_path / "wide", tokenizer_of(words), logits_of(weak(), words), width=64)
    for number, pair in enumerate([(teacher, wide), (wide, teacher)]):
        told = diagnosed(*pair, tmp_path / f"run-{number}", gradient_problems=4)
        assert all(abs(row["value"]) < 1e-6 for row in told["pilot"])
        assert told["tail"][-1]["k"] == len(words) and silent(told["off_policy_instability"])


def test_the_student_is_asked_in_its_own_template_only_where_the_tokens_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = copies(tmp_path, monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.chat_template = TEMPLATE + "{{ ' n0 ?' }}"
    tokenizer.save_pretrained(student)
    told = diagnosed(teacher, student, tmp_path / "run", gradient_problems=0)
    assert all(row["value"] == 0.0 for row in told["pilot"])


def test_other_special_tokens_over_the_same_words_are_told_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student ends its answers with a token that the teacher's tokenizer hasn't: two vocabularies, one text."""
    teacher, student = copies(tmp_path, monkeypatch)
    words = ["</s>" if word == EOS else word for word in words_of(weak())]
    tokenizer = tokenizer_of(words, eos="</s>")
    save_bigram(Path(student), tokenizer, logits_of(weak(), words_of(weak())))
    told = diagnosed(teacher, student, tmp_path / "run")
    assert all(abs(row["value"]) < 1e-5 for row in told["pilot"]) and told["pilot"][0]["level"] == "span"
    assert silent(told["off_policy_instability"]) and silent(told["capacity_gap"])


def test_one_problem_one_sample_one_word(lens: Diagnose) -> None:
    """The smallest diagnosis there is: values, no intervals, and no trap that could be sure."""
    teacher = {ASKED: {"right": 0.8, "wrong": 0.2}}
    student = {ASKED: {"right": 0.2, "wrong": 0.8}}
    told = lens(teacher, student, PlantedTask(right), problems=1, samples=1, candidates=1, gradient_problems=1)
    assert len(told["findings"]) == 8
    for finding in told["findings"]:
        assert finding["severity"] == "none", finding
        assert finding["applicable"] or len(finding["cause"]) > 20
    assert told["tail_noise"]["value"] is not None and set(told["tail_noise"]["interval"]) == {None}
    # Two tokens and the end: half of the answer is the word itself.
    assert [row["kept"] for row in told["prefix"]] == [0.0, 0.5, 0.75]


def test_answers_that_never_end_are_diagnosed_and_judged_wrong(lens: Diagnose) -> None:
    teacher = {ASKED: {"a": 0.5, "b": 0.5}, "a": {"a": 0.5, "b": 0.5}, "b": {"a": 0.5, "b": 0.5}}
    told = lens(teacher, teacher, PlantedTask(longest=6), mild=MILD, problems=20)
    for name in ("wrong_trace_preference", "wrong_trace_preference_per_token"):
        assert not told[name]["applicable"] and "both a right and a wrong" in told[name]["cause"]
    assert not told["capacity_gap"]["applicable"] and told["capacity_gap"]["severity"] == "none"
    assert told["accuracy_on_student_prefixes"]["value"] == 0.0 and silent(told["accuracy_on_student_prefixes"])
    assert told["tail_noise"]["applicable"]


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_broken_checkpoint_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    whole, broken = copies(tmp_path, monkeypatch)
    words = words_of(weak())
    logits = logits_of(weak(), words)
    for number in (math.nan, math.inf):
        logits[5, 7] = number
        save_bigram(tmp_path / "other", tokenizer_of(words), logits)
        with pytest.raises(
            BadInputError, match=r"other' is a broken checkpoint: 1 of the \d+ numbers in lm_head.weight"
        ):
            diagnosed(*((broken, whole) if side == "teacher" else (whole, broken)), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_logits_that_overflow_are_told_and_not_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight is finite, and a logit of the word that is asked isn't."""
    teacher, student = copies(tmp_path, monkeypatch)
    words = words_of(weak())
    logits = logits_of(weak(), words)
    logits[words.index(ASKED)] = torch.finfo(torch.float32).max / 2
    model = AutoModelForCausalLM.from_pretrained(save_bigram(tmp_path / "other", tokenizer_of(words), logits))
    with torch.no_grad():
        model.model.norm.weight.fill_(1e3)
    model.save_pretrained(student)
    with pytest.raises(BadInputError, match="NaN or infinite"):
        diagnosed(teacher, student, tmp_path / "run")
