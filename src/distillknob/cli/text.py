"""This module tells results as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distillknob.cli.attack_text import attack_text
from distillknob.cli.compare_text import compare_text as methods_text
from distillknob.cli.diagnose_text import advice, diagnose_text
from distillknob.cli.layout import percent, text_table, with_interval, wrapped
from distillknob.cli.memorization_text import memorization_text
from distillknob.cli.prune_text import prune_text
from distillknob.cli.rate_text import rate_text
from distillknob.results.pass_at_k import best_name, pass_at
from distillknob.runs.run import Run
from distillknob.stages import EXPERIMENTS
from distillknob.verdicts.claims import student_claims
from distillknob.verdicts.teachers import is_original, label_of, unturned
from distillknob.verdicts.turning import UNCLEAR, WRONG, turned_text
from distillknob.verdicts.utility import outcome_text, scores_to_tell

EXAMPLE = 50  # characters of an answer in a line


def teachers_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Show the teachers' scores and their paired differences to the original."""
    return text_table(
        ["teacher", "seed", "task", "score % [95 %]", "− original, points", "finished %"],
        [
            [
                label_of(row),
                str(row["seed"]),
                row["task"],
                percent(row["score"], row["interval"]),
                "0: the same model"
                if row.get("same")
                else percent(row["difference"], row["difference_interval"], signed=True),
                percent(row["finished_rate"]),
            ]
            for row in rows
        ],
    )


def students_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Show the students' pass@1 and pass@k beside chance."""
    best = best_name(rows)
    return text_table(
        ["student of", "method", "seed", "task", "pass@1 % [95 %]", f"{best} %", "chance %", "finished %"],
        [
            [
                "before distillation" if row["method"] == "none" else label_of(row),
                row["method"],
                str(row["seed"]),
                row["task"],
                percent(row["pass@1"], row["interval"]),
                percent(row.get(best)),
                percent(row["chance"]),
                percent(row["finished_rate"]),
            ]
            for row in rows
        ],
    )


def differences_text(
    gains: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]], best: str = "pass@16"
) -> str:
    """Show each student's paired differences: to the student before distillation, and to the student of the original
    teacher by the same method."""
    keys = ("b", "eta", "variant", "method", "seed", "task")

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(key) for key in keys)

    before = {place(row): row for row in gains}
    beside = {place(row): row for row in differences if row["method"] != "none"}
    body = []
    for at in dict.fromkeys([*before, *beside]):
        gain, other = before.get(at, {}), beside.get(at, {})
        row = gain or other
        variant = f"{row['variant']}: " if row.get("variant") else ""
        body.append(
            [
                f"{variant}{label_of(row)}",
                row["method"],
                str(row["seed"]),
                row["task"],
                percent(gain.get("difference"), gain.get("interval"), signed=True),
                percent(gain.get(f"{best}_difference"), gain.get(f"{best}_difference_interval"), signed=True),
                "the same teacher"
                if other.get("same")
                else percent(other.get("difference"), other.get("interval"), signed=True),
            ]
        )
    header = ["student of", "method", "seed", "task", "− before, points", f"− before, {best}", "− original's student"]
    return text_table(header, body)


def knob_alone_text(result: Mapping[str, Any]) -> str:
    """Show how far each turned teacher's students are from those of a teacher that was calibrated at η = 0; nothing
    where none was."""
    rows = result.get("knob_alone") or []
    if not rows:
        return ""
    body = [
        [
            label_of(row),
            row["method"],
            str(row["seed"]),
            row["task"],
            percent(row["difference"], row["interval"], signed=True),
        ]
        for row in rows
    ]
    said = wrapped("What the knob did alone, beside the student of a teacher calibrated at η = 0 (on the task alone):")
    header = ["student of", "method", "seed", "task", "− student of η = 0, points"]
    return f"{said}\n{text_table(header, body)}"


def compare_text(compared: Mapping[str, Any]) -> str:
    """Show the causal table: each measure under each teacher, with its paired difference to the first."""
    header = ["task, measure", "unit", "run", "value", "− first [95 %]", "problems"]
    body = []
    for row in compared["rows"]:
        shown = "–"
        if row["difference"] is not None:
            shown = with_interval(row["difference"], row["interval"], "+.4f")
        value = "–" if row["value"] is None else f"{row['value']:.4f}"
        name = f"{row['task']}, {row['measure']}"
        body.append([name, row["unit"], row["run"].rstrip("/").split("/")[-1], value, shown, str(row["n"])])
    return text_table(header, body)


def turning_text(result: Mapping[str, Any]) -> str:
    """Say whether the knob turned, and what to do where it did not. Of a run from before this was measured, only that
    it kept none of its steps can be told."""
    turned = result.get("turned")
    if turned is None and not is_original(result):
        return "Whether the knob turned was not measured by this run."
    message = (
        turned_text(turned) if turned else "The knob did not turn: step 0 was kept, so model/ is the teacher as it was."
    )
    refused = [event["what"] for event in result["events"] if event["what"].startswith("not kept")]
    if result["kept_step"] == 0:
        if refused:
            within = f"to within {percent(result['tolerance'])} points"
            message += f" No checkpoint kept the teacher's score {within}; the last steps were {refused[0]}."
        message += (
            "\nTo mend: where that interval is wide, more guard_problems_max or a larger utility_tolerance; else "
            "a lower learning_rate, a higher beta or more prompts a step."
        )
    elif turned and turned["same"]:
        message += "\nTo mend: more steps or a higher learning_rate."
    elif turned and turned["verdict"] == UNCLEAR:
        message += (
            "\nTo mend: a higher learning_rate or more steps for a larger change; more guard_problems or guard_samples "
            "for a narrower interval."
        )
    elif turned and turned["verdict"] == WRONG:
        message += (
            "\nTo mend: more prompts a step, more steps or a larger |η|. Its students may show the opposite of what η "
            "asked for."
        )
    return "\n".join(map(wrapped, message.splitlines()))


def _experiment_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    best = best_name(result["students"])
    apart = result.get("variants") or {}
    parts = [
        "\n".join(wrapped(f"! {line}") for line in unturned([*result["teachers"], *apart.get("teachers", [])])),
        teachers_text(result["teachers"]),
        students_text(result["students"]),
        differences_text(result.get("gains", []), result["differences"], best),
        differences_text(apart.get("gains", []), apart["differences"], best) if apart.get("differences") else "",
        knob_alone_text(result),
        "\n".join(wrapped(line) for line in claims_text(result)),
    ]
    return [*filter(None, parts), f"report: {run.path / 'report.html'}"]


def claims_text(result: Mapping[str, Any]) -> list[str]:
    """Say what the students show of each calibrated teacher, a line a teacher and task."""
    claims = student_claims(result["teachers"], result["students"], result["differences"])
    many = len({row["seed"] for row in result["teachers"]}) > 1
    return [claim.text(label_of(row) + (f", seed {row['seed']}" if many else "")) for row, claim in claims]


def _evaluate_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    best = pass_at(run.config["k"])
    header = ["model", "task", "pass@1 % [95 %]", f"{best} %", "chance %", "finished %"]
    rows = [
        [
            model["model"],
            task["task"],
            percent(task["pass@1"], task["interval"]),
            percent(task.get(best)),
            percent(task["chance"]),
            percent(task["finished_rate"]),
        ]
        for model in result["models"]
        for task in model["tasks"]
    ]
    return [text_table(header, rows), *_paired_text(result)]


def _paired_text(result: Mapping[str, Any]) -> list[str]:
    """Every other model's difference to the first, paired by problem, in points."""
    differences = result.get("differences") or []
    if not differences:
        return []
    header = ["model", "task", f"− {differences[0]['a']}, points [95 %]"]
    rows = [
        [
            row["b"],
            row["task"],
            "0: the same model" if row.get("same") else percent(row["difference"], row["interval"], signed=True),
        ]
        for row in differences
    ]
    return [f"Paired differences, each model − {differences[0]['a']}:\n{text_table(header, rows)}"]


def _calibrate_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    parts = [
        f"η = {result['eta']:g}: {result['outcome']}, step {result['kept_step']} of {result['steps']} kept, "
        f"final beta {result['final_beta']:.3g}" + (f"\n{result['reason']}" if result["reason"] else "")
    ]
    parts += [turning_text(result), *rate_text(result)]
    same = is_original(result)
    where, scores = scores_to_tell(result)
    rows = [
        [
            row["task"],
            percent(row["before"]),
            percent(row["after"]),
            "0: the same model" if same else percent(row["difference"], row["interval"], signed=True),
        ]
        for row in scores
    ]
    table = text_table(["task", "before %", "after %", "difference, points"], rows)
    parts.append(f"{wrapped(f'Scores {where}:')}\n{table}")
    if not same:
        tolerance = result.get("tolerance")
        parts += [wrapped(f"{row['task']}: {judged}") for row in scores if (judged := outcome_text(row, tolerance))]
    # A teacher that is the original moved nothing.
    return [*parts, *([] if same else filter(None, [moved_text(result)]))]


def moved_text(result: Mapping[str, Any]) -> str:
    """Say in three lines a task what the knob moved: figures, and the two largest changes of clusters."""
    lines = []
    for task in result.get("moved", []):
        figures = {row["name"]: row for row in task["figures"]}
        tokens, sure = figures["tokens"], figures["sure"]
        parts = []
        if tokens["difference"] is not None:
            change = with_interval(tokens["difference"], tokens["interval"], "+.1f")
            parts.append(f"right answers {tokens['before']:.1f} → {tokens['after']:.1f} tokens ({change})")
        if sure["difference"] is not None:
            parts.append(f"sure tokens {_moved_share(sure)}")
        if len(task["clusters"]) < 2:
            parts.append("answers of one way of writing")
        lines.append(wrapped(f"moved on {task['task']}: {', '.join(parts)}"))
        for row in task["clusters"][:2] if len(task["clusters"]) > 1 else []:
            # What a model wrote: no control character reaches the terminal.
            example = " ".join("".join(c if c.isprintable() else " " for c in row["example"]).split())
            shown = example if len(example) <= EXAMPLE else f"{example[:EXAMPLE]}…"
            what = f'answers like "{shown}"' if shown else "answers that say nothing"
            lines.append(f"  {what}: {_moved_share(row)}")
    return "\n".join(lines)


def _moved_share(row: Mapping[str, Any]) -> str:
    change = percent(row["difference"], row["interval"], signed=True)
    return f"{percent(row['before'])} → {percent(row['after'])} % ({change} points)"


def _cache_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    return [
        f"{result['traces']} traces of {result['teacher']}, {result['tokens']} tokens: top {result['top_k']} and "
        f"the rest's mass ({result['mean_tail_mass']:.2g} on average) in {result['bytes_per_token']:.0f} bytes a "
        f"token, log-probabilities off by at most {result['max_logprob_error']:.2g}"
    ]


def _fingerprint_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    header = ["test", "observations", "green %", "z", f"p of {result['keys']} keys", "≤", "binomial", "false alarms %"]
    body = [
        [
            f"{row['part']}, {test['test']}{'' if row['own_tokens'] else ' by the teacher’s tokens'}",
            str(test["n"]),
            f"{100 * test['green']:.1f}",
            f"{test['z']:+.1f}",
            f"{test['p']:.2g}",
            f"{test['hoeffding']:.2g}",
            "–" if test["binomial"] is None else f"{test['binomial']:.2g}",
            f"{100 * test['false_alarms']:.1f}",
        ]
        for row in result["suspects"]
        for test in row["tests"]
    ]
    return [text_table(header, body), wrapped(result["text"])]


def _distill_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    return [
        f"{result['student']} from {result['teacher']} by {result['method']}: {result['steps']} steps of "
        f"{result['tokens'] / max(1, result['steps']):.0f} tokens, learning rate {result['learning_rate']:g}, "
        f"final loss {result['final_loss']:.4f}",
        *rate_text(result),
        *([wrapped(_privacy_text(result["privacy"]))] if "privacy" in result else []),
        # Of a task are those by an oracle; the others are reasons to look at scores, and stand in the report.
        *(advice(row) for row in result["findings"] if row["task"] is not None and row["severity"] != "none"),
    ]


def _privacy_text(privacy: Mapping[str, Any]) -> str:
    bound = "no bound, since there was no noise"
    if privacy["epsilon"] is not None:
        bound = f"ε = {privacy['epsilon']:.2f} at δ = {privacy['delta']:.1e} for each problem, of the weights alone"
    return f"privacy: {bound} (noise {privacy['noise']:.3g}, {privacy['steps']} steps)"


def _defend_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    (first, last), (first_loss, last_loss) = result["kl"], result["cross_entropy"]
    moved = {"head": "its head", "all": "all its weights", "adapter": "an adapter"}[result["moved"]]
    return [
        f"{result['teacher']} by {result['method']}: {result['steps']} steps of {moved} on {result['traces']} right "
        f"answers of its own, away from {result['reference']}",
        f"KL {first:.3g} at the first step, {last:.3g} at the end (nats a token, temperature "
        f"{result['kl_temperature']:g}); cross-entropy {first_loss:.3g} and {last_loss:.3g}",
    ]


TEXTS: dict[str, Callable[[Run, Mapping[str, Any]], list[str]]] = {
    "demo": _experiment_text,
    "sweep": _experiment_text,
    "evaluate": _evaluate_text,
    "diagnose": diagnose_text,
    "calibrate": _calibrate_text,
    "cache": _cache_text,
    "distill": _distill_text,
    "attack": attack_text,
    "compare": methods_text,
    "fingerprint": _fingerprint_text,
    "memorization": memorization_text,
    "prune": prune_text,
    "defend": _defend_text,
}


def result_text(run: Run) -> str:
    """Return what a stage prints when it is done."""
    parts = TEXTS[run.stage](run, run.result)
    parts += [wrapped(f"! {run.result['warning']}")] if run.result.get("warning") else []
    parts += [wrapped(note, "note: ") for note in run.result.get("notes", [])]
    return "\n\n".join([*parts, *([] if run.stage in EXPERIMENTS else [f"run: {run.path}"])])


def zoo_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """List the embedded checkpoints, one a row."""
    header = list(rows[0])
    return text_table(header, [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows])
