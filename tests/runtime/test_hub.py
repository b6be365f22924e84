"""A hub out of reach is asked once, not for every file of every model."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from distillknob.errors import BadInputError
from distillknob.models.names import resolve
from distillknob.runtime import hub


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses that are asked, on a machine without a network."""
    addresses: list[str] = []

    class Session:
        def head(self, url: str, **options: Any) -> None:
            addresses.append(url)
            raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    hub._reached.cache_clear()
    yield addresses
    hub._reached.cache_clear()


def test_a_hub_out_of_reach_is_asked_once_and_that_is_said(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve("org/model") == "org/model" and hub.offline() and hub.offline()
    with pytest.raises(BadInputError, match=r"can't load 'org/model': it isn't in the cache.*hf download org/model"):
        hub.commit_of("org/model")
    assert asked == ["https://huggingface.co"]
    assert "the hub can't be reached (Name or service not known): only what is in its cache is used" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("kind", ["ConnectError", "ReadTimeout", "RemoteProtocolError", "ProxyError"])
def test_what_the_client_raises_without_an_answer_is_known(kind: str) -> None:
    """By the client that is installed, whatever it is called."""
    client = importlib.import_module(hub.client_error().__module__.partition(".")[0])
    assert issubclass(getattr(client, kind), hub.client_error())
    assert issubclass(HfHubHTTPError, hub.client_error())


def test_a_name_that_no_hub_has_is_told() -> None:
    with pytest.raises(BadInputError, match=r"no name on the hub"):
        hub.commit_of("..strange..")
