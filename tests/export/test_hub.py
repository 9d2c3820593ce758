"""A checkpoint from the Hub, through the real client and a real HTTP server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export.checkpoint import Checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/streaming-asr"
TOKEN = "hf_testtoken"


class Hub(ThreadingHTTPServer):
    """As much of the Hub's API as a download uses: a repository's tree, and its files with their metadata."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(
                401, b'{"error": "Invalid username or password."}', body, {"X-Error-Code": "RepoNotFound"}
            )
        if path.startswith(f"/api/models/{REPOSITORY}"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in self.server.files.items()
            ]
            info = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.server.files]}
            return self._send(200, json.dumps(tree if "/tree/" in path else info).encode(), body)
        for name, data in self.server.files.items():
            if path.startswith(f"/{REPOSITORY}/resolve/") and path.endswith(f"/{name}"):
                headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
                return self._send(200, data, body, headers)
        return self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(small_checkpoint: Checkpoint) -> Iterator[Hub]:
    server = Hub({"README.md": b"card", "model.nemo": small_checkpoint.path.read_bytes()})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def open_from(
    hub: Hub, cache: Path, source: str, token: str = TOKEN, endpoint: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Open a Hub id in a fresh process, since the client reads its endpoint when imported."""
    code = (
        "import sys\nfrom export.checkpoint import open_checkpoint\nfrom export.errors import UserError\n"
        "try:\n    c = open_checkpoint(sys.argv[1], 'main')\n    print(c.model_class, c.path.name)\n"
        "except UserError as error:\n    print(error); sys.exit(2)"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint or hub.endpoint,
        "HF_HOME": str(cache),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", code, source], env=environment, capture_output=True, text=True, check=False
    )


def test_a_hub_id_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    first = open_from(hub, tmp_path, REPOSITORY)
    assert (first.returncode, first.stdout.split()) == (0, ["EncDecRNNTBPEModelWithPrompt", "model.nemo"]), first.stderr
    downloads = [request for request in hub.requests if request.startswith("GET") and request.endswith("model.nemo")]
    assert len(downloads) == 1
    assert open_from(hub, tmp_path, REPOSITORY).returncode == 0
    again = [request for request in hub.requests if request.startswith("GET") and request.endswith("model.nemo")]
    assert len(again) == 1, "the second time comes from the client's cache"


def test_without_a_network_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    unreachable = "http://127.0.0.1:9"
    missing = open_from(hub, tmp_path, REPOSITORY, endpoint=unreachable)
    assert missing.returncode == 2, missing.stderr
    assert missing.stdout.startswith(f"{REPOSITORY}: cannot be fetched")
    assert "Traceback" not in missing.stderr
    assert open_from(hub, tmp_path, REPOSITORY).returncode == 0
    assert open_from(hub, tmp_path, REPOSITORY, endpoint=unreachable).returncode == 0


def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path: Path) -> None:
    for source, token in [("someone/absent", TOKEN), (REPOSITORY, "hf_wrong")]:
        result = open_from(hub, tmp_path, source, token)
        assert result.returncode == 2, result.stderr
        assert result.stdout.startswith(f"{source}: cannot be fetched from the Hugging Face Hub")
        assert len(result.stdout.strip().splitlines()) == 1


def test_a_repository_without_one_checkpoint(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"README.md": b"card"}
    result = open_from(hub, tmp_path, REPOSITORY)
    assert result.returncode == 2
    assert "holds 0 .nemo files, expected one" in result.stdout
