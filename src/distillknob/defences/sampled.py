"""What a defence that acts at sampling time makes of a model: one whose next tokens are drawn from another
distribution, and one whose answers are changed after they were written. Both go wherever a model goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from transformers import LogitsProcessor

from distillknob.evaluation.measure import AnswerReader
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sample, Sampler, SampleRequest, Sampling
from distillknob.models.scoring import Prompt, ScoreRequest, encoded_texts
from distillknob.runs.journal import Journal
from distillknob.tasks.graders.thoughts import after_thinking, closing_mark

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Edit(LogitsProcessor):
    """A change of next-token logits, as `LanguageModel.draw` and `score` take it: `edit(ids_BT, logits_BV)`, each row
    by itself. The temperature divides what it returns."""

    def at(self, temperature: float) -> Edit:
        """The same change for answers that are drawn at this temperature; another one where its strength has to be kept
        from the temperature."""
        return self


@dataclass(frozen=True)
class Edited:
    """A model in this process that draws and scores by edited next-token logits. It is a Sampler and a Scorer."""

    inner: LanguageModel
    edit: Edit
    name: str
    knows_every_end: bool = True
    weights: None = None
    """The inner model's weights are not what gives the log-probabilities: whoever read them would pass by the edit."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.inner.tokenizer

    @property
    def ends(self) -> list[int]:
        return self.inner.ends

    @property
    def scorer(self) -> Edited:
        return self

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        return self.inner.draw(request, edit=self.edit.at(request.sampling.temperature))

    def score(self, request: ScoreRequest) -> list[torch.Tensor]:
        return self.inner.score(request, edit=self.edit.at(1.0))


class Written(NamedTuple):
    """An answer as a rewriting reads it: the prompt that it answers, its text with the marks of its thoughts spelled
    out, the mark of the thoughts that its prompt opened ("" for none), and whether it ended by itself."""

    prompt: Prompt
    text: str
    opened: str
    finished: bool

    @property
    def said(self) -> str:
        """What stands outside of its thoughts: the answer that graders read."""
        return after_thinking(self.opened + self.text)

    def outside_of_thoughts(self, text: str) -> str:
        """Another answer to the same prompt, without thoughts. Those that the prompt opened are closed, or it would be
        one."""
        return f"{closing_mark(self.text)}\n\n{text}" if self.opened and text else text


class Rewriting(Protocol):
    """A change of whole answers."""

    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        """The text that is given out in place of each answer. `sampling` is that of the answers; what a rewriting
        samples itself is kept in the `journal`."""


@dataclass(frozen=True)
class Reworded:
    """A model whose answers are changed after they were drawn.

    The tokens of a changed answer are those of its text, closed by the end that the model had drawn where the answer
    finished. How likely they are isn't known, so that there is no scorer. A beginning that the caller wrote is changed
    with the rest.
    """

    inner: Sampler
    rewriting: Rewriting
    name: str
    scorer: None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        return self.inner.tokenizer

    @property
    def ends(self) -> list[int]:
        return self.inner.ends

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        samples, reader = self.inner.draw(request), AnswerReader(self.tokenizer)
        opened = {i: reader.opened(request.prompts[i]) for i in {i for i, _ in samples}}
        answers = [
            Written(request.prompts[i], reader.spelled(sample.text, sample.token_ids), opened[i], sample.finished)
            for (i, _), sample in samples.items()
        ]
        texts = self.rewriting.rewritten(answers, request.sampling, request.own_journal.part("rewritten"))
        rows = zip(samples.items(), answers, texts, strict=True)
        changed = [(row, sample, text) for (row, sample), answer, text in rows if text != answer.text]
        if not changed:
            return samples
        encoded = self._encoded([text for _, _, text in changed])
        again = {
            row: Sample(text, [*ids, *(sample.token_ids[-1:] if sample.finished else [])], finished=sample.finished)
            for (row, sample, text), ids in zip(changed, encoded, strict=True)
        }
        return {**samples, **again}

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts; none behind a chat interface, which gives texts alone."""
        if self.tokenizer is None:
            return [[] for _ in texts]
        ids: list[list[int]] = encoded_texts(self.tokenizer, texts)["input_ids"]
        return ids
