"""A few recordings in the manner of FLEURS: in its own layout, the published benchmark's, as parquet, and on a Hub."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import soundfile

REPOSITORY = "google/fleurs"
PARQUET = "refs/convert/parquet"
COMMITS = {PARQUET: "1" * 40, "main": "2" * 40}


@dataclass(frozen=True)
class Spoken:
    """One recording."""

    sentence: int
    name: str
    raw: str
    text: str
    rate: int = 16000
    channels: int = 1

    @property
    def audio(self) -> bytes:
        rng = np.random.default_rng(int(self.name.split(".")[0]))
        file = io.BytesIO()
        soundfile.write(file, 0.1 * rng.standard_normal((self.rate // 4, self.channels)), self.rate, format="WAV")
        return file.getvalue()


RECORDINGS = {
    "en_us": [
        Spoken(7, "300.wav", 'He said: "No" — it\'s not.', "he said no it's not"),
        Spoken(7, "100.wav", 'He said: "No" — it\'s not.', "he said no it's not", 44100, 2),
        Spoken(9, "200.wav", "Second one.", "second one", 8000),
    ],
    "cmn_hans_cn": [Spoken(7, "1.wav", "今天天气很好。", "今天天气很好"), Spoken(8, "2.wav", "你呢？", "你呢")],
}
"""By code; sorted by file name neither in the table nor in the archive."""


def table(code: str, samples: int = 4000) -> str:
    return "".join(
        f"{each.sentence}\t{each.name}\t{each.raw}\t{each.text}\tx | y\t{samples}\tMALE\n" for each in RECORDINGS[code]
    )


def archive(code: str, split: str = "test", *, without: int = 0) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for each in [*RECORDINGS[code][without:], Spoken(1, "999.wav", "", "")]:  # archives hold more than the table
            member = tarfile.TarInfo(f"{split}/{each.name}")
            member.size = len(each.audio)
            tar.addfile(member, io.BytesIO(each.audio))
    return gzip.compress(file.getvalue(), mtime=0)  # the same whenever it is made


def parquet(code: str, **changed: object) -> bytes:
    """Rows of a language; in the first, columns are changed."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    rows = [
        {"id": each.sentence, "num_samples": 4000, "path": f"/somewhere/{each.name}",
         "audio": {"bytes": each.audio, "path": f"test/{each.name}"}, "transcription": each.text,
         "raw_transcription": each.raw, "gender": 0, "lang_id": 19, "language": "x", "lang_group_id": 1}
        for each in RECORDINGS[code]
    ]  # fmt: skip
    rows[0] |= changed
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
    return file.getvalue()


def own_layout(folder: Path, *, packed: bool = False, split: str = "test") -> Path:
    """``data/<code>/<split>.tsv`` and ``audio/<split>`` of all languages."""
    for code, recordings in RECORDINGS.items():
        place = folder / "data" / code
        (place / "audio" / ("" if packed else split)).mkdir(parents=True)
        (place / f"{split}.tsv").write_text(table(code), encoding="utf-8")
        if packed:
            (place / "audio" / f"{split}.tar.gz").write_bytes(archive(code, split))
        for each in () if packed else recordings:
            (place / "audio" / split / each.name).write_bytes(each.audio)
    return folder


def published_layout(folder: Path) -> Path:
    """``<code>/<code>.trans.txt`` and recordings of all languages."""
    for code, recordings in RECORDINGS.items():
        (folder / code).mkdir(parents=True)
        lines = [f"{each.name.removesuffix('.wav')} {each.text}\n" for each in recordings]
        (folder / code / f"{code}.trans.txt").write_text("".join(lines), encoding="utf-8")
        for each in recordings:
            (folder / code / each.name).write_bytes(each.audio)
    return folder


class Hub(ThreadingHTTPServer):
    """As much of the Hub as reading a data set uses.

    Attributes:
        files: content by revision and path.
        cut: how many answers with a part of a file are still cut in the middle; -1 for all.
        busy: how many requests are still answered with 429; -1 for all.
        down: questions about a file (``HEAD``) are answered with 503.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {PARQUET: {}, "main": {}}
        self.requests: list[str] = []
        self.cut = self.busy = 0
        self.down = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(f"{self.command} {path}")
        if hub.busy and self.command == "GET":
            hub.busy -= 1
            return self._send(429, b"{}", {"Retry-After": "0"})
        if hub.down and self.command == "HEAD":
            return self._send(503, b"{}", {"Retry-After": "0"})
        return self._answer_api(path, body)

    def _answer_api(self, path: str, body: bytes) -> None:
        hub = self.server
        api, file = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/"
        for revision, files in hub.files.items():
            names = {revision, COMMITS[revision]}
            if not files:
                continue
            for name in names:
                if path.startswith(f"{api}/tree/{name}"):
                    return self._tree(revision, path.removeprefix(f"{api}/tree/{name}").strip("/"))
                if path == f"{api}/paths-info/{name}":
                    return self._paths(revision, body)
                if path == f"{api}/revision/{name}":
                    return self._send(200, self._json({"id": REPOSITORY, "sha": COMMITS[revision], "siblings": []}))
                if path.startswith(f"{file}{name}/"):
                    return self._file(revision, path.removeprefix(f"{file}{name}/"))
        if path == api:
            return self._send(200, self._json({"id": REPOSITORY, "sha": COMMITS["main"], "siblings": []}))
        known = "main" in path or any(name in path for name, files in hub.files.items() if files)
        missing = "EntryNotFound" if known else "RevisionNotFound"
        return self._send(404, b"{}", {"X-Error-Code": missing})

    def _tree(self, revision: str, folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = [name.removeprefix(prefix) for name in self.server.files[revision] if name.startswith(prefix)]
        if not inside:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        entries = [
            self._facts(revision, prefix + name) if "/" not in name
            else {"type": "directory", "path": prefix + name.split("/")[0], "oid": "0" * 40}
            for name in inside
        ]  # fmt: skip
        unique = {entry["path"]: entry for entry in entries}
        return self._send(200, self._json(list(unique.values())))

    def _paths(self, revision: str, body: bytes) -> None:
        wanted = json.loads(body)["paths"]
        files = self.server.files[revision]
        found = [self._facts(revision, name) for name in wanted if name in files]
        found += [
            {"type": "directory", "path": name, "oid": "0" * 40}
            for name in wanted if any(each.startswith(f"{name}/") for each in files)
        ]  # fmt: skip
        return self._send(200, self._json(found))

    def _facts(self, revision: str, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(self.server.files[revision][name]), "oid": "0" * 40}

    def _file(self, revision: str, name: str) -> None:
        data = self.server.files[revision].get(name)
        if data is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{len(data):040d}"', "X-Repo-Commit": COMMITS[revision], "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if not asked:
            return self._send(200, data, headers, part=True)
        first, last = asked.removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return self._send(206, data[start : end + 1], headers, part=True)

    @staticmethod
    def _json(value: object) -> bytes:
        return json.dumps(value).encode()

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, part: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if part and self.server.cut and len(data) > 1:
            self.server.cut -= 1
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data)
