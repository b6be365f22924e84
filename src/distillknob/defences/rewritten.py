"""Answers restated by another model, so that they are as right and teach less."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from distillknob.config.checks import check_at_least_one
from distillknob.defences.base import Wrapping
from distillknob.defences.sampled import Reworded, Written
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import AnswerReader
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler, Sampling, generate
from distillknob.models.served.model import load_or_connect
from distillknob.runs.journal import Journal
from distillknob.tasks import Task
from distillknob.tasks.base import as_prompt

PROMPT = (
    "Here are a problem and a solution.\n\nProblem:\n{problem}\n\nSolution:\n{answer}\n\n"
    "State the same solution again for an expert, in dense, formal and uncommon language. Leave out what an expert can "
    "fill in. Keep every value right, and close with the final answer in exactly the form in which it stands above. "
    "Write the solution alone."
)


@dataclass(frozen=True)
class Rewritten(Wrapping):
    """Answers that a rewriter restates when it is asked to by a prompt (arXiv 2602.15143, without its search for the
    prompt that hurts a proxy most). One that commits to another answer afterwards, or didn't end, is given out as it
    was."""

    about: ClassVar[str] = "Lets another model restate each answer in language that teaches less (arXiv 2602.15143)."

    rewriter: str = field(
        default="zoo:teacher", metadata={"help": "Model that restates: folder, hub id or URL#NAME.", "names": "model"}
    )
    prompt: str = field(default=PROMPT, metadata={"help": "What it is asked, with {problem} and {answer} in it."})
    temperature: float = field(default=0.6, metadata={"help": "At which it writes."})
    max_new_tokens: int = field(default=1024, metadata={"help": "Which it may write."})

    def __post_init__(self) -> None:
        if missing := [name for name in ("{problem}", "{answer}") if name not in self.prompt]:
            raise BadInputError(f"prompt={self.prompt[:60]!r} lacks {' and '.join(missing)}: there they are put in")
        check_at_least_one(self, "max_new_tokens")
        if not self.temperature > 0:
            raise BadInputError(f"temperature={self.temperature}: must be above 0")

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        rewriter = load_or_connect(self.rewriter, scores=False)
        return Reworded(teacher, Restated(task, rewriter, self), f"{teacher.name}, rewritten by {self.rewriter}")


@dataclass
class Restated:
    """Has answers restated by a rewriter. `asked` counts them, and `unchanged` those that are given out as they were,
    since the new text commits to another answer or didn't end."""

    task: Task
    rewriter: Sampler
    settings: Rewritten
    asked: int = 0
    unchanged: int = 0

    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        own = Sampling(
            max_new_tokens=self.settings.max_new_tokens, temperature=self.settings.temperature, seed=sampling.seed
        )
        committed = [self.task.committed(answer.said) for answer in answers]
        asked = [i for i, answer in enumerate(answers) if answer.finished and committed[i] is not None]
        texts = [answer.text for answer in answers]
        if asked:
            prompts = [[{"role": "user", "content": self._asks(answers[i])}] for i in asked]
            drawn = generate(self.rewriter, prompts, 1, own, journal=journal, description="rewrite")
            reader = AnswerReader(self.rewriter.tokenizer)
            for i, prompt, (sample,) in zip(asked, prompts, drawn.completions, strict=True):
                restated = reader.answer(sample.text, sample.token_ids, reader.opened(prompt)).strip()
                if sample.finished and self.task.committed(restated) == committed[i]:
                    texts[i] = answers[i].outside_of_thoughts(restated)
                else:
                    self.unchanged += 1
        self.asked += len(asked)
        return texts

    def _asks(self, answer: Written) -> str:
        values = {"{problem}": as_prompt(answer.prompt), "{answer}": answer.text.strip()}
        # In one go, and not by `format`: problem and answer may hold braces, and so may the prompt.
        return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], self.settings.prompt)
