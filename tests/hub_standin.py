"""A hub on this machine: as much of its API as `huggingface_hub` asks for a small upload.

It keeps what is committed, checks the metadata of cards itself, and refuses where a test tells it to.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_standin"
KNOWN_LICENCES = ("apache-2.0", "mit", "other")


def metadata_of(card: str) -> dict[str, Any]:
    """The metadata of a card, by a YAML parser alone. Raises ValueError where there are none."""
    parts = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL)
    if parts is None:
        raise ValueError("no metadata between lines of ---")
    metadata = yaml.safe_load(parts[1])
    if not isinstance(metadata, dict):
        raise ValueError("the metadata are no mapping")
    return metadata


def faults_of(card: str) -> list[str]:
    """What a hub would say against the card."""
    try:
        metadata = metadata_of(card)
    except (ValueError, yaml.YAMLError) as error:
        return [str(error)]
    bases = metadata.get("base_model") or []
    wrong = [f"base_model {base!r}" for base in ([bases] if isinstance(bases, str) else bases) if base.count("/") != 1]
    if metadata.get("license", "mit") not in KNOWN_LICENCES:
        wrong.append(f"license {metadata['license']!r}")
    for name, kind in (("tags", list), ("library_name", str), ("pipeline_tag", str)):
        if not isinstance(metadata.get(name), kind):
            wrong.append(name)
    for model in metadata.get("model-index", []):
        for row in model["results"]:
            if not (row["task"]["type"] and row["dataset"]["type"] and row["dataset"]["name"]):
                wrong.append("model-index")
            wrong += ["metrics" for metric in row["metrics"] if not isinstance(metric["value"], float)]
    return wrong


@dataclass
class Hub:
    """What lies on the hub: for each repository its files by branch. `refuses` is a path at which it says 403."""

    url: str = ""
    role: str = "write"
    refuses: str | None = None
    private: dict[str, bool | None] = field(default_factory=dict)
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        """The status and what is sent as JSON."""
        self.asked.append(f"{method} {path}")
        if method == "HEAD":
            return 200, {}
        if method == "PUT":  # to the store of large files, whose address is the permission
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if self.refuses is not None and self.refuses in path:
            return 403, {"error": "no permission here"}
        said: Any = json.loads(body) if body and "/commit/" not in path else {}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "auth": {"accessToken": {"role": self.role}}}
        if path == "/api/validate-yaml":
            faults = faults_of(said["content"])
            return (400, {"errors": [{"message": fault} for fault in faults]}) if faults else (200, {"warnings": []})
        if path == "/api/repos/create":
            name = f"{said['organization'] or 'me'}/{said['name']}"
            known = name in self.private
            self.private.setdefault(name, {"private": True, "public": False}.get(said.get("visibility", "")))
            self.files.setdefault((name, "main"), {})
            return 409 if known else 200, {"url": f"{self.url}/{name}", "error": "you already have it"}
        return self._in_a_repository(path, said, body)

    def _in_a_repository(self, path: str, said: Any, body: bytes) -> tuple[int, Any]:
        if path.endswith(".git/info/lfs/objects/batch"):
            store = f"{self.url}/store"
            put = [{**one, "actions": {"upload": {"href": f"{store}/{one['oid']}"}}} for one in said["objects"]]
            return 200, {"transfer": "basic", "objects": put}
        place = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(.+)", path)
        assert place is not None, f"the stand-in doesn't know {path}"
        name, what, branch = place.groups()
        if what == "branch":
            self.files.setdefault((name, branch), {})
            return 200, {}
        if (name, branch) not in self.files:
            return 404, {"error": "no such branch"}
        if what == "preupload":
            lines = [
                {"path": one["path"], "shouldIgnore": False, "uploadMode": "lfs" if one["size"] > 20_000 else "regular"}
                for one in said["files"]
            ]
            return 200, {"files": lines}
        assert what == "commit"
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                self.files[name, branch][value["path"]] = base64.b64decode(value["content"])
            else:
                self.files[name, branch][value["path"]] = self.large[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1" * 40}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers within."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
            path = self.path.partition("?")[0]
            status, said = hub.answer(self.command, path, self.headers.get("Authorization"), body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_GET = do_POST = do_PUT = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test has no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
