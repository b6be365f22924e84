"""Loading a checkpoint by one of transformers' classes, all of it or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError, few

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEAD = "lm_head.weight"
_TIED = ", or set tie_word_embeddings in its config.json to true, if its head is its embedding"


def load_whole(cls: Any, where: str, name: str, **options: Any) -> PreTrainedModel:
    """Load a checkpoint by one of transformers' classes (`AutoModelForCausalLM`, say). transformers makes up the
    weights that a file lacks and only logs that it did; here they are refused.

    Raises BadInputError where the files of the model `name` lack weights, or hold some of other shapes than its config
    says.
    """
    loaded: Any = cls.from_pretrained(where, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        strange = sorted(loading["unexpected_keys"])
        instead = f", and hold {few(strange)}, which it hasn't" if strange else ""
        raise BadInputError(
            f"the files of {name!r} lack {len(missing)} weights of a {type(model).__name__} ({few(missing)}"
            f"{instead}), which would be random numbers: save the whole model again, by model.save_pretrained of this "
            f"class{_TIED if missing == [_HEAD] else ''}"
        )
    if wrong := sorted(loading["mismatched_keys"]):
        key, stored, built = wrong[0]
        raise BadInputError(
            f"{len(wrong)} weights of {name!r} have other shapes than its config.json says (the first: {key} is "
            f"{_shape(stored)} in the files and {_shape(built)} by the config): they don't belong together, so save "
            "or fetch both again"
        )
    whole: PreTrainedModel = model
    return whole


def _shape(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))
