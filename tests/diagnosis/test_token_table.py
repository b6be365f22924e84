"""benchmarks/tokens.py: how much of the KL lies in the tail, by how often a token comes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from benchmark_files import benchmark

TOKENS = benchmark("tokens")


def test_the_tail_is_told_by_frequency_and_tokens_by_their_share(tmp_path: Path) -> None:
    """A frequent token with half of its KL in the tail, a rare one with all of it at the likeliest token."""
    planted = {("the", 1): (40, 0.1), ("the", 9): (40, 0.2), ("mine", 1): (2, 1.0), ("mine", 9): (2, 1.0)}
    rows = [
        {"task": task, "k": k, "token": token, "frequency": times, "kl": kl * scale}
        for task, scale in (("a", 1), ("b", 7))  # of the first task alone
        for (token, k), (times, kl) in planted.items()
    ]
    file = tmp_path / "result.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"scatter": rows}).encode()))
    read = TOKENS.read(file)
    head, _, frequent, rare = TOKENS.by_frequency(read)
    assert head.split("|")[-2].strip() == "K = 1"
    assert frequent == "| 30 times and more | 1 | 40 | 0.200 | 50 % |"
    assert rare == "| 1 to 9 times | 1 | 2 | 1.000 | 100 % |"
    assert TOKENS.carriers(read)[2:] == ['| `"the"` | 40 | 0.200 | 80.0 % |', '| `"mine"` | 2 | 1.000 | 20.0 % |']
