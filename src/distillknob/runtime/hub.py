"""The hub, asked once whether it is there: a machine without a network gets its answer at once.

Its own client tries each file of a model five times and waits between the tries. Left out on purpose: downloads, which
are transformers' and datasets' own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from distillknob.errors import BadInputError
from distillknob.runtime.processes import notice

CONFIGS = ("config.json", "adapter_config.json")  # of a model, of an adapter


def client_error() -> type[Exception]:
    """Return what the hub's HTTP client raises where no answer came, a timeout say. It is no OSError. The hub's own
    HfHubHTTPError, which is an answer, is one of its kind: catch that before."""
    # The client is httpx or httpx2, by the version of the hub's library, which has its error under this name in all.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    error: type[Exception] = HTTPError
    return error


@cache
def _reached() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (OSError, client_error()) as error:
        notice(f"the hub can't be reached ({error or type(error).__name__}): only what is in its cache is used")
        return False
    return True


def offline() -> bool:
    """Is the hub out of reach, or told to be (HF_HUB_OFFLINE)? Where it can't be reached, every library is told so for
    the rest of this process: they then look into the cache, and don't try again."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not _reached():
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return bool(constants.HF_HUB_OFFLINE)


def may_be_cached(name: str, files: Iterable[str]) -> bool:
    """Is one of these files of a name on the hub in the cache? Asks nobody. True too for what can be no name on the
    hub: loading that fails at once."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except HFValidationError:
        return True


def commit_of(name: str, revision: str | None = None) -> str:
    """The commit that a model's name on the hub stands for now: the hub's, or without it the cache's.

    Raises BadInputError where neither knows the model.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted, why = revision or "main", "it isn't in the cache, and the hub is out of reach"
    for file in CONFIGS:
        try:
            if not offline():
                commit = get_hf_file_metadata(hf_hub_url(name, file, revision=wanted)).commit_hash
                if commit is not None:
                    return commit
        except HfHubHTTPError as error:  # an answer, though not the one that was wanted
            why = str(error).strip().splitlines()[0]
            continue
        except (client_error(), OSError) as error:
            why = str(error) or type(error).__name__
        try:
            cached = try_to_load_from_cache(name, file, revision=wanted)
        except HFValidationError as error:
            raise BadInputError(f"{name!r} is no folder, no zoo:NAME and no name on the hub: {error}") from error
        if isinstance(cached, str):
            return Path(cached).parent.name
    raise BadInputError(
        f"can't load {name!r}: {why}. Give a folder, fetch it first (`hf download {name}`), or log in if it is gated "
        "(`hf auth login`)"
    )
