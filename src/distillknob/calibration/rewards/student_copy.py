"""A copy of a student that may be changed: trained a few steps, or moved along a gradient."""

from __future__ import annotations

import copy

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.scoring import Scorer


def student_copy(target: Scorer, reward: str) -> LanguageModel:
    """Copy a target in float32, with all weights trainable. Raises BadInputError for one that isn't a model in this
    process; `reward` names what asks for it."""
    if not isinstance(target, LanguageModel):
        raise BadInputError(
            f"reward={reward!r} trains copies of the target, and {target.name!r} is not a model in this process: name "
            "its folder or hub id as the target, or use sequence or sure_tokens"
        )
    model = copy.deepcopy(target.model).float()
    model.requires_grad_(True)
    return LanguageModel(model, target.tokenizer)
