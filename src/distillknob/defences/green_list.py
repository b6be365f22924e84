"""A fingerprint: the teacher prefers the green tokens of a secret key, and its students inherit the preference.

It keeps nobody from learning; the stage `fingerprint` says afterwards who did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from distillknob.defences.base import Wrapping
from distillknob.defences.proxies import NextTokens, load_proxy, to_width
from distillknob.defences.sampled import Edit, Edited
from distillknob.errors import BadInputError
from distillknob.fingerprints.green import GreenRule, Key, check_rule
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler
from distillknob.tasks import Task


@dataclass(frozen=True)
class GreenList(Wrapping):
    """Green tokens get δ more logits (arXiv 2301.10226), or with a proxy what raises the green mass of a model that
    learns from the answer (antidistillation fingerprinting): λ · p ⊙ (m − ⟨p, m⟩) for the proxy's next-token
    distribution p and the green mask m, the direction in which ⟨p, m⟩ rises fastest in p's logits. Where the teacher
    would end its answer nothing is changed, so that answers end where they did."""

    about: ClassVar[str] = (
        "Marks answers by a keyed green list, which students inherit (arXiv 2301.10226, 2402.14904): a fingerprint."
    )

    delta: float = field(default=2.0, metadata={"help": "δ: what a green token's logit gets; 0 changes nothing."})
    share: float = field(default=0.5, metadata={"help": "γ: the share of the tokens that are green."})
    window: int = field(default=1, metadata={"help": "Preceding tokens that decide which tokens are green."})
    key: str = field(default="", metadata={"help": "The secret itself. Recipes and results would hold it."})
    key_file: str = field(default="", metadata={"help": "A file that holds the secret, in place of key."})
    proxy: str = field(
        default="",
        metadata={
            "help": "A small model with this tokenizer: marks as one that learns would take up.",
            "names": "model",
        },
    )
    strength: float = field(default=64.0, metadata={"help": "λ: the factor of the change by the proxy; δ has no say."})

    def __post_init__(self) -> None:
        check_rule(self.share, self.window)
        if bool(self.key) == bool(self.key_file):
            raise BadInputError(
                f"key_file={self.key_file!r} and {'a' if self.key else 'no'} key: a green list has one secret. Name "
                "key_file=FILE (`openssl rand -hex 16 > FILE` makes one), or give key=…"
            )
        if not (0 <= self.delta < float("inf") and 0 <= self.strength < float("inf")):
            raise BadInputError(f"delta={self.delta}, strength={self.strength}: both must be finite, from 0 on")

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        secret = Key.of_text(self.key) if self.key else Key.of_file(self.key_file)
        rule = GreenRule(secret, self.share, self.window)
        proxy = NextTokens(load_proxy(self.proxy, teacher)) if self.proxy else None
        edit = Marked(rule, self.strength if proxy else self.delta, teacher.ends, proxy)
        return Edited(teacher, edit, f"{teacher.name} marked by key {secret.id}")


class Marked(Edit):
    """Next-token logits with a green list's mark: `amount` is δ, or λ where there is a proxy. Rows whose likeliest
    token is one of `ends` stay as they are."""

    def __init__(self, rule: GreenRule, amount: float, ends: Sequence[int], proxy: NextTokens | None = None):
        self.rule, self.amount, self.ends, self.proxy = rule, amount, list(ends), proxy

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        green_BV = self.rule.mask(input_ids, scores.size(-1)).to(scores)
        if self.proxy is not None:
            p_BV = to_width(self.proxy.logits(input_ids), scores.size(-1)).softmax(-1).to(scores)
            green_BV = p_BV * (green_BV - (p_BV * green_BV).sum(-1, keepdim=True))
        ending_B1 = torch.isin(scores.argmax(-1, keepdim=True), torch.tensor(self.ends, device=scores.device))
        return torch.where(ending_B1, scores, scores + self.amount * green_BV)
