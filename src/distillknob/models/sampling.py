"""Sampling: what is asked of a model, what comes back, and `generate`, which deals the work out over the processes.

Sampling is seeded by call and leaves torch's global random state alone. Left out on purpose: beam search, and any
decoding that isn't plain sampling: every figure of this project is about the model's own distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from distillknob.errors import BadInputError
from distillknob.models.scoring import Prompt, Scorer
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

R = TypeVar("R")


@dataclass(frozen=True)
class Sampling:
    """How to sample. `top_k=0` and `top_p=1.0` are off; `temperature` 1 is the model's own distribution. At most
    `batch_size` rows are sampled at once, fewer of a model whose caches would not fit (`rows_at_once`)."""

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    batch_size: int = 1024

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise BadInputError(
                f"max_new_tokens={self.max_new_tokens} and batch_size={self.batch_size}: both must be at least 1"
            )
        if not 0 < self.temperature < float("inf"):
            raise BadInputError(f"temperature={self.temperature}: must be above 0 and finite (1 samples as is)")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise BadInputError(
                f"top_p={self.top_p}, top_k={self.top_k}: want 0 < top_p <= 1 and top_k >= 0 (0 is off)"
            )


@dataclass(frozen=True)
class Sample:
    """One completion: its text without special tokens, its token ids (the closing eos included; none from a chat
    interface), and whether it ended by itself rather than at the length limit."""

    text: str
    token_ids: list[int]
    finished: bool


@dataclass(frozen=True)
class Samples:
    """`n` completions for each prompt: `completions[i][j]` is the j-th sample for `prompts[i]`."""

    prompts: list[Prompt]
    completions: list[list[Sample]]

    def flat(self) -> tuple[list[Prompt], list[Sample], list[int]]:
        """Prompts, samples and prompt numbers, one row a sample."""
        rows = [(prompt, sample, i) for i, prompt in enumerate(self.prompts) for sample in self.completions[i]]
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


@dataclass(frozen=True)
class SampleRequest:
    """What `generate` asks a model for: `n` answers to each prompt. `begun[i]` are the token ids with which the answers
    to prompt i begin, [] for none. A `shared` request is made on every process, and each draws its share."""

    prompts: list[Prompt]
    begun: list[list[int]]
    n: int
    sampling: Sampling
    journal: Journal
    shared: bool
    description: str

    def share(self, rows: Sequence[R]) -> list[R]:
        """This process's share of the rows; all of them where the request isn't shared."""
        return my_share(rows) if self.shared else list(rows)

    @property
    def own_journal(self) -> Journal:
        """The journal of this process's share."""
        return self.journal.of_process() if self.shared else self.journal


class Sampler(Protocol):
    """A model that draws answers to prompts."""

    @property
    def name(self) -> str:
        """How messages name the model."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the samples' token ids; None where samples are texts alone, and the chat template is at
        work elsewhere."""

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer, as far as they are known here."""

    @property
    def scorer(self) -> Scorer | None:
        """What gives the log-probabilities of this model's answers; None where it has none."""

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        """The samples (i, j), the j-th to the i-th prompt: all, or this process's share of a shared request.

        Raises BadInputError for a request that can't be met.
        """


def generate(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    n: int = 1,
    sampling: Sampling | None = None,
    *,
    begun: Sequence[Sequence[int]] | None = None,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "generate",
) -> Samples:
    """Sample `n` completions for each prompt (chat messages). Reproducible for the same prompts and `sampling`.

    `begun[i]`, token ids of this model's tokenizer, is how the answers to prompt i begin: the model goes on from there
    for at most `max_new_tokens`, and the samples hold the whole answer. Batches that `journal` holds are not drawn
    again, and those drawn are kept in it. `shared` says that every process makes this same call: each draws a part, and
    all get the whole. Raises BadInputError where there is nothing to do, `begun` and the prompts differ in number, the
    prompts are longer than the model's context allows, or the model can't go on with a begun answer.
    """
    if n < 1 or not prompts:
        raise BadInputError(f"nothing to generate: {len(prompts)} prompts, n={n} samples each")
    if begun is not None and len(begun) != len(prompts):
        raise BadInputError(f"{len(prompts)} prompts but {len(begun)} beginnings: give one a prompt, [] for none")
    request = SampleRequest(
        prompts=[list(prompt) for prompt in prompts],
        begun=[list(ids) for ids in begun] if begun is not None else [[] for _ in prompts],
        n=n,
        sampling=sampling or Sampling(),
        journal=journal or Journal(),
        shared=shared,
        description=description,
    )
    drawn = sampler.draw(request)
    if shared:
        drawn = merged(drawn)
    return Samples(request.prompts, [[drawn[i, j] for j in range(n)] for i in range(len(prompts))])
