"""The pilot table, against exact values over all sequences."""

from __future__ import annotations

import pytest

from distillknob.diagnosis.pilot import pilot_rows
from scored import PROMPTS, TOKENS, VOCABULARY, listed_pair, noise, sampled


def test_the_pilot_table_has_eight_rows_a_task_with_intervals() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    student = teacher + 0.3 * noise(PROMPTS * TOKENS, VOCABULARY, seed=5)
    pair = [sampled(teacher, student, policy=policy) for policy in ("on_policy", "off_policy")]
    rows = pilot_rows(pair)
    assert len({(row["level"], row["direction"], row["policy"]) for row in rows}) == len(rows) == 8
    for row in rows:
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
        assert (row["task"], row["n"]) == ("planted", PROMPTS)
        assert row["unit"] == f"nats/{row['level']}"
        weighted = row["level"] == "sequence" and (row["direction"] == "reverse_kl") != (row["policy"] == "on_policy")
        assert ("effective_samples" in row) == weighted
        if weighted:
            assert 1 <= row["effective_samples"] <= row["samples"] == PROMPTS
    for sample in pair:
        (row,) = (
            r for r in rows if (r["level"], r["direction"], r["policy"]) == ("token", "forward_kl", sample.policy)
        )
        assert row["value"] == pytest.approx(float(sample.forward_kl_N.mean()), rel=1e-5)


@pytest.mark.parametrize("policy", ["on_policy", "off_policy"])
def test_sequence_kls_agree_with_their_exact_values(policy: str) -> None:
    sample, forward, reverse = listed_pair(20_000, policy)
    rows = {row["direction"]: row for row in pilot_rows([sample]) if row["level"] == "sequence"}
    for direction, exact in (("forward_kl", forward), ("reverse_kl", reverse)):
        low, high = rows[direction]["interval"]
        assert low - (high - low) / 2 <= exact <= high + (high - low) / 2, direction
        assert high - low < 0.3 * exact
    weighted = rows["forward_kl" if policy == "on_policy" else "reverse_kl"]
    assert 0 < weighted["effective_samples"] < 20_000
