"""What an attack is and what it sees: the seam between the suite and the attacks.

An attack gets a scene, does what its access allows, and leaves a trained student. Most attacks are a choice of traces
(`TraceAttack`): the training is then the same for all. The scene counts what is asked of the teacher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from distillknob.attacks.access import Access
from distillknob.errors import RunFailedError
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sample, Sampler
from distillknob.models.scoring import Prompt
from distillknob.runs.journal import Journal
from distillknob.tasks import Example, Task

# Nothing; what it writes; what it writes behind a beginning; its scores of texts; its weights.
OfTarget = Literal["nothing", "texts", "beginnings", "scores", "weights"]


@dataclass(frozen=True)
class Answer:
    """One answer to a problem: its text, the tokens of whoever wrote it, whether it ended by itself, the final answer
    that it commits to, and whether that is right. Only an attack with `labels` may read `right`."""

    text: str
    token_ids: list[int]
    finished: bool
    committed: str | None
    right: bool

    @property
    def sample(self) -> Sample:
        return Sample(self.text, self.token_ids, finished=self.finished)


@dataclass(frozen=True)
class Problem:
    """A problem that the attacker asks about."""

    task: Task
    example: Example

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.task.messages(self.example)


@dataclass(frozen=True)
class Trace:
    """What a student is trained on: an answer's text, finished or cut off, to a problem, `weight` times."""

    problem: Problem
    text: str
    finished: bool = True
    weight: float = 1.0


class NothingToTrainOnError(RunFailedError):
    """The attack found no trace that it would train on. Its cell says so, and the others go on."""


class NotApplicableError(RunFailedError):
    """The target, the attacker or the recipe lacks what the attack needs, such as weights. Its cell says why."""


class Scene(Protocol):
    """What an attack has to work with: one target, one attacker's student, one seed."""

    @property
    def problems(self) -> Sequence[Problem]:
        """The problems that the attacker asks about, of all tasks; from the train split."""

    @property
    def student_name(self) -> str:
        """The attacker's model before the attack: folder, hub id or zoo:NAME."""

    @property
    def teacher_name(self) -> str:
        """The target's weights, for an attack that may read them or their logits."""

    @property
    def original_name(self) -> str:
        """The undefended teacher's weights: for a control, never for an attack."""

    @property
    def acts_when_sampled(self) -> bool:
        """Does a defence stand between the weights and what is sampled, so that the weights alone are not the
        target?"""

    @property
    def base_name(self) -> str | None:
        """A public model from which the target's weights descend, where the config names one."""

    @property
    def seed(self) -> int: ...

    @property
    def folder(self) -> Path:
        """The cell's run directory: an attack puts what it makes into folders of its own below it."""

    @property
    def journal(self) -> Journal:
        """What is sampled or scored is kept here until the cell is done."""

    def student(self) -> LanguageModel:
        """The attacker's model, loaded afresh."""

    def teacher(self) -> Sampler:
        """The target as it answers: its defence, where it has one, at work. What is drawn of it by other means than
        `asked` and `drawn` has to be told to `count`."""

    def asked(self, n: int) -> list[list[Answer]]:
        """The first `n` of the target's answers to each problem at temperature 1: [P][n]. They are drawn once for all
        attacks on the target."""

    def drawn(
        self,
        n: int,
        *,
        openings: Sequence[str] | None = None,
        opening_tokens: int = 0,
        instruction: str | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[Answer]]:
        """`n` answers of the target to each problem, [P][n], drawn for this attack alone: at `temperature` and `top_p`;
        beginning with the first `opening_tokens` tokens of the texts `openings` [P]; with the sentence `instruction`
        behind the problem."""

    def own(self, n: int) -> list[list[Answer]]:
        """`n` answers of the attacker's own model to each problem, [P][n]."""

    def written(self, prompts: Sequence[Prompt], n: int) -> list[list[Answer]]:
        """`n` answers of the attacker's own model to prompts of the attack's own, one for each problem: [P][n]."""

    def public(self, share: float) -> dict[int, Trace]:
        """Public solutions for the first `share` of each task's problems, by the problem's number. Raises
        NotApplicableError where a task has none."""

    def count(self, queries: int, tokens: int) -> None:
        """Add answers and tokens that were taken from the target."""

    def train(self, traces: Sequence[Trace], steps: float = 1, **fields: Any) -> Path:
        """Train the student on the traces with hard labels, for so many times the recipe's steps, and return its
        folder. `fields` are those of `distill`. Raises NothingToTrainOnError where there are too few."""

    def distill(self, **fields: Any) -> Path:
        """Distil the student from the target's weights (`teacher`, unless `fields` say otherwise) by any method of
        `distill`, and return its folder."""

    def settings(self, stage: str, **fields: Any) -> Any:
        """The config of a stage (`distill`, `calibrate`) as the recipe has it, with this scene's models, tasks,
        problems and seed, and `fields`."""


@dataclass(frozen=True)
class Attack(ABC):
    """One attack. Its fields are its settings in a suite; `why` says in a sentence why it might work."""

    why: ClassVar[str]
    trained_by: ClassVar[tuple[str, ...]] = ("distill",)
    """The sections of the recipe by which it trains."""
    budget: ClassVar[Literal["traces", "reinforcement"]] = "traces"
    """What the training takes: the steps and tokens of the recipe's `distill`, or reinforcement learning beside them. A
    control counts only where an attack has its budget."""

    @property
    @abstractmethod
    def access(self) -> Access:
        """What the attacker needs, as the suite states it."""

    @property
    def of_target(self) -> OfTarget:
        """What it works on of the target, by which is known whether a server will do."""
        kinds: dict[str, OfTarget] = {"none": "nothing", "answers": "texts", "text": "texts", "prefill": "beginnings"}
        return kinds.get(self.access.interface, "weights")

    @abstractmethod
    def student(self, scene: Scene) -> Path:
        """Mount the attack and return the folder of the trained student.

        Raises NothingToTrainOnError, NotApplicableError, or RunFailedError for a training that broke.
        """

    @property
    def pool(self) -> int:
        """How many of the target's answers to each problem it reads of those that are drawn once for all attacks."""
        return 0


@dataclass(frozen=True)
class TraceAttack(Attack):
    """An attack that is a choice of traces, on which the student is trained with hard labels, for `steps` times the
    recipe's."""

    steps: float = field(default=1, kw_only=True)

    @abstractmethod
    def traces(self, scene: Scene) -> list[Trace]:
        """The traces to train on."""

    def student(self, scene: Scene) -> Path:
        return scene.train(self.traces(scene), steps=self.steps)
