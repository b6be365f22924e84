"""SFT on the teacher's traces in the attacker's own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack

PROMPT = "{problem}\n\nA solution:\n{trace}\n\nWrite this solution again in your own words, step by step."


@dataclass(frozen=True)
class Rewritten(TraceAttack):
    """The first of `tries` rewritings by the attacker's own model that keeps the final answer of the teacher's trace.
    `prompt` asks for it, with {problem} and {trace}."""

    why: ClassVar[str] = "poison that sits in the wording doesn't outlive another's words"
    tries: int = 4
    prompt: str = PROMPT

    @property
    def access(self) -> Access:
        return Access("text", queries=1)

    @property
    def pool(self) -> int:
        return 1

    def traces(self, scene: Scene) -> list[Trace]:
        asked = [answers[0] for answers in scene.asked(1)]
        prompts = [
            [
                *problem.messages[:-1],
                {
                    "role": "user",
                    "content": self.prompt.format(problem=problem.messages[-1]["content"], trace=answer.text),
                },
            ]
            for problem, answer in zip(scene.problems, asked, strict=True)
        ]
        traces = []
        written = scene.written(prompts, self.tries)
        for problem, answer, rewritings in zip(scene.problems, asked, written, strict=True):
            same = [one for one in rewritings if one.finished and one.committed == answer.committed]
            traces += [Trace(problem, one.text) for one in same[:1] if answer.committed is not None]
        return traces
