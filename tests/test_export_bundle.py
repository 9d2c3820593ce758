"""The folder format: written whole or not at all, and checked when opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.bundle import Bundle, file_facts, new_directory
from export.errors import UserError


def test_new_directory_appears_only_when_the_body_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "fp32"
    with new_directory(target) as temporary:
        (temporary / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


def test_failure_leaves_nothing_behind_and_the_old_folder_alone(tmp_path: Path) -> None:
    target = tmp_path / "fp32"
    target.mkdir()
    (target / "old").write_text("old")

    def fail() -> None:
        with new_directory(target, force=True) as temporary:
            (temporary / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["fp32", "old"]


def test_existing_folder_needs_force(tmp_path: Path) -> None:
    (tmp_path / "fp32").mkdir()
    (tmp_path / "fp32" / "old").write_text("old")
    with pytest.raises(UserError, match="already exists; add --force"), new_directory(tmp_path / "fp32"):
        pytest.fail("the body must not run")
    with new_directory(tmp_path / "fp32", force=True) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in (tmp_path / "fp32").iterdir()] == ["new"]


def test_a_file_in_the_way_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "fp32").write_text("mine")
    with pytest.raises(UserError, match="is a file"), new_directory(tmp_path / "fp32", force=True):
        pytest.fail("the body must not run")
    assert (tmp_path / "fp32").read_text() == "mine"


def test_open_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no metadata\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="not usable"):
        Bundle.open(tmp_path)


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
