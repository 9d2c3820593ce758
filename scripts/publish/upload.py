"""Publish: large files first, then one commit that shows all of them at once, then checksums, then the tag.

Before the commit nothing can be seen; a run that was stopped is repeated, and files that the Hub has already are not
sent again. A commit whose answer was lost is recognized by its files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.errors import ParityError, UserError
from export.hub import (
    client_errors,
    commit_of,
    hub_errors,
    patiently,
    reason,
    remote_files,
    without_secrets,
)
from export.progress import note
from scripts.publish.plan import MAIN, PULL, Plan, differing, make_plan

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

LARGE = 1_000_000
"""Bytes from which a file is worth a line of progress."""

MESSAGE = "Folders made and verified by nemotron-ov"


@dataclass(frozen=True)
class Published:
    """What lies where: a revision whose files have the checksums of ours."""

    repo_id: str
    revision: str  # branch, or refs/pr/N
    url: str
    tag: str | None
    did: str
    stale: tuple[str, ...]  # finished folders of the repository that are not of this build


def publish(api: HfApi, plan: Plan) -> Published:
    """Carry out a plan that nothing is in the way of.

    Raises:
        UserError: the Hub refused or could not be reached; nothing can be seen, or the next run finishes it.
        ParityError: the Hub's files have other checksums than ours after the commit; they are not tagged.
    """
    repo_id = plan.repository.repo_id
    remedy = "run again to finish; what was sent is not sent twice"
    with hub_errors(f"{repo_id}: publishing was not finished", remedy):
        if plan.nothing_to_do:
            return _published(api, plan, str(plan.published), "nothing to do")
        revision = plan.published or _send(api, plan)
        commit = commit_of(api, repo_id, revision)
        wrong = differing(plan.repository, remote_files(api, repo_id, commit))
        if wrong:
            raise ParityError(
                f"{repo_id}@{revision}: {', '.join(wrong)} are missing or have other checksums than here; no tag was "
                "set; see whether somebody else publishes there or a .gitignore leaves them out, then run again"
            )
        if plan.tag is not None and not plan.tagged:
            _tag(api, plan, commit)
    return _published(api, plan, revision, "published" if plan.published is None else "tagged")


def _published(api: HfApi, plan: Plan, revision: str, did: str) -> Published:
    repo_id = plan.repository.repo_id
    place = f"discussions/{revision.rsplit('/', 1)[1]}" if revision.startswith(PULL) else f"tree/{revision}"
    url = without_secrets(f"{api.endpoint}/{repo_id}/{place}")
    return Published(repo_id, revision, url, plan.tag, did, tuple(plan.stale_folders))


def _send(api: HfApi, plan: Plan) -> str:
    """Send what is new or changed, and commit it; gives the revision."""
    from huggingface_hub import CommitOperationAdd

    repo_id, target = plan.repository.repo_id, plan.target
    if not plan.exists:
        patiently(lambda: api.create_repo(repo_id, private=target.private, exist_ok=True))
    if plan.head is None and target.revision != MAIN:
        patiently(lambda: api.create_branch(repo_id, branch=target.revision, exist_ok=True))
    head = plan.head or commit_of(api, repo_id, target.revision)  # another one is refused by the Hub
    changed = [file for file in plan.repository.files if plan.changes[file.path] != "same"]
    # The client hashes once more what it sends, so that a file which has changed since does not pass for ours.
    additions = [CommitOperationAdd(file.path, file.source) for file in changed]
    for file, addition in zip(changed, additions, strict=True):
        file.require_unchanged(addition.upload_info.sha256.hex())
    if plan.replaced:
        note(f"{repo_id}: replaces what is there with other content: {', '.join(plan.replaced)}")
    _send_large_files(api, plan, additions)
    try:
        commit = patiently(
            lambda: api.create_commit(
                repo_id,
                additions,
                commit_message=MESSAGE,
                revision=target.revision,
                create_pr=target.pr,
                parent_commit=head,
            )
        )
    except client_errors() as error:
        landed = _landed(api, plan)
        if landed is None:
            raise
        note(f"{repo_id}: the commit's answer was lost ({reason(error)}), and the commit is there")
        return landed
    return f"{PULL}{commit.pr_num}" if commit.pr_num is not None else target.revision


def _send_large_files(api: HfApi, plan: Plan, additions: list[CommitOperationAdd]) -> None:
    """Send the large files one by one, saying what is done in bytes; the commit sends what is left."""
    large = [addition for addition in additions if addition.upload_info.size >= LARGE]
    total, done = sum(addition.upload_info.size for addition in large), 0
    for addition in large:
        size = addition.upload_info.size
        note(
            f"sending {addition.path_in_repo}, {size / 1e6:.1f} MB; {done / 1e6:.1f} of {total / 1e6:.1f} MB are there"
        )
        patiently(
            lambda addition=addition: api.preupload_lfs_files(  # type: ignore[misc]
                plan.repository.repo_id,
                [addition],
                revision=plan.target.revision,
                create_pr=plan.target.pr,
                free_memory=False,
            )
        )
        done += size
    if large:
        note(f"{plan.repository.repo_id}: {done / 1e6:.1f} MB of large files are there")


def _landed(api: HfApi, plan: Plan) -> str | None:
    """Where a commit's files are after its answer was lost, None where they are not."""
    try:
        return make_plan(api, plan.repository, plan.target).published
    except UserError as error:
        note(str(error))
        return None


def _tag(api: HfApi, plan: Plan, commit: str) -> None:
    """Mark the commit whose files were compared; somebody's tag of that name that came meanwhile is an error."""
    tag = str(plan.tag)
    try:
        patiently(lambda: api.create_tag(plan.repository.repo_id, tag=tag, revision=commit))
    except client_errors():
        tagged = next(
            (ref for ref in patiently(lambda: api.list_repo_refs(plan.repository.repo_id)).tags if ref.name == tag),
            None,
        )
        if tagged is None or differing(
            plan.repository, remote_files(api, plan.repository.repo_id, tagged.target_commit)
        ):
            raise
