"""Proxies: small public models in the student's place, whose next-token logits a defence bends the teacher's by."""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.forward import forward_pass
from distillknob.models.load import load_model
from distillknob.models.same_text import one_vocabulary
from distillknob.models.shared_prefix import keeps_a_cache


def load_proxy(name: str, teacher: LanguageModel, *, precise: bool = False) -> LanguageModel:
    """The proxy of a teacher, its weights frozen; in float32 where it has to be `precise`. Raises BadInputError where
    its tokenizer is another one: a defence adds up the two models' logits token by token."""
    proxy = load_model(name, dtype="float32" if precise else None)
    check_one_tokenizer(name, proxy.tokenizer, teacher.name, teacher.tokenizer)
    proxy.model.requires_grad_(False)
    return proxy


def check_one_tokenizer(
    name: str, tokenizer: PreTrainedTokenizerBase, teacher: str, their_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise BadInputError where a proxy's tokenizer isn't the teacher's."""
    if not one_vocabulary(tokenizer, their_tokenizer):
        raise BadInputError(
            f"proxy={name!r} has another tokenizer than the teacher {teacher!r}, so that their next tokens can't be "
            "compared: name a proxy with the teacher's tokenizer, such as a smaller model of its family"
        )


class NextTokens:
    """The next-token logits of a model behind rows of token ids that grow by a token a call, as an `edit` sees them.

    The tokens are read once: of rows that go on from those of the last call the last token alone is read. It changes
    nothing but the rounding. A family whose memory of a row is no key–value cache reads the rows anew.
    """

    def __init__(self, language_model: LanguageModel):
        self.model, self.pad_token = language_model.model, language_model.tokenizer.pad_token_id
        self._caches = keeps_a_cache(language_model.model)
        self._read: torch.Tensor | None = None
        self._cache: DynamicCache | None = None

    @torch.no_grad()
    def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """[B, V] in float32, of rows [B, T] that are padded on the left with the pad token."""
        ids_BT = ids_BT.to(self.model.device)
        # Only what stands before a row's first token is padding: in a row the token may be an end, too.
        mask_BT = ((ids_BT != self.pad_token).cumsum(-1) > 0).long()
        goes_on = self._read is not None and self._read.shape == ids_BT[:, :-1].shape
        goes_on = goes_on and bool(torch.equal(self._read, ids_BT[:, :-1]))  # type: ignore[arg-type]
        if not goes_on:
            self._cache = DynamicCache(config=self.model.config) if self._caches else None
        new = ids_BT[:, -1:] if goes_on and self._caches else ids_BT
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -new.size(1) :]
        output = forward_pass(
            self.model,
            input_ids=new,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=self._cache,
            use_cache=self._caches,
            logits_to_keep=1,
        )
        self._read = ids_BT.clone()
        logits_BV: torch.Tensor = output.logits[:, -1].float()
        return logits_BV


def to_width(proxy_BV: torch.Tensor, width: int) -> torch.Tensor:
    """A proxy's logits [B, V] at the teacher's width: what a wider embedding has beyond it is cut off, and tokens that
    the proxy hasn't got are impossible (−inf). A logit of 0 would be a likely token."""
    missing = width - proxy_BV.size(-1)
    if missing <= 0:
        return proxy_BV[:, :width]
    return torch.nn.functional.pad(proxy_BV, (0, missing), value=-torch.inf)
