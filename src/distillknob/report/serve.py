"""This module serves a page to the browser of this machine, and makes it anew when the run's files change.

It listens on 127.0.0.1 alone, answers two addresses, writes nothing into the run's directory, and refuses requests that
name another host (a page of the web can have a name of its own lead to 127.0.0.1).

Left out on purpose: a web framework, and events of the file system (the files' times are to be had on every system and
on network disks).
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from distillknob.errors import BadInputError

HOST, PORT = "127.0.0.1", 8377
VERSION = "/version"  # what the page's own script asks for (`live.js`)
UNVERSIONED = 'data-version=""'  # in the page's first element; filled in when it is served
_READ = (".json", ".jsonl", ".yaml")
_UNREAD = {"checkpoints", "model"}  # folders that no page looks into
_ENDING = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 0.2  # seconds that a signal may wait


class Live:
    """A Live is a page that `make` makes anew when the files of `runs` have changed since it was last asked for."""

    def __init__(self, make: Callable[[], str], runs: Sequence[Path]):
        self._make, self._runs, self._lock = make, runs, Lock()
        self._seen: list[tuple[str, int, int]] | None = None
        self._page, self._version = b"", b""

    def page(self) -> bytes:
        """Return the page of the runs as they are now."""
        with self._lock:
            self._look()
            return self._page

    def version(self) -> bytes:
        """Return what changes when the page does, and what the page says of itself."""
        with self._lock:
            self._look()
            return self._version

    def _look(self) -> None:
        seen = [mark for run in self._runs for mark in _marks(run)]
        if seen == self._seen:
            return
        html = self._make()
        version = hashlib.sha256(html.encode()).hexdigest()
        self._page = html.replace(UNVERSIONED, f'data-version="{version}"', 1).encode()
        self._version, self._seen = version.encode(), seen


def _marks(folder: Path) -> Iterator[tuple[str, int, int]]:
    """The files that a page may read, with their times and sizes."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _UNREAD)
        for name in sorted(names):
            if not name.endswith(_READ):
                continue
            try:
                about = os.stat(os.path.join(place, name))
            except FileNotFoundError:  # written anew at this moment
                continue
            yield os.path.join(place, name), about.st_mtime_ns, about.st_size


def open_server(live: Live, port: int = PORT) -> ThreadingHTTPServer:
    """Return a server of the page on `port` of 127.0.0.1 (0: any that is free), which the caller runs and closes.
    Raises BadInputError where the port can't be had."""
    try:
        return ThreadingHTTPServer((HOST, port), _handler(live))
    except OverflowError as error:
        raise BadInputError(f"--port is {port}, but ports go from 0 to 65535") from error
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"can't be had: {error.strerror}"
        raise BadInputError(f"port {port} {why}. Give another by --port, or --port 0 for any that is free") from error


def serve(live: Live, port: int = PORT) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and say where. For the main thread, which signals reach. Raises
    BadInputError where the port can't be had."""
    live.page()  # what is no run is refused before anything is served
    with open_server(live, port) as server, _signals() as came:
        print(f"http://{HOST}:{server.server_port}/ follows the run; Ctrl-C ends it", flush=True)
        server.timeout = _PATIENCE
        while not came:
            server.handle_request()
    print()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Give a list that SIGINT and SIGTERM are put into as they come. It is at work before the address is said, since
    who reads that may send one at once.

    A KeyboardInterrupt won't do. It is raised wherever the program is, also where an exception is only written down and
    the server goes on. And a shell without job control has what it starts in the background ignore SIGINT.
    """
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _ENDING}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handler(live: Live) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, _ = self.headers.get("Host", "").rpartition(":")
            make = {"/": live.page, VERSION: live.version}.get(self.path)
            if name not in (HOST, "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN)
            elif make is None:
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                try:
                    body, status = make(), HTTPStatus.OK
                except BadInputError as error:  # the run can't be read at this moment: the next request may do
                    body, status = str(error).encode(), HTTPStatus.SERVICE_UNAVAILABLE
                is_page = self.path == "/" and status is HTTPStatus.OK
                self._answer(status, body, "text/html" if is_page else "text/plain")

        def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            for header, value in (
                ("Content-Type", f"{kind}; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
            ):
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request: the page asks every two seconds."""

    return Handler
