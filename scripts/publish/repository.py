"""The files of a repository: the folders', and what is made for the page beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from export.bundle import FILES
from export.digest import digest
from export.errors import UserError
from export.folders import write_atomically
from export.hub import git_sha1
from scripts.publish.card import render_card, unsupported
from scripts.publish.facts import Facts, Folder
from scripts.publish.licences import licence_text
from scripts.publish.page import ANY_REPOSITORY, Page

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

CARD, LICENSE, CONFIG, OPENVINO_CONFIG = "README.md", "LICENSE", "config.json", "openvino_config.json"


Layout = Literal["folders", "split"]
"""One repository with a folder for each precision, or a repository for each."""


@dataclass(frozen=True)
class File:
    """A file of the repository.

    Attributes:
        path: in the repository.
        source: the file of this machine, or the content.
        size: in bytes.
        sha256: of the content.
    """

    path: str
    source: Path | bytes
    size: int
    sha256: str

    @classmethod
    def of_text(cls, path: str, text: str) -> File:
        """A file that is made now."""
        content = text.encode()
        return cls(path, content, len(content), hashlib.sha256(content).hexdigest())

    @cached_property
    def git_sha1(self) -> str:
        """Git's identity; reads the file.

        Raises:
            UserError: it is not what it was.
        """
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        self.require_unchanged(hashlib.sha256(content).hexdigest())
        return git_sha1(content)

    def require_unchanged(self, sha256: str) -> None:
        """Refuse content with another SHA-256 than the one that was found first.

        Raises:
            UserError: naming the file.
        """
        if sha256 != self.sha256:
            raise UserError(f"{self.source!s}: was changed while it was published; verify the folder, then run again")

    def is_same(self, remote: RepoFile) -> bool:
        """Whether the Hub's file has this content, by its own checksum."""
        if remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.git_sha1


@dataclass(frozen=True)
class Repository:
    """What one repository will hold.

    Attributes:
        repo_id: on the Hub.
        card: the page.
        files: all, the page among them.
        reasons: why it may not be published; empty where it may.
    """

    repo_id: str
    card: str
    files: tuple[File, ...]
    reasons: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def default_tag(self) -> str:
        """A tag that names exactly these files."""
        return f"build-{digest({file.path: file.sha256 for file in self.files})[:12]}"


def repositories(
    facts: Facts, repo_id: str, layout: Layout, page: Page, license_file: Path | None = None
) -> list[Repository]:
    """One repository, or one for each folder: ``OWNER/NAME-int8-ov``.

    Args:
        facts: of all folders.
        repo_id: its name, or what the names begin with.
        layout: see :data:`Layout`.
        page: what the pages are told; repository and place are filled in here.
        license_file: the licence's text, where it is not one of ours.

    Raises:
        UserError: a page or a licence cannot be read.
    """
    return [
        _repository(part, file, replace(page, repo_id=name, in_root=layout == "split"), license_file)
        for name, part, file in parts(facts, repo_id, layout)
    ]


def parts(facts: Facts, repo_id: str, layout: Layout) -> Iterator[tuple[str, Facts, Path]]:
    """Each repository's id, facts, and the file of its page."""
    if layout == "folders":
        yield repo_id, facts, facts.root / CARD
        return
    for folder in facts.folders:
        rest = tuple(each for other in facts.folders if other is not folder for each in other.verifications)
        part = replace(facts, folders=(folder,), others=facts.others + rest, sibling=facts.full)
        yield f"{repo_id}-{folder.name}-ov", part, facts.root / f"README-{folder.name}.md"


def _repository(facts: Facts, file: Path, page: Page, license_file: Path | None) -> Repository:
    reasons = [reason for folder in facts.folders for reason in facts.reasons_against(folder)]
    card, problems = _card(facts, file, page)
    if problems:
        reasons.append(
            f"{file}: claims what no report supports, {problems[0]!r} first of {len(problems)}; see them with "
            "`card --check`, and write the page again with `card --force`"
        )
    identifier = page.licence_of(facts)
    text, beside = licence_text(identifier, license_file), facts.root / LICENSE
    if text is None and beside.is_file():
        text = licence_text(identifier, beside)
    elif license_file is None and text is not None and _differs(beside, text):
        reasons.append(f"{beside}: is not the text of {identifier}; give it with --license-file, or move it away")
    if identifier is None:
        reasons.append(f"{facts.root}: the licence of the weights is not known; give --license, or --base-model")
    elif text is None:
        reasons.append(f"--license {identifier}: its text is not known; give --license-file")
    files = [File.of_text(CARD, card)]
    files += [File.of_text(LICENSE, text)] if text is not None else []
    config = as_json(repository_config(facts))
    files.append(File.of_text(CONFIG, config))
    if not page.in_root and _differs(facts.root / CONFIG, config):
        reasons.append(f"{facts.root / CONFIG}: is not what these folders say; write it again with `card --force`")
    for folder in facts.folders:
        files += _folder_files(folder, "" if page.in_root else f"{folder.name}/")
    return Repository(str(page.repo_id), card, tuple(files), tuple(reasons))


def _folder_files(folder: Folder, prefix: str) -> Iterator[File]:
    for name in FILES:
        path = folder.bundle.path / name
        if path.suffix == ".bin":  # sent from the disk, after its hash was compared once more
            yield File(prefix + name, path, path.stat().st_size, folder.hashes[name])
            continue
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != folder.hashes[name]:
            raise UserError(f"{path}: was changed while it was read; wait for what writes it, then run again")
        yield File(prefix + name, content, len(content), folder.hashes[name])
    yield File.of_text(prefix + OPENVINO_CONFIG, as_json(openvino_config(folder)))


def _card(facts: Facts, file: Path, page: Page) -> tuple[str, list[str]]:
    """The page, and what it claims without a report: the user's file where there is one, else a new one."""
    rendered = render_card(facts, page)
    if not file.is_file():
        return rendered, []
    text = read_card(file)
    edited = text.replace(ANY_REPOSITORY, page.repo_id or ANY_REPOSITORY)
    if text == render_card(facts, replace(page, repo_id=None)):  # as `card` wrote it
        return rendered, []
    return edited, unsupported(edited, facts, page)


def _differs(file: Path, text: str) -> bool:
    return file.is_file() and file.read_bytes() != text.encode()


def read_card(file: Path) -> str:
    """A page that lies here.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); make it with `nemotron-ov card`") from error


def as_json(content: dict[str, Any]) -> str:
    """A JSON file's text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def local_pages(facts: Facts, layout: Layout, page: Page) -> Iterator[tuple[Path, Facts, Page]]:
    """Each page's file beside the folders, with what it is made from; no repository's id is known."""
    for _, part, file in parts(facts, ANY_REPOSITORY, layout):
        yield file, part, replace(page, in_root=layout == "split")


def write_pages(facts: Facts, layout: Layout, page: Page, license_file: Path | None, *, force: bool) -> list[Path]:
    """Write the pages, ``config.json`` and ``LICENSE`` beside the folders; gives what was written.

    Raises:
        UserError: one is there with another content and ``force`` is not given; nothing was written.
    """
    texts = {file: render_card(part, told) for file, part, told in local_pages(facts, layout, page)}
    if layout == "folders":
        texts[facts.root / CONFIG] = as_json(repository_config(facts))
    licence = licence_text(page.licence_of(facts), license_file)
    if licence is not None:
        texts[facts.root / LICENSE] = licence
    for file, text in texts.items():
        if file.exists() and not force and read_card(file) != text:
            raise UserError(
                f"{file}: is there and says something else; see what with `card --check`, or replace it with --force"
            )
    for file, text in texts.items():
        write_atomically(file, text)
    return list(texts)


def openvino_config(folder: Folder) -> dict[str, Any]:
    """``openvino_config.json`` of a folder: versions, and its quantization as its recipe says it."""
    metadata = folder.bundle.metadata
    recipe = {name: value for name, value in metadata.recipe.items() if name != "calibration_audio_sha256"}
    return {
        "dtype": metadata.precision.lower(),
        "openvino_version": metadata.tools.get("openvino"),
        "nncf_version": metadata.tools.get("nncf"),
        "quantization_config": recipe if folder.is_quantized else None,
    }


def repository_config(facts: Facts) -> dict[str, Any]:
    """``config.json`` of the repository, which the Hub counts downloads by: what lies in which folder."""
    metadata = facts.first.bundle.metadata
    return {
        "architectures": [metadata.model_class],
        "library_name": "openvino",
        "model": metadata.model,
        "sample_rate": metadata.sample_rate,
        "vocab_size": metadata.vocab_size,
        "folders": {folder.name: folder.bundle.metadata.precision for folder in facts.folders},
    }
