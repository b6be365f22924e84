"""What a loss is and what it sees: the seam between `DistillTrainer` and the losses.

A loss says by its fields what it needs, and gives its value from a `View`, which reads student and teacher when it is
asked to. The config's refusals, the stage, the trainer and the dry run ask these fields, and know no loss by name.

Where the other parts of a method come in, in the order of a step:

edit           replaces the completions (`edits`)
teacher        prompts are made: known ones from columns `teacher_prompt…` of the data set, late ones from what was
               written (`teacher_context`)
loss_mask      says which tokens count: those of completions for which there is something to show, that no part leaves
               out (`counts`), up to the budget of a step
prepare        the loss adds columns, or replaces them: what has to be known before the student moves is measured there
tokens         some are chosen (`token_choice`), and all are weighed (`token_weights`, `queries`): `View.weight_N`
value          is asked a micro-batch at a time; logits are formed a block at a time (`token_loss`, `by_blocks`)

A loss over single tokens is a `TokenLoss`: its file holds the formula alone. One that needs hidden states has those of
the last layer of both models (`States.hidden_BCH`), and those of a layer below where it has an `exit_share`. Weights of
its own that are trained along are its `module`. Other models beside the teacher are its `models`.

Left out on purpose: more than one lower layer.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from distillknob.distillation.options import MethodPart
from distillknob.distillation.past import Past
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.heads import Head

if TYPE_CHECKING:
    from distillknob.distillation.cache.files import TeacherCache


TEACHER, START, STUDENT = "teacher", "start", "student"
PROMPT, PLAIN = "prompt", "plain"  # the student's own prompt, and the same in the tokens of the teacher's template


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
        teacher: Callable[[str | None, str], States],
        student_on: Callable[[str, str], States] | None = None,
        module: Callable[[Tensor], Tensor] | None = None,
    ):
        self.batch, self.counted_BC, self.items = batch, counted_BC, items
        self._module = module
        self._student, self._teacher = functools.cache(student), functools.cache(teacher)
        self._student_on = student_on

    @property
    def weight_N(self) -> Tensor | None:
        """How much each token that counts does; None where all do alike."""
        weight_BC = self.batch.get("weight")
        return None if weight_BC is None else weight_BC[self.counted_BC]

    @property
    def module(self) -> Callable[[Tensor], Tensor]:
        """The loss's own weights (`Loss.module`), as they are called. Raises ValueError for a loss that has none."""
        if self._module is None:
            raise ValueError("the loss has no module")
        return self._module

    @property
    def student(self) -> States:
        """The student's states, with gradients; read once."""
        return self._student()

    def student_on(self, completion: str = "completion", *, prompt: str = PROMPT) -> States:
        """The student's states, with gradients, on other completions of the same prompts, or behind other prompts: the
        columns `completion_ids` and `completion_mask` under another name, from `prepare`, and `prompt` as in `teacher`.
        Raises ValueError where there is no student to ask."""
        if self._student_on is None:
            raise ValueError("this view holds the student on the batch's own completions alone")
        return self._student_on(completion, prompt)

    def teacher(self, prompt: str | None = None, model: str = TEACHER) -> States:
        """The teacher's states, without gradients; read once for each `prompt`, which names a column of the data set
        that stands before the completions, or is `PROMPT` or `PLAIN`. Default: what the method's context shows.
        `model`: another of the loss's `models`, read alike."""
        return self._teacher(prompt, model)


@dataclass(frozen=True)
class Rollouts:
    """What a step will train on, of one process and before the student moves.

    `rows` are those of the data set, `batch` their columns as tensors (when a loss is prepared, also `loss_mask`, which
    tokens count), `teacher` is None where none is loaded, `ends` are the tokens that end the student's answers.
    `measured(f)` is f of a view of all rows in which every token of the
    completions counts: a micro-batch at a time, without gradients, put together along the first axis. `own`: the
    student wrote them, now or in an earlier step. `on_policy`: it has just written them; then the samples of a prompt
    stand side by side, `num_generations` of them, and `sampled_logprobs` [b, C] are the log-probabilities with which
    they were drawn (None: not known exactly). `graded()` gives their rewards by the task's grader, [b] in [0, 1].
    `everywhere(values)` puts values [b, …] of all processes together. `progress` is the share of the training that is
    done, in [0, 1], `epochs` how many it has.
    """

    rows: Sequence[Mapping[str, Any]]
    batch: Mapping[str, Tensor]
    student: LanguageModel
    teacher: LanguageModel | None
    ends: Sequence[int]
    measured: Callable[[Callable[[View], Tensor]], Tensor]
    graded: Callable[[], Tensor]
    everywhere: Callable[[Tensor], Tensor]
    on_policy: bool = True
    own: bool = True
    num_generations: int = 1
    sampled_logprobs: Tensor | None = None
    progress: float = 0.0
    epochs: int = 1

    @functools.cached_property
    def texts(self) -> list[str]:
        """The completions' texts, [b]."""
        mask_BC = self.batch["completion_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(self.batch["completion_ids"], mask_BC, strict=True)]
        return [str(text) for text in self.student.tokenizer.batch_decode(ids, skip_special_tokens=True)]


class Loss(MethodPart, ABC):
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
    costs: ClassVar[str] = ""
    """What a step costs beside the student's pass with gradients and the teacher's, in words, for the page of methods.
    """
    grades: ClassVar[bool] = False
    """Does it read the completions' rewards (`Rollouts.graded`)? Then every task needs a grader."""
    drawn_with: ClassVar[str] = PROMPT
    """The column of the prompts behind which the student writes its samples: `PROMPT`, or one of the teacher's."""
    models: ClassVar[tuple[str, ...]] = ()
    """Models beside the teacher that it reads (`View.teacher(model=…)`): `start` is the student as it was at first."""
    has_advantages: ClassVar[bool] = False
    """Does `prepare` add each token's advantage, as `advantage` [b, C]?"""
    epochs: ClassVar[int] = 1
    """How often each text has to be read at least."""
    memory: Past | None = None
    """What it keeps of one step for later ones; it is kept beside checkpoints, and taken up with them."""
    takes_several: ClassVar[bool] = False
    """May the teacher be several models that are read as one (`several_teachers`)? Then it reads the teacher's states
    by way of its head alone."""
    each_alone: ClassVar[bool] = False
    """Is a text's loss made of that text alone, whatever else is in its batch? Private steps need that."""
    signed: ClassVar[bool] = False
    """May its value at a token be below 0, so that a large one is no sign that both models differ there?"""
    edits_targets: ClassVar[bool] = False
    """Can the teacher's distributions be changed before (`soft_targets`)?"""

    roles: int = 1
    """How often the student reads a text with gradients: in two roles, or two texts of a pair."""

    module_rate: float = 1.0
    """The learning rate of the loss's own weights, in the student's."""

    def module(self, student_width: int, teacher_width: int) -> torch.nn.Module | None:
        """Weights of the loss's own that are trained along, made for the widths of both models' hidden states."""
        return None

    @property
    def readings(self) -> Sequence[str]:
        """Whose states a step reads at each text without gradients, a name for each time: `TEACHER`, others of its
        `models`, and `STUDENT`, as it is before it moves. The dry run counts them."""
        return (TEACHER,) if self.asks_teacher else ()

    @property
    def infinite_at_zero(self) -> bool:
        """Is it infinite where the teacher gives a token the probability 0 that the student may write?"""
        return False

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
