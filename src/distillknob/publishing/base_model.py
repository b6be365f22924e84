"""What a card says of the model that another was made from: its id on the hub, and its licence.

Both are read from that model's own card. A folder without one adds neither: a hub takes ids alone, and a licence isn't
to be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # which the library re-exports

from distillknob.models.names import resolve
from distillknob.runtime.hub import offline

CARD = "README.md"
LICENCE = ("license", "license_name", "license_link")  # as the hub spells them


@dataclass(frozen=True)
class BaseModel:
    """The ids on the hub of what a model was made from, and the metadata that name its licence."""

    ids: tuple[str, ...] = ()
    licence: Mapping[str, str] = field(default_factory=dict)


def base_model(name: str) -> BaseModel:
    """Return what the card of the model `name` says; of a model on the hub its name there."""
    folder = Path(resolve(name))
    if folder.is_dir():
        metadata = _metadata(folder / CARD)
        named = metadata.get("base_model") or []
        ids = tuple(one for one in ([named] if isinstance(named, str) else named) if _is_id(one))
    else:
        metadata, ids = _metadata(_fetched(name)), (name,)
    return BaseModel(ids, {key: metadata[key] for key in LICENCE if isinstance(metadata.get(key), str)})


def _metadata(card: Path | None) -> dict[str, Any]:
    """The metadata of a card; none where there is no card, or what stands there is no metadata."""
    if card is None or not card.is_file():
        return {}
    try:
        metadata = metadata_load(card)
    except (ValueError, yaml.YAMLError):  # of a card by hand
        return {}
    return dict(metadata or {})


def _fetched(name: str) -> Path | None:
    """The card of a model on the hub, from there or from the cache; None where it has none, or can't be had."""
    try:
        return Path(hf_hub_download(name, CARD, local_files_only=offline()))
    except (HfHubHTTPError, OSError):  # not in the cache, too
        return None


def _is_id(name: Any) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
