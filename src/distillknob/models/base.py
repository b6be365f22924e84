"""What stages ask of a model: to draw answers (`Sampler`), and to say how likely it finds answers (`Scorer`).

    LanguageModel    in this process; draws and scores                              `loaded/`
    ServedModel      behind a server that takes token ids; draws, and may score     `served/model.py`
    ServedChat       behind a chat interface; draws texts, and neither tokens nor scores are known   `served/chat.py`

`sampling.generate` and `scoring.token_logprobs` are what stages call: they check what is asked, deal it out over the
processes, and put the parts together. What a kind of model does with its part is its own: batches, seeds, the journal
and the bar. What a kind can't do it says by a property (`tokenizer`, `scorer` and `weights` may be None), or refuses by
BadInputError in its own `draw` or `score`.

A further engine (vLLM in this process, continuous batching) is one more class with these members. Its `draw` takes
`request.share(rows)` of the rows, looks for each batch in `request.own_journal` before it draws it and keeps it there
behind, and takes every seed from `request.sampling.seed`, so that a resumed run goes on with the same samples.

A model that acts when it is sampled from wraps another one of these. If it changes answers, its `draw` changes what the
other's `draw` gives. If it changes the distribution of the next token, it hands a logits processor as `edit` to the
`draw` and `score` of a LanguageModel and to `scoring.answer_logits`: so one rule samples, scores, and gives whoever
learns from distributions the same one. `edit(ids_BT, logits_BV)` gives the logits of the next token behind these rows,
which are padded on the left with the pad token. It has to be a function of the row alone, without a memory of other
calls: texts are scored in other batches than they were drawn in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from distillknob.models.chat import eos_ids
from distillknob.models.loaded.sampling import draw
from distillknob.models.loaded.scoring import score

if TYPE_CHECKING:
    import torch
    from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from distillknob.models.sampling import Sample, SampleRequest
    from distillknob.models.scoring import ScoreRequest


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


class Scorer(Protocol):
    """A model that gives the tokens of answers their log-probabilities."""

    @property
    def name(self) -> str:
        """How messages name the model."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the answers' token ids, with the chat template of the prompts."""

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer, as far as they are known here."""

    @property
    def knows_every_end(self) -> bool:
        """Are `ends` all there are? A server doesn't tell them."""

    @property
    def weights(self) -> PreTrainedModel | None:
        """The transformers model in this process that gives the log-probabilities; None where there is none."""

    def score(self, request: ScoreRequest) -> list[torch.Tensor]:
        """The log-probability in nats of each token, a float32 CPU tensor [length] an answer."""


class LanguageModel(NamedTuple):
    """A model in this process in evaluation mode, and its tokenizer (padding on the left). It is a Sampler and a
    Scorer, and unpacks as `model, tokenizer`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        return str(self.model.name_or_path)

    @property
    def ends(self) -> list[int]:
        return eos_ids(self)

    @property
    def knows_every_end(self) -> bool:
        return True

    @property
    def weights(self) -> PreTrainedModel:
        return self.model

    @property
    def scorer(self) -> LanguageModel:
        return self

    def draw(self, request: SampleRequest, *, edit: LogitsProcessor | None = None) -> dict[tuple[int, int], Sample]:
        """`Sampler.draw`; with `edit` from its next-token logits, before the temperature."""
        return draw(self, request, edit)

    def score(self, request: ScoreRequest, *, edit: LogitsProcessor | None = None) -> list[torch.Tensor]:
        """`Scorer.score`; with `edit` under its next-token logits."""
        return score(self, request, edit)
