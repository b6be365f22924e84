"""A page that is served follows its run, on this machine alone."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser
from distillknob.errors import BadInputError
from distillknob.report.page import live_page
from distillknob.report.serve import HOST, open_server, serve
from distillknob.runs.run import Run
from planted_results import HOSTILE, diagnose_result
from planted_runs import diagnose_run


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[tuple[Run, int]]:
    """A run that is going on, and the port that its page is served on."""
    run = Run.open(tmp_path / "run", "distill", {"seed": 0, "teacher": "a/teacher", "note": HOSTILE})
    run.log(step=1, loss=2.0)
    server = open_server(live_page(run.path), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield run, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port: int, path: str = "/", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(HOST, port, timeout=120)
    connection.request("GET", path, headers={"Host": host or f"{HOST}:{port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def test_a_page_follows_its_run_and_writes_nothing_there(going_on: tuple[Run, int]) -> None:
    run, port = going_on
    status, page, headers = ask(port)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "has not finished" in page and "connect-src &#x27;self&#x27;" in page and HOSTILE not in page
    first = ask(port, "/version")[1]
    assert ask(port, "/version")[1] == first, "nothing has changed"
    assert f'<html lang="en" data-version="{first}">' in page
    run.log(step=2, loss=1.5)
    second = ask(port, "/version")[1]
    assert second != first and "2 logged values" in ask(port)[1]
    run.finish({"stage": "distill", "method": "sft"})
    assert ask(port, "/version")[1] != second and "has not finished" not in ask(port)[1]
    assert not (run.path / "report.html").exists()


def test_only_the_page_is_served_and_only_under_this_machine_s_name(going_on: tuple[Run, int]) -> None:
    run, port = going_on
    for path in ("/config.yaml", "/../config.yaml", "/?x", f"{run.path}/config.yaml", "/report.html"):
        assert ask(port, path)[0] == 404
    assert ask(port, host=f"localhost:{port}")[0] == 200
    for name in ("evil.example", f"evil.example:{port}", f"{HOST}.evil.example:{port}", ":"):
        assert ask(port, host=name)[0] == 403


def test_it_listens_to_this_machine_alone(tmp_path: Path) -> None:
    with open_server(live_page(diagnose_run(tmp_path / "run")), 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_run_that_can_not_be_read_for_a_moment_is_told_and_read_again(going_on: tuple[Run, int]) -> None:
    run, port = going_on
    config = run.path / "config.yaml"
    whole = config.read_bytes()
    config.unlink()
    status, told, _ = ask(port, "/version")
    assert status == 503 and "is no run directory" in told
    config.write_bytes(whole)
    assert ask(port)[0] == 200


def test_a_port_that_can_not_be_had_is_told_with_the_remedy(going_on: tuple[Run, int], tmp_path: Path) -> None:
    run, port = going_on
    live = live_page(run.path)
    with pytest.raises(BadInputError, match=f"port {port} is in use. Give another by --port, or --port 0"):
        open_server(live, port)
    with pytest.raises(BadInputError, match="--port is 70000, but ports go from 0 to 65535"):
        open_server(live, 70000)


@contextmanager
def command_serving(run: Path, **how: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command that serves a run's page, and its port. It is ended whatever the test comes to."""
    words = [sys.executable, "-m", "distillknob", "report", str(run), "--serve", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how) as serving:
        try:
            assert serving.stdout is not None and serving.stderr is not None
            line = serving.stdout.readline()
            assert line.startswith(f"http://{HOST}:") and "Ctrl-C ends it" in line, serving.stderr.read()
            yield serving, int(line.partition("/ ")[0].rpartition(":")[2])
        finally:
            serving.kill()  # nothing, where it has ended


def ignoring_interrupts() -> None:
    """What a shell without job control does to a command that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("asked", [True, False])
def test_the_command_says_the_address_and_ends_cleanly_on_ctrl_c(
    tmp_path: Path, number: signal.Signals, asked: bool
) -> None:
    """Also where the signal comes as soon as the address is said, before anything was asked."""
    with command_serving(diagnose_run(tmp_path / "run")) as (serving, port):
        assert not asked or ask(port)[0] == 200
        serving.send_signal(number)
        _, errors = serving.communicate(timeout=120)
        assert serving.returncode == 0 and errors == ""


def test_ctrl_c_ends_it_though_a_shell_had_it_ignored(tmp_path: Path) -> None:
    run = diagnose_run(tmp_path / "run")
    with command_serving(run, preexec_fn=ignoring_interrupts) as (serving, _):  # it only sets a signal
        serving.send_signal(signal.SIGINT)
        assert serving.communicate(timeout=120)[1] == "" and serving.returncode == 0


def test_no_server_stays_where_a_test_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), command_serving(diagnose_run(tmp_path / "run")) as (serving, _):
        raise ZeroDivisionError
    assert serving.returncode == -signal.SIGKILL


def test_signals_do_again_what_they_did_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr("builtins.print", lambda *words, **how: os.kill(os.getpid(), signal.SIGTERM) if words else None)
    serve(live_page(diagnose_run(tmp_path / "run")), 0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
def test_the_browser_shows_what_is_new_and_keeps_open_what_was_opened(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "diagnose", {"seed": 0})
    result = {key: value for key, value in diagnose_result().items() if key != "stage"}
    server = open_server(live_page(run.path), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with Browser() as browser:
            browser.open(f"http://{HOST}:{server.server_port}/")
            browser.run("document.querySelector('#provenance details').open = true")
            assert "has not finished" in browser.run("document.body.textContent")
            browser.events.clear()
            run.finish({"stage": "diagnose", **result})
            browser.wait("Page.loadEventFired")
            while "has not finished" in browser.run("document.body.textContent"):  # between result and manifest
                browser.wait("Page.loadEventFired")
            assert "has not finished" not in browser.run("document.body.textContent")
            assert browser.run("document.querySelector('#provenance details').open")
            assert browser.complaints() == []
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
