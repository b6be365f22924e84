"""Results as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.runs import Run

Rows = Sequence[Sequence[str]]


def text_table(header: Sequence[str], rows: Rows) -> str:
    """Columns aligned, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def percent(value: float | None, bounds: Sequence[float | None] | None = None, *, signed: bool = False) -> str:
    """`97.5 [96.1, 98.4]` in percent (points, where signed); an undefined value is a dash."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    shown = f"{100 * value:{sign}.1f}"
    if bounds and None not in bounds:
        shown += " [" + ", ".join(f"{100 * float(b or 0):{sign}.1f}" for b in bounds) + "]"
    return shown


def teachers_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The teachers' scores and their paired differences to the original."""
    return text_table(
        ["teacher", "η", "seed", "task", "score % [95 %]", "− original, points", "finished %"],
        [
            [
                row["teacher"],
                f"{row['eta']:+g}",
                str(row["seed"]),
                row["task"],
                percent(row["score"], row["interval"]),
                percent(row["difference"], row["difference_interval"], signed=True),
                percent(row["finished_rate"]),
            ]
            for row in rows
        ],
    )


def students_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The students' pass@1 and pass@16 beside chance."""
    return text_table(
        ["student of", "η", "method", "seed", "task", "pass@1 % [95 %]", "pass@16 %", "chance %", "finished %"],
        [
            [
                row["teacher"],
                f"{row['eta']:+g}",
                row["method"],
                str(row["seed"]),
                row["task"],
                percent(row["pass@1"], row["interval"]),
                percent(row.get("pass@16")),
                percent(row["chance"]),
                percent(row["finished_rate"]),
            ]
            for row in rows
        ],
    )


def differences_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Students of calibrated teachers against the student of the original by the same method."""
    return text_table(
        ["student of", "method", "seed", "task", "− student of original, points"],
        [
            [
                row["b"],
                row["method"],
                str(row["seed"]),
                row["task"],
                percent(row["difference"], row["interval"], signed=True),
            ]
            for row in rows
        ],
    )


def compare_text(compared: Mapping[str, Any]) -> str:
    """The causal table: each measure under each teacher, with its paired difference to the first."""
    header = ["task, measure", "unit", "run", "value", "− first [95 %]", "problems"]
    body = []
    for row in compared["rows"]:
        shown = "–"
        if row["difference"] is not None:
            low, high = row["interval"]
            shown = f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        value = "–" if row["value"] is None else f"{row['value']:.4f}"
        name = f"{row['task']}, {row['measure']}"
        body.append([name, row["unit"], row["run"].rstrip("/").split("/")[-1], value, shown, str(row["n"])])
    return text_table(header, body)


def unchanged_text(result: Mapping[str, Any]) -> str:
    """What to know and to do where a calibration kept none of its steps."""
    refused = [event["what"] for event in result["events"] if event["what"].startswith("not kept")]
    return (
        "The knob did not turn: no checkpoint kept the teacher's score to within "
        f"{percent(result['tolerance'])} points, so model/ is the teacher as it was."
        + (f" The last steps were {refused[0]}." if refused else "")
        + "\nTo mend: a lower learning_rate, a higher beta or more prompts a step; where the guard's interval below is "
        "wide, more guard_problems or a larger utility_tolerance."
    )


def result_text(run: Run) -> str:
    """What a stage prints when it is done."""
    result = run.result
    parts = []
    if run.stage in ("demo", "sweep"):
        parts = [
            teachers_text(result["teachers"]),
            students_text(result["students"]),
            differences_text(result["differences"]),
        ]
        apart = (result.get("variants") or {}).get("differences", [])
        if apart:
            named = [{**row, "b": f"{row['variant']}: {row['b']} {row['eta']:+g}"} for row in apart]
            parts.append(differences_text(named))
        parts.append(f"report: {run.path / 'report.html'}")
    elif run.stage == "evaluate":
        rows = [[m["model"], t] for m in result["models"] for t in m["tasks"]]
        parts.append(
            text_table(
                ["model", "task", "pass@1 % [95 %]", "pass@k %", "chance %", "finished %"],
                [
                    [
                        model,
                        t["task"],
                        percent(t["pass@1"], t["interval"]),
                        percent(next((v for k, v in t.items() if k.startswith("pass@") and k != "pass@1"), None)),
                        percent(t["chance"]),
                        percent(t["finished_rate"]),
                    ]
                    for model, t in rows
                ],
            )
        )
    elif run.stage == "diagnose":
        parts.append(
            text_table(
                ["trap", "task", "severity", "value [95 %]", "unit"],
                [
                    [
                        f["name"],
                        f["task"] or "all",
                        f["severity"] if f["applicable"] else "n/a",
                        "–" if f["value"] is None else "{:.3f} [{:.3f}, {:.3f}]".format(f["value"], *f["interval"]),
                        f["unit"] if f["applicable"] else f["cause"],
                    ]
                    for f in result["findings"]
                ],
            )
        )
        if result["forecast"]:
            parts.append(
                text_table(
                    [
                        "forecast without training",
                        "student now %",
                        "if it wrote as the teacher %",
                        "difference, points",
                    ],
                    [
                        [
                            row["task"],
                            percent(row["score"]),
                            percent(row["forecast"]),
                            percent(row["gain"], row["interval"], signed=True),
                        ]
                        for row in result["forecast"]
                    ],
                )
            )
    elif run.stage == "calibrate":
        parts.append(
            f"η = {result['eta']:g}: {result['outcome']}, step {result['kept_step']} of {result['steps']} kept, "
            f"final beta {result['final_beta']:.3g}" + (f"\n{result['reason']}" if result["reason"] else "")
        )
        if result["kept_step"] == 0:
            parts.append(unchanged_text(result))
        parts.append(
            text_table(
                ["task", "before %", "after %", "difference, points"],
                [
                    [
                        row["task"],
                        percent(row["before"]),
                        percent(row["after"]),
                        percent(row["difference"], row["interval"], signed=True),
                    ]
                    for row in result["guard"]
                ],
            )
        )
    elif run.stage == "cache":
        parts.append(
            f"{result['traces']} traces of {result['teacher']}, {result['tokens']} tokens: top {result['top_k']} and "
            f"the rest's mass ({result['mean_tail_mass']:.2g} on average) in {result['bytes_per_token']:.0f} bytes a "
            f"token, log-probabilities off by at most {result['max_logprob_error']:.2g}"
        )
    elif run.stage == "distill":
        parts.append(
            f"{result['student']} from {result['teacher']} by {result['method']}: {result['steps']} steps of "
            f"{result['tokens'] / max(1, result['steps']):.0f} tokens, learning rate {result['learning_rate']:g}, "
            f"final loss {result['final_loss']:.4f}"
        )
    if run.stage not in ("demo", "sweep"):
        parts.append(f"run: {run.path}")
    return "\n\n".join(parts)


def zoo_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The embedded checkpoints, one a row."""
    header = list(rows[0])
    return text_table(header, [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows])
