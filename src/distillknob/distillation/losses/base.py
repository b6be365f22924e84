"""What a loss is and what it sees: the seam between `DistillTrainer` and the losses.

A loss says by its fields what it needs, and gives its value from a `View`, which reads student and teacher when it is
asked to. The config's refusals, the stage, the trainer and the dry run ask these fields, and know no loss by name.

How other objectives fit, without a change of the trainer:

weights of tokens, edited targets  `value` has both models' heads and states: logits a block at a time (`by_blocks`)
terms on hidden states             `States.hidden_BCH`, those of the last layer
several contexts of the teacher    columns `teacher_prompt_X` of the data set (messages), each read by
                                   `view.teacher("teacher_prompt_X")`
the student as its own teacher     as it is: `DistillTrainer(model, teacher_model=model)`, read without gradients; as it
                                   was at the start: its checkpoint, loaded once more; as a moving average: a copy
                                   that a callback moves after each step, and keeps beside the checkpoints
advantages, importance weights     what has to be known before the student moves is measured in `prepare`
edited completions, wrong traces   `prepare` may replace the completions, and reads further `columns` of the data set
a second phase                     a second run, whose student is the first one's model

a layer below the last one         `exit_share` says at which depth, and `States.exit_BCH` has its states

Left out on purpose: more than one lower layer, and weights that belong to a loss.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.heads import Head

if TYPE_CHECKING:
    from distillknob.distillation.cache.files import TeacherCache


class Settings(Protocol):
    """The fields of `DistillConfig` that losses are made with."""

    beta: float
    skew: float
    temperature: float


@dataclass(frozen=True)
class States:
    """A model's last hidden states [B, C, H], from which the tokens of the completions are predicted, and its head; of
    a student also those at its exit, where the loss has an `exit_share`."""

    head: Head
    hidden_BCH: Tensor
    exit_BCH: Tensor | None = None

    def entropy(self, mask_BC: Tensor) -> Tensor:
        """The entropy in nats of the next-token distribution at every token of the mask, [N]."""
        hidden_NH = self.hidden_BCH[mask_BC]
        blocks = [
            torch.distributions.Categorical(logits=self.head.logits(hidden_NH[block])).entropy()
            for block in self.head.blocks(len(hidden_NH))
        ]
        return torch.cat(blocks) if blocks else hidden_NH.new_zeros(0)


class View:
    """What a loss sees of one batch of a process.

    `batch` has the columns as tensors: `prompt_ids` and `prompt_mask` [B, P], `completion_ids`, `completion_mask` and
    `loss_mask` [B, C], and what the loss's `prepare` added. `counted_BC` says which tokens count, and `items` how many
    do in the whole batch of all processes: what a sum is divided by.
    """

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        counted_BC: Tensor,
        items: int | Tensor,
        student: Callable[[], States],
        teacher: Callable[[str | None], States],
    ):
        self.batch, self.counted_BC, self.items = batch, counted_BC, items
        self._student, self._teacher = functools.cache(student), functools.cache(teacher)

    @property
    def student(self) -> States:
        """The student's states, with gradients; read once."""
        return self._student()

    def teacher(self, prompt: str | None = None) -> States:
        """The teacher's states, without gradients; read once for each `prompt`, which names a column of the data set
        that stands before the completions. Default: what the method's context shows."""
        return self._teacher(prompt)


@dataclass(frozen=True)
class Rollouts:
    """What a step will train on, of one process and before the student moves.

    `rows` are those of the data set, `batch` their columns as tensors, `teacher` is None where none is loaded, `ends`
    are the tokens that end the student's answers. `measured(f)` is f of a view of all rows in which every token of the
    completions counts: a micro-batch at a time, without gradients, put together along the first axis.
    """

    rows: Sequence[Mapping[str, Any]]
    batch: Mapping[str, Tensor]
    student: LanguageModel
    teacher: LanguageModel | None
    ends: Sequence[int]
    measured: Callable[[Callable[[View], Tensor]], Tensor]


class Loss(ABC):
    """One loss. Its fields answer what the config, the stage and the dry run want to know."""

    asks_teacher: ClassVar[bool] = True
    """Does it read the teacher's states, so that the teacher's weights are needed?"""
    crosses_tokenizers: ClassVar[bool] = False
    """May student and teacher have two tokenizers?"""
    counts_tokens: ClassVar[bool] = True
    """Is it a sum over single tokens, so that some can be chosen, and a step's budget be counted in them?"""
    cacheable: ClassVar[bool] = False
    """Is a teacher's top k enough (`stored`)?"""
    tempered: ClassVar[bool] = False
    """Does `temperature` change it?"""
    in_blocks: ClassVar[bool] = True
    """Does it form the logits of a block of tokens at a time (`by_blocks`)? The dry run counts memory by it."""
    exit_share: ClassVar[float | None] = None
    """The share of the student's depth at which it asks for further states (`models.exits`), if it does."""
    reads: tuple[str, ...] = ()
    """Which of `Settings` change it, beside `temperature`. The check remarks on others that are set."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Further columns of the data set that `prepare` reads."""

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        """The columns that are added to a batch, or replaced in it, [b, …] each."""
        return {}

    @abstractmethod
    def value(self, view: View) -> Tensor:
        """The loss summed over what counts and divided by `view.items`, a scalar."""

    def per_token(self, view: View) -> Tensor:
        """The loss at each token that counts, [N], by which tokens are chosen. Only where `counts_tokens`."""
        raise NotImplementedError(f"{type(self).__name__} has no value at single tokens")

    def stored(self, cache: TeacherCache) -> Loss:
        """This loss with a cache in the teacher's place. Raises BadInputError where the teacher itself is needed."""
        raise BadInputError(f"{type(self).__name__} asks for more than a cache holds: leave cache out")
