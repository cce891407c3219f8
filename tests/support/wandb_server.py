"""A stand-in for the W&B server on 127.0.0.1.

    with WandbServer() as server:
        ...  # with server.environment
    server.runs["<run id>"].history

wandb sends three kinds of requests: GraphQL queries, the rows of a run
(`file_stream`, in chunks, each with its offset) and files (PUT to an address
that a query asked for). Artifacts are in `wandb_artifacts.py`.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.wandb_artifacts import ArtifactStore


@dataclass
class OnlineRun:
    """What has arrived of one run."""

    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # groupName, jobType, displayName, tags
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)  # title, text, severity
    exit_code: int | None = None


class Handler(BaseHTTPRequestHandler):
    """Answer as the server is configured; log nothing."""

    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with server.lock:
            server.bodies.append(body)
            failing = server.fault
            if failing is None:
                status, reply = server._reply(self.command, self.path, body)
        if failing == "dies" and not server.closing.is_set():
            server.stop()
        if failing in ("dies", "hangs"):
            server.closing.wait()
            return self.connection.close()
        if failing is not None:
            status, reply = int(failing), {"errors": [{"message": "refused"}]}
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815


class WandbServer(ThreadingHTTPServer):
    """Listens while the context is open.

    From when `fault` is set on, it serves no more: it "hangs" (takes what is sent, and is
    silent), "dies" (nobody listens any longer), or answers all by an HTTP status.
    """

    key = "0123456789" * 4
    entity, project = "tester", "faces"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, OnlineRun] = {}
        self.bodies: list[bytes] = []  # of all requests
        self.fault: str | int | None = None
        self.closing = threading.Event()
        self.unknown: list[str] = []  # what was asked for and is not played here
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.artifacts = ArtifactStore(self.url, self.entity, self.project)
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.key}

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def _reply(self, method: str, address: str, body: bytes) -> tuple[int, Any]:
        path = unquote(urlsplit(address).path)
        parts = path.strip("/").split("/")
        if path == "/graphql":
            request = json.loads(body)
            (name,) = re.findall(r"^\s*(?:query|mutation) (\w+)", request["query"])
            return 200, {"data": self._query(name, request.get("variables") or {})}
        if parts[0] == "files" and parts[-1] == "file_stream":
            self._rows(self._run(parts[-2]), json.loads(body))
            return 200, {}
        if parts[0] == "storage" and method == "PUT":
            self._run(parts[1]).files["/".join(parts[2:])] = body
            return 200, {}
        if parts[0] == "artifacts":
            return 200, self.artifacts.transfer(method, parts[1], "/".join(parts[2:]), body)
        if not path.startswith("/sdk/otel") and path != "/":  # telemetry; a knock at the door
            self.unknown.append(f"{method} {path}")
            return 404, {}
        return 200, {}

    def _run(self, run_id: str) -> OnlineRun:
        return self.runs.setdefault(run_id, OnlineRun())

    def _rows(self, run: OnlineRun, message: dict[str, Any]) -> None:
        for name, chunk in (message.get("files") or {}).items():
            lines, start = chunk["content"], chunk["offset"]
            if name == "wandb-history.jsonl":
                run.history[start : start + len(lines)] = map(json.loads, lines)
            elif name == "wandb-summary.json":
                run.summary = json.loads(lines[-1])
        if message.get("complete"):
            run.exit_code = message.get("exitcode")

    def _query(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name in ("Viewer", "GetDefaultEntity"):
            none: dict[str, Any] = {"edges": []}
            account = {"id": "1", "entity": self.entity, "username": self.entity, "flags": "{}"}
            return {"viewer": {**account, "teams": none, "apiKeys": none}}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "RunResumeStatus":
            return {"model": None}
        if name == "UpsertBucket":
            run_id = given.get("name") or given["id"]
            run = self._run(run_id)
            config = json.loads(given.get("config") or "{}")
            run.config.update({key: entry["value"] for key, entry in config.items()})
            run.about.update({key: value for key, value in given.items() if value is not None})
            project = {"id": "2", "name": self.project, "entity": {"id": "3", "name": self.entity}}
            bucket = {"id": run_id, "name": run_id, "displayName": run_id, "project": project}
            return {"upsertBucket": {"inserted": True, "bucket": bucket}}
        if name == "CreateRunFiles":
            run_id, place = given["run"], f"{self.url}/storage/{given['run']}"
            files = [{"name": file, "uploadUrl": f"{place}/{file}"} for file in given["files"]]
            return {"createRunFiles": {"runID": run_id, "uploadHeaders": [], "files": files}}
        if name == "NotifyScriptableRunAlert":
            alert = (given["title"], given["text"], given["severity"])
            self._run(given["runName"]).alerts.append(alert)
            return {"notifyScriptableRunAlert": {"success": True}}
        if name == "OrganizationCoreWeaveOrganizationID":  # is this a machine of W&B's owner?
            return {"entity": None}
        answer = self.artifacts.query(name, given.get("input") or given)
        if answer is None:
            self.unknown.append(f"query {name}")
        return answer or {}


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that this process uses, with a key."""
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
