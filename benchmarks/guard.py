"""How often the guard takes an unchanged teacher for a collapsed one, by the prompts in a window: Markdown on stdout.

    python benchmarks/guard.py

Half of the teacher's problems are right always, half of them half of the time; 8 samples a prompt.
"""

from __future__ import annotations

import argparse

import numpy as np

from distillknob.calibration.guard import UtilityGuard

BASELINE, TOLERANCE, SAMPLES = 0.75, 0.01, 8


def false_stops(prompts: int, windows: int, seed: int) -> float:
    """Share of windows of that many prompts in which nothing has changed and the run would be stopped."""
    rng = np.random.default_rng(seed)
    stops = 0
    for _ in range(windows):
        chance = rng.choice([0.5, 1.0], size=prompts)
        watch = UtilityGuard(baseline={"task": BASELINE}, tolerance=TOLERANCE, beta=0.1)
        watch.observe({"task": (rng.binomial(SAMPLES, chance) / SAMPLES).tolist()}, 0.0)
        stops += watch.judge(1) == "stop"
    return stops / windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| prompts a window | false stops, % |\n|---|---|")
    for prompts in (1, 2, 3, 5, 8, 20, 80):
        print(f"| {prompts} | {100 * false_stops(prompts, arguments.windows, arguments.seed):.2f} |")


if __name__ == "__main__":
    main()
