"""The folder format: written whole or not at all, and checked when opened."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from export import bundle
from export.bundle import BUNDLE, Bundle
from export.digest import file_facts
from export.errors import UserError
from export.folders import new_directory, refuse_existing, write_atomically
from tests.helpers.tiny_bundle import tiny_bundle


def old_folder(target: Path) -> Path:
    """What half an export looks like."""
    target.mkdir()
    (target / "nemotron_encoder.xml").write_text("old")
    return target


def test_new_directory_appears_only_when_the_body_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "fp32"
    with new_directory(target, kind=BUNDLE) as temporary:
        (temporary / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


def test_failure_leaves_nothing_behind_and_the_old_folder_alone(tmp_path: Path) -> None:
    target = old_folder(tmp_path / "fp32")

    def fail() -> None:
        with new_directory(target, force=True, kind=BUNDLE) as temporary:
            (temporary / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["fp32", "nemotron_encoder.xml"]


def test_existing_folder_needs_force(tmp_path: Path) -> None:
    target = old_folder(tmp_path / "fp32")
    with pytest.raises(UserError, match="already exists; add --force"), new_directory(target, kind=BUNDLE):
        pytest.fail("the body must not run")
    with new_directory(target, force=True, kind=BUNDLE) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]


def test_a_bundle_can_be_replaced_whole_and_in_part(tmp_path: Path, small_fp32: Bundle) -> None:
    target = tmp_path / "fp32"
    for missing in (None, "metadata.json", "nemotron_joint.bin"):
        shutil.copytree(small_fp32.path, target)
        if missing:
            (target / missing).unlink()
        with new_directory(target, force=True, kind=BUNDLE):
            pass
        target.rmdir()  # it is empty now


@pytest.mark.parametrize("foreign", ["thesis.txt", ".git/HEAD", "nemotron_encoder.xml/x", "nemotron_notes.xml"])
def test_force_deletes_nothing_that_is_not_ours(foreign: str, tmp_path: Path) -> None:
    """Neither a folder of somebody's nor one of ours that holds a file of somebody's."""
    for number, ours in enumerate(([], ["metadata.json", "nemotron_decoder.bin"])):
        target = tmp_path / str(number)
        (target / foreign).parent.mkdir(parents=True)
        for name in (foreign, *ours):
            (target / name).write_text("mine")
        refused = f"holds {foreign.split('/', maxsplit=1)[0]}, which is no part of an exported or quantized folder"
        with pytest.raises(UserError, match=refused), new_directory(target, force=True, kind=BUNDLE):
            pytest.fail("the body must not run")
        assert (target / foreign).read_text() == "mine"


def test_a_foreign_metadata_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text("{}")
    for force in (False, True):
        with pytest.raises(UserError, match=r"holds nothing but metadata\.json, which may be anybody's"):
            refuse_existing(tmp_path, kind=BUNDLE, force=force)


@pytest.mark.parametrize("force", [False, True])
def test_files_that_came_in_the_meantime_are_kept(force: bool, tmp_path: Path) -> None:
    target = tmp_path / "fp32"

    def come_and_go() -> None:
        with new_directory(target, force=force, kind=BUNDLE):
            target.mkdir()
            (target / "thesis.txt").write_text("mine")

    with pytest.raises(UserError, match=r"holds thesis\.txt"):
        come_and_go()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["fp32", "thesis.txt"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_be_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = old_folder(tmp_path / "fp32")
    rename = Path.rename

    def stubborn(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", stubborn)
    with (
        pytest.raises(UserError, match=r"fp32: cannot be written \(Input/output error\); choose"),
        new_directory(target, force=True, kind=BUNDLE),
    ):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["fp32", "nemotron_encoder.xml"]


def test_a_file_in_the_way_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "fp32").write_text("mine")
    with pytest.raises(UserError, match="is a file"), new_directory(tmp_path / "fp32", force=True, kind=BUNDLE):
        pytest.fail("the body must not run")
    assert (tmp_path / "fp32").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UserError, match=r"report\.json: cannot be written \(Is a directory\); choose another place"):
        write_atomically(tmp_path / "report.json", "{}")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(UserError, match=r"other\.json: cannot be written \(No space left on device\); .*make room"):
        write_atomically(tmp_path / "other.json", "{}")
    assert [path.name for path in tmp_path.rglob("*")] == ["report.json"]


@pytest.mark.skipif(os.name != "posix", reason="links need privileges elsewhere")
def test_a_link_to_a_file_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "real.json").write_text("old")
    (tmp_path / "report.json").symlink_to("kept/real.json")
    write_atomically(tmp_path / "report.json", "new")
    assert (tmp_path / "report.json").is_symlink()
    assert [(each.name, each.read_text()) for each in (tmp_path / "kept").iterdir()] == [("real.json", "new")]


def test_new_files_and_folders_have_the_umasks_mode_and_replaced_ones_keep_theirs(tmp_path: Path) -> None:
    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    umask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new.json", "{}")
        for name in ("old.json", "old"):
            (tmp_path / name).touch() if name == "old.json" else (tmp_path / name).mkdir()
            (tmp_path / name).chmod(0o702)
        write_atomically(tmp_path / "old.json", "{}")
        for name in ("new", "old"):
            with new_directory(tmp_path / name, kind=BUNDLE):
                pass
    finally:
        os.umask(umask)
    assert [mode(name) for name in ("new.json", "old.json", "new", "old")] == [0o640, 0o702, 0o750, 0o702]


def test_open_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no metadata\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="not usable"):
        Bundle.open(tmp_path)
    (tmp_path / "metadata.json").unlink()
    (tmp_path / "metadata.json").mkdir()
    with pytest.raises(UserError, match=r"metadata\.json: cannot be read \(Is a directory\); regenerate"):
        Bundle.open(tmp_path)


def test_a_vocabulary_that_is_no_object_is_one_line(tmp_path: Path, small_fp32: Bundle) -> None:
    (tmp_path / "nemotron_vocab.json").write_text('["a"]')
    with pytest.raises(UserError, match="not a flat object"):
        Bundle(tmp_path, small_fp32.metadata).vocabulary  # noqa: B018


def test_open_names_missing_files_and_newer_formats(tmp_path: Path, small_fp32: Bundle) -> None:
    metadata = json.loads((small_fp32.path / "metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"nemotron_encoder\.xml.*missing"):
        Bundle.open(tmp_path)
    (tmp_path / "metadata.json").write_text(json.dumps(metadata | {"format_version": 99}))
    with pytest.raises(UserError, match="format_version 99 is newer"):
        Bundle.open(tmp_path)


def test_damaged_files_are_found_by_hash(tmp_path: Path, small_fp32: Bundle) -> None:
    assert small_fp32.damaged_files() == []
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in small_fp32.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "nemotron_joint.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert Bundle.open(copy).damaged_files() == ["nemotron_joint.bin"]
    assert file_facts(weights)["bytes"] == len(data)


@pytest.mark.parametrize(("graph", "encoder"), [("fused", "rewritten"), ("nemo", "nemo")])
def test_folders_from_before_the_encoder_had_its_name_are_read(
    tmp_path: Path, small_fp32: Bundle, graph: str, encoder: str
) -> None:
    old = shutil.copytree(small_fp32.path, tmp_path / "old")
    text = json.loads((old / "metadata.json").read_text())
    del text["encoder"]
    (old / "metadata.json").write_text(json.dumps(text | {"graph": graph}))
    metadata = Bundle.open(old).metadata
    assert metadata.encoder == encoder
    assert "graph" not in metadata.model_dump()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_flipped_byte_is_found_by_hashes_and_a_lost_one_by_sizes(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "a").path
    assert Bundle.open(folder, check="hashes").path == folder
    flip(folder / "nemotron_joint.bin")
    assert Bundle.open(folder, check="sizes").path == folder
    with pytest.raises(UserError, match=r"a: nemotron_joint\.bin differ from what was written; regenerate"):
        Bundle.open(folder, check="hashes")
    with (folder / "nemotron_decoder.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"a: nemotron_decoder\.bin differ"):
        Bundle.open(folder, check="sizes")


def test_a_file_is_read_once_until_it_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tiny_bundle(tmp_path / "a")
    read: list[str] = []

    def counted(path: Path) -> dict[str, Any]:
        read.append(path.name)
        return file_facts(path)

    monkeypatch.setattr(bundle, "file_facts", counted)
    opened.check_hashes()
    opened.check_hashes()
    assert sorted(read) == sorted(opened.metadata.files)
    (opened.path / "nemotron_joint.bin").write_bytes(b"other")
    with pytest.raises(UserError, match=r"nemotron_joint\.bin"):
        opened.check_hashes()
