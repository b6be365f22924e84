"""Which tokens carry the KL, and how much of it lies in the tail of the vocabulary, by how often a token comes.

    distillknob diagnose recipes/smollm2.yaml --output runs/smollm2-diagnosis
    python benchmarks/tokens.py runs/smollm2-diagnosis/result.json

The paper's figures 1 and 2 look at the same: each token's frequency and the forward KL that the K likeliest tokens
account for. There, frequent tokens have a large KL at large K alone. Markdown on stdout, for the first task; of the
tokens that a diagnosis keeps (`scatter`), which are those that came most often.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from red_team import result_at

GROUPS = ((30, None), (10, 29), (1, 9))  # how often a token comes
SHOWN = 12  # tokens that are named

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of the scatter on the result's first task."""
    rows: list[Row] = result_at(path)["scatter"]
    return [row for row in rows if row["task"] == rows[0]["task"]]


def by_frequency(rows: list[Row]) -> list[str]:
    """A line for each group of tokens: their mean KL, and which share of it the K likeliest tokens account for."""
    kl: dict[tuple[int, str], float] = {(row["k"], row["token"]): row["kl"] for row in rows}
    sizes = sorted({row["k"] for row in rows})
    times = {row["token"]: row["frequency"] for row in rows}
    lines = [
        f"| a token comes | tokens | places | KL, nats | {' | '.join(f'K = {k}' for k in sizes[:-1])} |",
        "|---" * (3 + len(sizes)) + "|",
    ]
    for low, high in GROUPS:
        group = [token for token, n in times.items() if n >= low and (high is None or n <= high)]
        if not group:
            continue
        summed = {k: sum(kl[k, token] * times[token] for token in group) for k in sizes}
        places, whole = sum(times[token] for token in group), summed[sizes[-1]]
        shares = " | ".join(f"{100 * summed[k] / whole:.0f} %" for k in sizes[:-1])
        often = f"{low} times and more" if high is None else f"{low} to {high} times"
        lines.append(f"| {often} | {len(group)} | {places} | {whole / places:.3f} | {shares} |")
    return lines


def carriers(rows: list[Row]) -> list[str]:
    """The tokens that carry most of the KL in all their places together, and those that come most often."""
    largest = max(row["k"] for row in rows)
    whole = [row for row in rows if row["k"] == largest]
    total = sum(row["kl"] * row["frequency"] for row in whole)
    most = sorted(whole, key=lambda row: -row["kl"] * row["frequency"])[:SHOWN]
    often = sorted(whole, key=lambda row: -row["frequency"])[:SHOWN]
    return [
        "| token | times | KL, nats | share of the KL |",
        "|---|---|---|---|",
        *(
            f"| `{json.dumps(row['token'], ensure_ascii=False)}` | {row['frequency']} | {row['kl']:.3f} | "
            f"{100 * row['kl'] * row['frequency'] / total:.1f} % |"
            for row in [*most, *(row for row in often if row not in most)]
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result.json of a diagnosis, or result.json.gz")
    rows = read(parser.parse_args().result)
    print("\n".join([*by_frequency(rows), "", *carriers(rows)]))


if __name__ == "__main__":
    main()
