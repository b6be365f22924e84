"""What the tasks without one right answer have in common: a reward model grades.

The score is the Bradley–Terry probability that the answer is preferred to the data set's own response,
sigmoid(r(answer) − r(response)); without a response, sigmoid(r(answer)), which says only what the reward model's zero
happens to mean. Left out on purpose: judges that write a verdict in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from distillknob.errors import BadInputError
from distillknob.tasks.base import Example, Task
from distillknob.tasks.graders.reward_model import DEFAULT, Exchange, RewardModel, check_name, reward_model
from distillknob.tasks.rows.task import RowsTask


class RewardTask(RowsTask):
    """Base class. A subclass's `example_of` returns `self.request(…)`. Reference: a dict with `prompt` and `response`
    (None where the data set has none).

    Options: `reward`, a sequence-classification checkpoint (folder or hub id; default `DEFAULT`), or what the server at
    `reward_url` calls it. The model is loaded, or the server asked, when something is first graded.
    """

    verifiable = False
    max_new_tokens = 1024
    options = ("reward", "reward_url")

    def __init__(self, path: str | None = None, *, others: Callable[[str], Task] | None = None, **options: str):
        if "reward_url" in options and "reward" not in options:
            raise BadInputError(
                f"task {self.name!r}: reward_url={options['reward_url']!r} needs reward=NAME beside it, the name under "
                "which the server serves the reward model"
            )
        name, url = options.get("reward", DEFAULT), options.get("reward_url")
        check_name(name, url)
        super().__init__(path, others=others, **options)
        self._reward, self._reward_url = name, url
        self.reward_models = ((name, url),)
        self._responses: dict[tuple[str, str], float] = {}

    @property
    def judge(self) -> RewardModel:
        """The reward model, loaded once a process. Raises BadInputError if it can't be."""
        return reward_model(self._reward, self._reward_url)

    def request(self, prompt: str, response: str | None) -> Example:
        """An example; the response is its gold solution."""
        return Example(
            task=self.name,
            key=prompt,
            prompt=prompt,
            reference={"prompt": prompt, "response": response},
            solutions={} if response is None else {"given": response},
            gold=None if response is None else "given",
        )

    def grade(self, completion: str, reference: Any) -> float:
        return self.grade_all([completion], [reference])[0]

    def grade_all(self, completions: Sequence[str], references: Sequence[Any]) -> list[float]:
        """Scores in [0, 1], in one pass of the reward model over all answers and the responses not yet judged."""
        answers = [(r["prompt"], text) for text, r in zip(completions, references, strict=True)]
        responses = [None if r["response"] is None else (r["prompt"], r["response"]) for r in references]
        new = list(dict.fromkeys(pair for pair in responses if pair is not None and pair not in self._responses))
        rewards = self.judge.rewards([Exchange(*pair) for pair in (*answers, *new)])
        self._responses.update(zip(new, rewards[len(answers) :], strict=True))
        return [
            sigmoid(reward - (0.0 if pair is None else self._responses[pair]))
            for reward, pair in zip(rewards[: len(answers)], responses, strict=True)
        ]

    def is_right(self, score: float) -> bool:
        """At least as good as the data set's own response."""
        return score >= 0.5

    def committed(self, completion: str) -> str | None:
        return completion.strip() or None


def sigmoid(x: float) -> float:
    """1 / (1 + e⁻ˣ) without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
