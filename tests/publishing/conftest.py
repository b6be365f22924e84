"""The hub that the tests of uploads speak to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from distillknob.runtime.hub import _reached
from hub_standin import TOKEN, Hub, serving


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process takes for the real one, with a token for it."""
    with serving() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        _reached.cache_clear()
        yield hub
        _reached.cache_clear()
