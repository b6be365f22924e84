"""What extractors got from some teachers: the tables of docs/research/red-team.md. Markdown on stdout.

    python benchmarks/red_team.py docs/evidence/attacks/knob.json.gz

Each argument is the result of a `distillknob attack`: its run directory, or its `result.json`, also gzipped. Of each
come the verdicts, the planted defences, the controls, a table of attacks × teachers with R, and the price curves.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillknob.cli.layout import percent

Row = Mapping[str, Any]


def result_at(path: Path) -> Row:
    file = path / "result.json" if path.is_dir() else path
    data = file.read_bytes()
    result: Row = json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
    return result


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join(lines)


def share(row: Row, bounds: str) -> str:
    return percent(row["recovered"], row[bounds]) if row["recovered"] is not None else "–"


def teachers(result: Row) -> str:
    body = []
    for row in result["targets"]:
        use = row["utility"]
        lost = "–" if row["original"] else percent(use["difference"], use["difference_interval"], signed=True)
        body.append([row["target"], percent(use["score"], use["interval"]), lost])
    return table(["teacher", "right, %", "less the original's, points"], body)


def verdicts(result: Row) -> str:
    if result["refused"]:
        return f"No verdicts: {result['refused']}"
    body = [
        [
            row["target"],
            row["attacker"],
            row["tier"],
            row["verdict"],
            row["attack"] or "–",
            share(row, "interval"),
            f"{row['control']['attack']} {percent(row['control']['score'])}" if row["control"] else "–",
            f"{row['undefended']['attack']} {percent(row['undefended']['score'])}" if row["undefended"] else "–",
        ]
        for row in result["worst"]
    ]
    head = ["teacher", "attacker", "tier", "verdict", "worst attack", "R, % (all attacks at once)"]
    return table([*head, "without the teacher, %", "from the original, %"], body)


def planted(result: Row) -> str:
    body = [
        [row["planted"], row["demand"], share(row, "interval"), "yes" if row["passed"] else "no"]
        for row in result["planted"]
    ]
    return table(["planted", "demand", "R, %", "passed"], body)


def attacks(result: Row, attacker: str) -> str:
    """Scores of all arms by one attacker, a column a teacher."""
    own = [row for row in result["arms"] if row["attacker"] == attacker]
    targets = list(dict.fromkeys(row["target"] for row in own))
    cells = {(row["attack"], row["target"]): row for row in own}
    body = []
    for name in dict.fromkeys(row["attack"] for row in own):
        rows = [cells.get((name, target)) for target in targets]
        first = next(row for row in rows if row is not None)
        body.append([name, first["access"]["text"], *(_cell(row) for row in rows)])
    return table(["attack", "threat model", *targets], body)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["state"] != "done":
        return str(row["state"])
    unfinished = "" if row["finished_rate"] >= 0.95 else f", {percent(row['finished_rate'])} ended"
    return f"{percent(row['score'], row['interval'])}{unfinished}"


def curves(result: Row) -> str:
    body = []
    for row in result["curves"]:
        points = ", ".join(
            f"{point['queries']:g}×: {percent(point['value'], point['interval'])}" for point in row["points"]
        )
        body.append([row["target"], row["attacker"], row["kind"], points])
    return table(["teacher", "attacker", "attack", "R at so many answers a problem, %"], body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    for path in parser.parse_args().results:
        result = result_at(path)
        parts = [teachers(result), verdicts(result), planted(result)]
        parts += [attacks(result, attacker) for attacker in result["attackers"]]
        parts += [curves(result)]
        print("\n\n".join(parts))


if __name__ == "__main__":
    main()
