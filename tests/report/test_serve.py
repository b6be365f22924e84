"""A page that is served follows its run, on this machine alone."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import CHROMIUM, Browser
from distillknob.errors import BadInputError
from distillknob.report.page import live_page
from distillknob.report.serve import HOST, open_server
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
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
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


def test_the_command_says_the_address_and_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    run = diagnose_run(tmp_path / "run")
    words = [sys.executable, "-m", "distillknob", "report", str(run), "--serve", "--port", "0"]
    serving = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    line = serving.stdout.readline()
    assert line.startswith(f"http://{HOST}:") and "Ctrl-C ends it" in line, serving.communicate()
    port = int(line.partition("/ ")[0].rpartition(":")[2])
    assert ask(port)[0] == 200
    os.kill(serving.pid, signal.SIGINT)
    _, errors = serving.communicate(timeout=30)
    assert serving.returncode == 0 and errors == ""


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
