"""What publishing will change, and everything that is in its way, before the first byte is sent."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from export.bundle import METADATA
from export.errors import UserError
from export.hub import (
    UnexpectedAnswerError,
    client_errors,
    commit_of,
    hub_errors,
    patiently,
    reason,
    remote_files,
    status,
)
from scripts.publish.repository import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

Change = Literal["new", "changed", "same"]

MAIN, PULL = "main", "refs/pr/"

REF_NAME = re.compile(r"(?!.*(\.\.|//|/\.|\.lock$))[A-Za-z0-9_][\w./-]*(?<![./])", re.ASCII)
"""Names of branches and tags that Git takes, and no stranger ones."""

_NO_BRANCH = re.compile(r"refs/(?!pr/[1-9]\d*$).*|HEAD|[0-9a-f]{40}", re.ASCII)
"""What Git or the Hub reads as something else than a branch or a tag."""


@dataclass(frozen=True)
class Target:
    """Where to publish; names as on the command line."""

    private: bool = False
    revision: str = MAIN
    pr: bool = False
    tag: str | None = None


@dataclass(frozen=True)
class Plan:
    """One repository, beside what the Hub has.

    Attributes:
        repository: what it will hold.
        target: where.
        exists: whether the repository does.
        head: the commit that the branch was when it was compared; None where there is no branch.
        changes: by path.
        stays: files of the repository that are not ours, which stay as they are.
        published: where all files are already, a branch or a pull request; None where something is to be sent.
        tag: that will mark the commit; None for a pull request.
        tagged: whether it does already.
        reasons: why it cannot be published; empty where it can.
    """

    repository: Repository
    target: Target
    exists: bool
    head: str | None
    changes: dict[str, Change]
    stays: tuple[str, ...]
    published: str | None
    tag: str | None
    tagged: bool
    reasons: tuple[str, ...]

    @property
    def to_send(self) -> int:
        """Bytes of files that are new or changed."""
        return sum(file.size for file in self.repository.files if self.changes[file.path] != "same")

    @property
    def stale_folders(self) -> list[str]:
        """Finished folders of the repository that are not of this build."""
        return [path.removesuffix(f"/{METADATA}") for path in self.stays if path.endswith(f"/{METADATA}")]

    @property
    def replaced(self) -> list[str]:
        """Files that are there with other content."""
        return [path for path, change in self.changes.items() if change == "changed"]

    @property
    def nothing_to_do(self) -> bool:
        """Whether all is there, and marked."""
        return self.published is not None and (self.tag is None or self.tagged)

    def as_json(self) -> dict[str, Any]:
        """What `publish --dry-run --json` prints of it."""
        return {
            "repository": self.repository.repo_id,
            "exists": self.exists,
            "private": self.target.private,
            "revision": self.target.revision,
            "pr": self.target.pr,
            "tag": self.tag,
            "nothing_to_do": self.nothing_to_do,
            "bytes": self.repository.size_bytes,
            "bytes_to_send": self.to_send,
            "files": [
                {"path": file.path, "bytes": file.size, "sha256": file.sha256, "change": self.changes[file.path]}
                for file in self.repository.files
            ],
            "stays": list(self.stays),
            "stale_folders": self.stale_folders,
            "card": self.repository.card,
            "reasons": list(self.reasons),
        }


def make_plan(api: HfApi, repository: Repository, target: Target) -> Plan:
    """Compare a repository with the Hub's; nothing is sent but the page's header, to be validated.

    Raises:
        UserError: the Hub does not answer.
    """
    repo_id = repository.repo_id
    remedy = "check the id, the network, HF_ENDPOINT and HF_TOKEN, then run again"
    with hub_errors(f"{repo_id}: the Hub cannot be asked", remedy):
        who, reasons = _who(api)
        remote = _Remote.read(api, repo_id, target, signed_in=who is not None)
        reasons += [*_permission(api, who, repo_id, remote, target), *_header_errors(api, repository, who)]
        head = remote.heads.get(target.revision)
        on_branch = remote.files(api, head) if head else {}
        published = target.revision if head and not differing(repository, on_branch) else None
        if target.pr and published is None:
            published = remote.same_pull_request(api, repository)
        tag = None if target.pr or target.revision.startswith(PULL) else target.tag or repository.default_tag
        tagged = False
        if tag is not None and tag in remote.tags:
            tagged = not differing(repository, remote.files(api, remote.tags[tag]))
            if not tagged:
                reasons.append(f"--tag {tag}: exists and marks other files; choose another")
    changes: dict[str, Change] = {}
    for file in repository.files:
        there = on_branch.get(file.path)
        changes[file.path] = "new" if there is None else "same" if file.is_same(there) else "changed"
    return Plan(
        repository,
        target,
        remote.exists,
        head,
        changes,
        tuple(sorted(set(on_branch) - set(changes))),
        published,
        tag,
        tagged,
        (*repository.reasons, *reasons),
    )


def require_publishable(plans: list[Plan]) -> None:
    """Say all that is in the way, of all repositories, in one line.

    Raises:
        UserError: there is something.
    """
    reasons = list(dict.fromkeys(reason for plan in plans for reason in plan.reasons))
    if reasons:
        names = ", ".join(plan.repository.repo_id for plan in plans)
        numbered = "; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))
        raise UserError(f"{names}: nothing was published: {numbered}")


def differing(repository: Repository, remote: dict[str, RepoFile]) -> list[str]:
    """Paths of files that are not there, or have another checksum."""
    return [file.path for file in repository.files if file.path not in remote or not file.is_same(remote[file.path])]


@dataclass(frozen=True)
class _Remote:
    """What the Hub has under the id."""

    repo_id: str
    exists: bool
    private: bool
    heads: dict[str, str]  # commits by branch, and by the pull request that is asked for
    tags: dict[str, str]

    @classmethod
    def read(cls, api: HfApi, repo_id: str, target: Target, *, signed_in: bool) -> _Remote:
        """Ask for the repository, its branches and its tags; a stranger without a token sees public ones."""
        try:
            info = patiently(lambda: api.repo_info(repo_id))
            refs = patiently(lambda: api.list_repo_refs(repo_id))
        except client_errors() as error:
            if status(error) not in ((404,) if signed_in else (401, 404)):
                raise
            return cls(repo_id, exists=False, private=target.private, heads={}, tags={})
        heads = {ref.name: ref.target_commit for ref in refs.branches}
        if target.revision.startswith(PULL):
            try:
                heads[target.revision] = commit_of(api, repo_id, target.revision)
            except client_errors() as error:
                if status(error) != 404:
                    raise
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        return cls(repo_id, exists=True, private=bool(info.private), heads=heads, tags=tags)

    def files(self, api: HfApi, revision: str) -> dict[str, RepoFile]:
        """See :func:`remote_files`."""
        return remote_files(api, self.repo_id, revision)

    def same_pull_request(self, api: HfApi, repository: Repository) -> str | None:
        """An open pull request that holds exactly these files."""
        if not self.exists:
            return None
        requests = patiently(
            lambda: list(
                api.get_repo_discussions(self.repo_id, discussion_type="pull_request", discussion_status="open")
            )
        )
        for request in sorted(requests, key=lambda each: -each.num):
            ref = f"{PULL}{request.num}"
            if not differing(repository, self.files(api, ref)):
                return ref
        return None


def _who(api: HfApi) -> tuple[dict[str, Any] | None, list[str]]:
    """Who the token belongs to, and what is wrong with it."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        who = patiently(api.whoami)
        if not isinstance(who, dict) or not isinstance(who.get("name"), str):
            raise UnexpectedAnswerError("it does not say whose the token is; is it a Hub?")
        return who, []
    except LocalTokenNotFoundError:
        return None, ["there is no token; set HF_TOKEN, or run `hf auth login`"]
    except client_errors() as error:
        if status(error) not in (401, 403):
            raise
        return None, [f"the Hub does not accept the token ({reason(error)}); set another HF_TOKEN"]


def _permission(api: HfApi, who: dict[str, Any] | None, repo_id: str, remote: _Remote, target: Target) -> list[str]:
    """Why these files may not be written there by this user."""
    reasons = []
    if remote.exists and target.private and not remote.private:
        reasons.append(f"{repo_id}: exists and is public, and --private does not change that; leave it out")
    reasons += _names(remote, target)
    if target.pr and not remote.exists:
        reasons.append(f"{repo_id}: does not exist, so nobody can be asked to take a pull request; leave --pr out")
    if who is None:
        return reasons
    user, owner = who.get("name"), repo_id.partition("/")[0]
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        reasons.append("the token may only read; set HF_TOKEN to one that may write")
    elif remote.exists and not target.pr:
        try:
            patiently(lambda: api.auth_check(repo_id, write=True))
        except client_errors() as error:
            if status(error) not in (401, 403, 404):
                raise
            reasons.append(f"{repo_id}: {user} may not write there ({reason(error)}); ask its owner, or use --pr")
    elif not remote.exists and not _may_create(who, owner):
        reasons.append(f"{repo_id}: {user} may not create repositories of {owner}; choose another name")
    return reasons


def _names(remote: _Remote, target: Target) -> list[str]:
    """What is wrong with the names of branch and tag."""
    reasons = []
    for option, name in (("--tag", target.tag), ("--revision", target.revision)):
        if name is not None and not REF_NAME.fullmatch(name):
            reasons.append(f"{option} {name}: Git allows no such name; use letters, digits, '.', '_' and '-'")
        elif name is not None and _NO_BRANCH.fullmatch(name):
            reasons.append(f"{option} {name}: is no name of a branch or a tag; choose another")
    if target.revision.startswith(PULL) and target.revision not in remote.heads:
        reasons.append(f"--revision {target.revision}: there is no such pull request; give a branch, or use --pr")
    if target.tag is not None and target.tag in {*remote.heads, target.revision}:
        reasons.append(f"--tag {target.tag}: is a branch; choose another name")
    if target.revision in remote.tags:
        reasons.append(f"--revision {target.revision}: is a tag; give a branch")
    return reasons


def _may_create(who: dict[str, Any], owner: str) -> bool:
    """Whether a user may create repositories there: their own name, or an organization where they may write."""
    roles = {each.get("name"): each.get("roleInOrg") for each in who.get("orgs", [])}
    return owner == who.get("name") or (owner in roles and roles[owner] != "read")


def _header_errors(api: HfApi, repository: Repository, who: dict[str, Any] | None) -> list[str]:
    """What the Hub has against the page's header."""
    if who is None:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patiently(lambda: api._validate_yaml(repository.card))  # what create_commit asks, too late for us
    except ValueError as error:
        if status(error) not in (None, 400):
            raise
        return [f"{repository.repo_id}: the Hub rejects the card's header: {' '.join(str(error).split())}"]
    return []
