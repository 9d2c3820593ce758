"""The Hub on loopback: as much of its HTTP protocol as the real client uses, with failures on demand.

It keeps what it is sent as the Hub does: commits with trees, branches, tags, pull requests, large files by their
SHA-256, which it checks when one is complete.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_SecretTokenOfTheTests"
LARGE = (".bin", ".nemo", ".safetensors")
PART = 100
"""Bytes of a part where a large file is sent in several."""


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Stored:
    """A file of a commit: content, and its SHA-256 where it is a large file."""

    content: bytes
    large: bool

    def entry(self, path: str) -> dict[str, Any]:
        size = len(self.content)
        facts: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": git_oid(self.content)}
        if self.large:
            oid = hashlib.sha256(self.content).hexdigest()
            facts["lfs"] = {"oid": oid, "size": size, "pointerSize": 130}
        return facts


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: dict[int, str] = field(default_factory=dict)

    def commit(self, tree: dict[str, Stored]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = tree
        return sha

    def resolve(self, revision: str) -> str | None:
        pull = re.fullmatch(r"refs/pr/(\d+)", revision)
        if pull:
            return self.requests.get(int(pull[1]))
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)

    def tree(self, revision: str = "main") -> dict[str, Stored]:
        return self.commits[self.resolve(revision) or ""]


@dataclass
class Fault:
    """What goes wrong with requests like this, so many times.

    Attributes:
        request: pattern of ``METHOD /path``.
        how: a status; ``cut``: no answer; ``half``: half of the body; ``lost``: done, and no answer; ``corrupt``: the
            content is changed on its way; ``answer``: the message is the answer.
        headers: of the answer with a status.
        message: of the answer with a status.
        times: how often; -1 for always.
        after: so many requests like this pass first.
    """

    request: str
    how: int | str
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""
    times: int = 1
    after: int = 0


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.user, self.role = "someone", "write"
        self.orgs: dict[str, str] = {}
        self.read_only: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.reject_card: str | None = None
        self.multipart = False
        self.ignore: set[str] = set()
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo_id: str, files: dict[str, bytes], *, private: bool = False) -> Repo:
        """A repository with one commit."""
        repo = self.repos[repo_id] = Repo(private=private)
        tree = {path: Stored(content, path.endswith(LARGE)) for path, content in files.items()}
        repo.branches["main"] = repo.commit(tree)
        return repo

    def fail(self, request: str, how: int | str, **more: Any) -> None:
        self.faults.append(Fault(request, how, **more))

    def fault(self, request: str) -> Fault | None:
        """The fault that this request meets, once less from now on."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.request, request):
                    if fault.after:
                        fault.after -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def sent(self, pattern: str) -> list[str]:
        """Requests like this so far."""
        return [request for request in self.requests if re.search(pattern, request)]


class _CutError(Exception):
    """The connection ends without an answer."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: two would wait for each other (Nagle's algorithm)
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        address = urlsplit(self.path)
        self.route, self.query = unquote(address.path), parse_qs(address.query)
        fault = self.server.fault(f"{self.command} {self.route}")
        self.fault = fault.how if fault else None
        try:
            if self.fault == "half":
                self.rfile.read(length // 2)
                raise _CutError
            self.body = self.rfile.read(length)
            if self.fault == "cut":
                raise _CutError
            if self.fault == "corrupt" and self.body:
                self.body = bytes([self.body[0] ^ 1]) + self.body[1:]
            if fault and fault.how == "answer":
                return self._send(200, fault.message.encode(), {"Content-Type": "application/json"})
            if fault and isinstance(fault.how, int):
                return self._json(fault.how, {"error": fault.message or "injected"}, fault.headers)
            self._answer()
        except (_CutError, BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        return None

    def _answer(self) -> None:
        signed_url = self.route.startswith("/lfs/")
        if not signed_url and self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            return self._json(401, {"error": "Invalid username or password."})
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, self.route)
            if found and self.command in (method, "HEAD" if method == "GET" else method):
                with self.server.lock:
                    reply = answer(self, *found.groups())
                if self.fault == "lost":
                    raise _CutError
                return self._send(*reply)
        return self._json(404, {"error": f"no route {self.command} {self.route}"})

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if self.fault == "corrupt" and self.command == "GET" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "stop":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            raise _CutError
        self.wfile.write(content)
        self.wfile.flush()


Reply = tuple[int, bytes, dict[str, str]]
_ID = r"([\w.-]+/[\w.-]+)"


def _reply(content: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, json.dumps(content).encode(), {"Content-Type": "application/json"} | named


def _refused(status: int, message: str, code: str = "") -> Reply:
    return _reply({"error": message}, status, **({"X_Error_Code": code} if code else {}), X_Error_Message=message)


def _is_user(handler: _Handler) -> bool:
    return handler.headers.get("Authorization") == f"Bearer {TOKEN}"


def _may_write(handler: _Handler, repo_id: str) -> bool:
    hub = handler.server
    return _is_user(handler) and hub.role != "read" and repo_id not in hub.read_only


def _repo(handler: _Handler, repo_id: str) -> Repo | None:
    repo = handler.server.repos.get(repo_id)
    return repo if repo is not None and (not repo.private or _is_user(handler)) else None


def _with_repo(answer: Callable[..., Reply]) -> Callable[..., Reply]:
    """Answers about a repository, which may be missing or hidden."""

    def checked(handler: _Handler, repo_id: str, *rest: str) -> Reply:
        repo = _repo(handler, repo_id)
        if repo is None:
            return _refused(404 if _is_user(handler) else 401, "Repository not found", "RepoNotFound")
        return answer(handler, repo_id, repo, *rest)

    return checked


def _at_revision(answer: Callable[..., Reply]) -> Callable[..., Reply]:
    """Answers about a revision, which may be missing."""

    def checked(handler: _Handler, repo_id: str, repo: Repo, revision: str, *rest: str) -> Reply:
        sha = repo.resolve(revision)
        if sha is None:
            return _refused(404, "Revision not found", "RevisionNotFound")
        return answer(handler, repo_id, repo, sha, *rest)

    return _with_repo(checked)


def _whoami(handler: _Handler) -> Reply:
    if not _is_user(handler):
        return _refused(401, "Invalid username or password.")
    hub = handler.server
    orgs = [{"name": name, "roleInOrg": role} for name, role in hub.orgs.items()]
    return _reply({"type": "user", "name": hub.user, "orgs": orgs, "auth": {"accessToken": {"role": hub.role}}})


def _create(handler: _Handler) -> Reply:
    wanted, hub = json.loads(handler.body), handler.server
    repo_id = f"{wanted.get('organization') or hub.user}/{wanted['name']}"
    if not _is_user(handler) or hub.role == "read":
        return _refused(403, "You don't have the rights to create a model")
    if repo_id in hub.repos:
        return _refused(409, "You already created this model repo")
    private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
    hub.add(repo_id, {".gitattributes": b"*.bin filter=lfs\n"}, private=private)
    return _reply({"url": f"{hub.endpoint}/{repo_id}"})


def _info(handler: _Handler, repo_id: str, repo: Repo, sha: str = "") -> Reply:
    sha = sha or repo.branches["main"]
    siblings = [{"rfilename": path} for path in repo.commits[sha]]
    return _reply({"id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings})


def _refs(handler: _Handler, repo_id: str, repo: Repo) -> Reply:
    def refs(found: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in found.items()]

    return _reply({"branches": refs(repo.branches, "heads"), "tags": refs(repo.tags, "tags"), "converts": []})


def _auth_check(handler: _Handler, repo_id: str, repo: Repo, write: str | None) -> Reply:
    if write and not _may_write(handler, repo_id):
        return _refused(403, "You do not have write access to this repository")
    return _reply({})


def _tree(handler: _Handler, repo_id: str, repo: Repo, sha: str) -> Reply:
    return _reply([stored.entry(path) for path, stored in repo.commits[sha].items()])


def _preupload(handler: _Handler, repo_id: str, repo: Repo, sha: str) -> Reply:
    if not _may_write(handler, repo_id) and "create_pr" not in handler.query:
        return _refused(403, "You do not have write access to this repository")
    hub, files = handler.server, []
    for each in json.loads(handler.body)["files"]:
        mode = "lfs" if each["path"].endswith(LARGE) else "regular"
        files.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": each["path"] in hub.ignore})
    return _reply({"files": files})


def _batch(handler: _Handler, repo_id: str, repo: Repo) -> Reply:
    hub, objects = handler.server, []
    for each in json.loads(handler.body)["objects"]:
        oid, size = each["oid"], each["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in hub.objects or len(hub.objects[oid]) != size:
            signed = "X-Amz-Signature=SECRETSIGNATURE"
            if hub.multipart and size > PART:
                base, count = f"{hub.endpoint}/lfs/{oid}", -(-size // PART)
                header = {f"{number:05d}": f"{base}/{number}?{signed}" for number in range(1, count + 1)}
                upload = {"href": f"{base}/complete?{signed}", "header": header | {"chunk_size": str(PART)}}
                answer["actions"] = {"upload": upload}
            else:
                answer["actions"] = {
                    "upload": {"href": f"{hub.endpoint}/lfs/{oid}?{signed}"},
                    "verify": {"href": f"{hub.endpoint}/lfs/{oid}/verify"},
                }
        objects.append(answer)
    return _reply({"transfer": "basic", "objects": objects})


def _put_object(handler: _Handler, oid: str) -> Reply:
    handler.server.objects[oid] = handler.body
    return _reply({})


def _put_part(handler: _Handler, oid: str, number: str) -> Reply:
    handler.server.parts[oid, int(number)] = handler.body
    return _reply({}, ETag=f'"{hashlib.md5(handler.body, usedforsecurity=False).hexdigest()}"')


def _complete(handler: _Handler, oid: str) -> Reply:
    hub = handler.server
    numbers = [part["partNumber"] for part in json.loads(handler.body)["parts"]]
    hub.objects[oid] = b"".join(hub.parts[oid, number] for number in numbers)
    return _verify(handler, oid)


def _verify(handler: _Handler, oid: str) -> Reply:
    if hashlib.sha256(handler.server.objects.get(oid, b"")).hexdigest() != oid:
        handler.server.objects.pop(oid, None)
        return _refused(422, "The content has another SHA-256 than its oid")
    return _reply({})


def _commit(handler: _Handler, repo_id: str, repo: Repo, sha: str) -> Reply:
    hub = handler.server
    wants_pr = "create_pr" in handler.query
    if not _is_user(handler) or not (wants_pr or _may_write(handler, repo_id)):
        return _refused(403, "You do not have write access to this repository")
    lines = [json.loads(line) for line in handler.body.splitlines() if line]
    tree = dict(repo.commits[sha])
    for line in lines:
        value = line["value"]
        if line["key"] == "header" and value.get("parentCommit") not in (None, sha):
            return _refused(412, "A commit has happened since. Please refresh and try again.")
        if line["key"] == "file":
            tree[value["path"]] = Stored(base64.b64decode(value["content"]), large=False)
        if line["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                return _refused(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            tree[value["path"]] = Stored(hub.objects[value["oid"]], large=True)
    commit = repo.commit(tree)
    answer = {"success": True, "commitOid": commit, "commitUrl": f"{hub.endpoint}/{repo_id}/commit/{commit}"}
    if wants_pr:
        number = len(repo.requests) + 1
        repo.requests[number] = commit
        answer["pullRequestUrl"] = f"{hub.endpoint}/{repo_id}/discussions/{number}"
    else:
        branch = next(name for name, at in repo.branches.items() if at == sha and handler.route.endswith(f"/{name}"))
        repo.branches[branch] = commit
    return _reply(answer)


def _discussions(handler: _Handler, repo_id: str, repo: Repo) -> Reply:
    found = [
        {
            "num": number, "title": "t", "author": {"name": "someone"}, "repo": {"name": repo_id, "type": "model"},
            "createdAt": "2026-01-01T00:00:00.000Z", "isPullRequest": True, "status": "open",
        }
        for number in repo.requests
    ]  # fmt: skip
    return _reply({"discussions": found, "count": len(found), "start": 0})


def _tag(handler: _Handler, repo_id: str, repo: Repo, sha: str) -> Reply:
    tag = json.loads(handler.body)["tag"]
    if tag in repo.tags:
        return _refused(409, "Tag already exists")
    repo.tags[tag] = sha
    return _reply({})


def _branch(handler: _Handler, repo_id: str, repo: Repo, branch: str) -> Reply:
    if branch in repo.branches:
        return _refused(409, "Reference already exists")
    start = json.loads(handler.body or b"{}").get("startingPoint", "main")
    repo.branches[branch] = repo.resolve(start) or ""
    return _reply({})


def _validate(handler: _Handler) -> Reply:
    if handler.server.reject_card is not None:
        return _reply({"errors": [{"message": handler.server.reject_card}], "warnings": []}, 400)
    return _reply({"errors": [], "warnings": []})


def _resolve(handler: _Handler, repo_id: str, repo: Repo, sha: str, path: str) -> Reply:
    stored = repo.commits[sha].get(path)
    if stored is None:
        return _refused(404, "Entry not found", "EntryNotFound")
    content, size = stored.content, len(stored.content)
    oid = hashlib.sha256(content).hexdigest() if stored.large else git_oid(content)
    headers = {"ETag": f'"{oid}"', "X-Repo-Commit": sha, "X-Linked-Size": str(size), "Accept-Ranges": "bytes"}
    part = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
    if part and int(part[1]):
        start = int(part[1])
        return 206, content[start:], headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
    return 200, content, headers


_ROUTES: tuple[tuple[str, str, Callable[..., Reply]], ...] = (
    ("GET", "/api/whoami-v2", _whoami),
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _validate),
    ("GET", f"/api/models/{_ID}", _with_repo(_info)),
    ("GET", f"/api/models/{_ID}/revision/(.+)", _at_revision(_info)),
    ("GET", f"/api/models/{_ID}/refs", _with_repo(_refs)),
    ("GET", f"/api/models/{_ID}/auth-check(/write)?", _with_repo(_auth_check)),
    ("GET", f"/api/models/{_ID}/tree/(.+)", _at_revision(_tree)),
    ("GET", f"/api/models/{_ID}/discussions", _with_repo(_discussions)),
    ("POST", f"/api/models/{_ID}/preupload/(.+)", _at_revision(_preupload)),
    ("POST", f"/api/models/{_ID}/commit/(.+)", _at_revision(_commit)),
    ("POST", f"/api/models/{_ID}/tag/(.+)", _at_revision(_tag)),
    ("POST", f"/api/models/{_ID}/branch/(.+)", _with_repo(_branch)),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _with_repo(_batch)),
    ("PUT", "/lfs/([0-9a-f]{64})", _put_object),
    ("PUT", r"/lfs/([0-9a-f]{64})/(\d+)", _put_part),
    ("POST", "/lfs/([0-9a-f]{64})/complete", _complete),
    ("POST", "/lfs/([0-9a-f]{64})/verify", _verify),
    ("GET", f"/{_ID}/resolve/([^/]+)/(.+)", _at_revision(_resolve)),
)
