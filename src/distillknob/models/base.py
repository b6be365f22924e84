"""Models as stages ask for them: who draws answers (`sampling.Sampler`), and who says how likely answers are
(`scoring.Scorer`). Stages never ask for a model's kind.

    LanguageModel    in this process: draws and scores                                           `loaded/`
    VllmModel        in a vLLM in this process: draws and scores                                 `engines/`
    ServedModel      behind a server that takes token ids: draws, and may score                  `served/model.py`
    ServedChat       behind a chat interface: draws texts, and neither tokens nor scores are known   `served/chat.py`

`sampling.generate` and `scoring.token_logprobs` are what stages call: they check what is asked, deal it out over the
processes, and put the parts together. What a kind of model does with its part is its own: batches, seeds, the journal
and the bar. What a kind can't do it says by a property that is None (`tokenizer`, `scorer`, `weights`), or refuses by
BadInputError in its own `draw` or `score`.

A further engine is one more class with these members. Its `draw` takes `request.share(rows)` of the rows, looks for
each batch in `request.own_journal` before it draws it and keeps it there when it is drawn, and takes each row's seed
from `random_streams.row_key`, so that a resumed run draws the same samples. `engines.choice` tells which one a run has.

A model that acts when it is sampled from, such as a defence, wraps another one (tests/models/test_base.py has two). One
that changes answers changes what the other's `draw` gives. One that changes the distribution of the next token hands a
logits processor as `edit` to the LanguageModel's `draw` and `score`, and to `scoring.answer_logits`. Its answers, their
scores and the distribution that a student learns from then follow one rule. `edit(ids_BT, logits_BV)` returns the
logits of the next token behind these rows, which are padded on the left with the pad token. It must depend on each row
alone: texts are scored in other batches than they were drawn in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distillknob.models.chat import eos_ids
from distillknob.models.loaded.sampling import draw
from distillknob.models.loaded.scoring import score
from distillknob.models.sampling import Sample, SampleRequest
from distillknob.models.scoring import ScoreRequest

if TYPE_CHECKING:
    import torch
    from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase


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
