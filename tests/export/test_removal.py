"""What may be deleted: only what this toolkit wrote, where the user asked, and never what a living run writes."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from export.bundle import BUNDLE, METADATA, Bundle
from export.checkpoint import Checkpoint, nemo, open_checkpoint
from export.checkpoint.weights import read_weights
from export.errors import UserError
from export.folders import new_directory, write_atomically
from export.removal import (
    TEMPORARY,
    check_removable,
    clear_leftovers,
    remove_files,
    remove_folder,
    set_aside,
    settle,
)
from tests.helpers.command import ROOT, assert_user_error, run_here

GRAPH = "nemotron_encoder.xml"


def folder(path: Path, text: str = "old") -> Path:
    """A folder that looks like an export."""
    path.mkdir(parents=True)
    (path / GRAPH).write_text(text)
    (path / METADATA).write_text("{}")
    return path


def writer(target: Path, then: str) -> subprocess.Popen[str]:
    """A process that is writing a folder, with its claim."""
    code = (
        "import time\nfrom pathlib import Path\nfrom export.bundle import BUNDLE\n"
        "from export.folders import new_directory\nimport export.folders as folders\n"
        f"with new_directory(Path({str(target)!r}), kind=BUNDLE, force=True) as temporary:\n"
        f"    (temporary / {GRAPH!r}).write_text('new')\n    {then}\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def slow_rename(seconds: float) -> str:
    """What :func:`writer` does then: after its first rename it says so and waits."""
    return (
        "rename = Path.rename\n"
        "    def slow(self, to):\n"
        "        rename(self, to)\n"
        "        print('ready', flush=True)\n"
        f"        time.sleep({seconds})\n"
        "    Path.rename = slow"
    )


def test_what_a_killed_run_left_is_cleared_by_the_next_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "fp32"
    process = writer(target, "print('ready', flush=True); time.sleep(600)")
    try:
        (half,) = tmp_path.iterdir()
        assert half.name.endswith(TEMPORARY)
        clear_leftovers(tmp_path)
        assert half.exists(), "its writer lives"
    finally:
        process.kill()
        process.wait()
    assert half.exists(), "nobody could clear it"
    clear_leftovers(tmp_path, "int8")
    assert half.exists(), "it is another target's"
    with new_directory(target, kind=BUNDLE) as temporary:
        (temporary / GRAPH).write_text("new")
        assert not half.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


def test_a_file_that_a_killed_run_left_half_written_is_cleared_by_the_next(tmp_path: Path) -> None:
    half, other = (tmp_path / f".{name}.json.abcdefgh{TEMPORARY}" for name in ("run", "another"))
    half.write_text("{")
    other.write_text("{")
    write_atomically(tmp_path / "run.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", other.name}


def test_a_forked_child_that_outlives_its_writer_holds_nothing(tmp_path: Path) -> None:
    """A library may fork in the middle of a stage, as NNCF's telemetry did."""
    forked = "process = __import__('os').fork()\n    if not process: print('ready', flush=True)\n    time.sleep(600)"
    process = writer(tmp_path / "fp32", forked)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    try:
        assert Path(f"/proc/{child}").exists()
        clear_leftovers(tmp_path)
        assert not list(tmp_path.iterdir())
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    """The process stops where the old folder is set aside and the new one has not its name yet."""
    target = folder(tmp_path / "fp32")
    process = writer(target, slow_rename(600))
    process.kill()
    process.wait()
    assert not target.exists()
    assert set_aside(target).exists()
    with pytest.raises(UserError, match="already exists"), new_directory(target, kind=BUNDLE):
        pytest.fail("the old folder is back, and no --force was given")
    assert (target / GRAPH).read_text() == "old"
    assert not set_aside(target).exists()
    with new_directory(target, kind=BUNDLE, force=True) as temporary:
        (temporary / GRAPH).write_text("new")
    assert (target / GRAPH).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


def test_two_that_replace_one_folder_do_so_in_turn(tmp_path: Path) -> None:
    """The other comes while the first has set the old folder aside: it neither brings it back nor fails."""
    target = folder(tmp_path / "fp32")
    process = writer(target, slow_rename(1.5))
    assert not target.exists()
    with new_directory(target, kind=BUNDLE, force=True) as temporary:
        assert (target / GRAPH).read_text() == "new", "the first was waited for"
        (temporary / GRAPH).write_text("newer")
    process.communicate()
    assert process.returncode == 0
    assert (target / GRAPH).read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


@pytest.mark.parametrize("maker", ["mkdtemp", "mkstemp"])
def test_what_another_run_cleared_before_it_was_locked_is_made_again(
    tmp_path: Path, maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = getattr(tempfile, maker), []

    def and_another_clears(*args: Any, **options: Any) -> Any:
        made.append(real(*args, **options))
        if len(made) == 1:
            clear_leftovers(tmp_path)
        return made[-1]

    monkeypatch.setattr(tempfile, maker, and_another_clears)
    if maker == "mkdtemp":
        with new_directory(tmp_path / "fp32", kind=BUNDLE) as temporary:
            (temporary / GRAPH).write_text("new")
    else:
        write_atomically(tmp_path / "fp32", "new")
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


def test_what_was_replaced_before_a_kill_goes_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    target = folder(tmp_path / "fp32", "new")
    folder(set_aside(target))
    settle(target, BUNDLE)
    assert not set_aside(target).exists()
    (folder(set_aside(target)) / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.txt"):
        settle(target, BUNDLE)
    assert (set_aside(target) / "thesis.txt").read_text() == "mine"
    assert (target / GRAPH).read_text() == "new"


def test_neighbours_of_the_user_stay(tmp_path: Path) -> None:
    """Names that earlier versions took for their own."""
    target = folder(tmp_path / "fp32")
    for name in (".fp32.old", ".fp32.abcdefgh.tmp", ".notes.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    (tmp_path / ".secret.tmp").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    with new_directory(target, kind=BUNDLE, force=True) as temporary:
        (temporary / GRAPH).write_text("new")
    clear_leftovers(tmp_path)
    write_atomically(tmp_path / "fp32" / METADATA, "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_links_are_not_followed(tmp_path: Path) -> None:
    victim = folder(tmp_path / "victim")
    out = tmp_path / "out"
    out.mkdir()
    (out / "fp32").symlink_to(victim)
    (out / f".fp32.abcdefgh{TEMPORARY}").symlink_to(victim)
    clear_leftovers(out)
    with pytest.raises(UserError, match="is a link"):
        remove_folder(out / "fp32", BUNDLE, out)
    for elsewhere in (victim, out / ".." / "victim"):
        with pytest.raises(UserError, match="lies outside"):
            check_removable(elsewhere, BUNDLE, out)
    remove_files(out / "fp32", re.compile(".*"))
    assert (victim / GRAPH).read_text() == "old"


def test_a_folder_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    folder(tmp_path / "big" / "fp32")
    (tmp_path / "fp32").symlink_to(tmp_path / "big" / "fp32")
    with new_directory(tmp_path / "fp32", kind=BUNDLE, force=True) as temporary:
        (temporary / GRAPH).write_text("new")
    assert (tmp_path / "fp32").is_symlink()
    assert (tmp_path / "big" / "fp32" / GRAPH).read_text() == "new"


def test_only_the_named_files_go(tmp_path: Path) -> None:
    for name in ("fp32.json", "notes.json", "int8.json"):
        (tmp_path / "reports" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "reports" / name).write_text("{}")
    remove_files(tmp_path / "reports", {"fp32.json", "int8.json"})
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["notes.json"]
    remove_files(tmp_path / "reports", {"notes.json"})
    assert not (tmp_path / "reports").exists()
    remove_files(tmp_path / "reports", {"notes.json"})


def test_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def synced(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)

    def renamed(self: Path, to: Path) -> Path:
        order.append("rename")
        return rename(self, to)

    def replaced(self: Path, to: Path) -> Path:
        order.append("replace")
        return replace(self, to)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    with new_directory(tmp_path / "fp32", kind=BUNDLE) as temporary:
        (temporary / GRAPH).write_text("new")
    assert order.index(GRAPH) < order.index("rename")
    assert temporary.name in order[: order.index("rename")]
    assert order[order.index("rename") + 1] == tmp_path.name
    order.clear()
    write_atomically(tmp_path / "report.json", "{}")
    assert [name.startswith(".report.json.") for name in order] == [True, False]
    assert order[1] == "replace"


def test_nothing_else_in_the_product_removes(tmp_path: Path) -> None:
    """Removing is ``export.removal``'s; code that removes a file of its own is named here."""
    allowed = {
        "export/removal.py",
        "scripts/sweep/rows.py",  # its own picture
        "scripts/sweep/layers.py",  # its own results
        "verify/data/sources.py",  # its own copies in a scratch folder
        "verify/collect.py",  # the drawing's own scratch files
        "scripts/checkpoints/demo/features.py",  # training, not in the wheel
        "scripts/checkpoints/demo/train.py",
    }
    found = set()
    for room in ("export", "quantize", "verify", "scripts"):
        for file in (ROOT / room).rglob("*.py"):
            if re.search(r"rmtree|\.unlink\(|os\.remove|\.rmdir\(", file.read_text(encoding="utf-8")):
                found.add(file.relative_to(ROOT).as_posix())
    assert found == allowed


def test_a_disk_that_fills_up_during_an_export_is_one_line(
    small_disk: Path, demo_checkpoint: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run_here(capfd, "export", demo_checkpoint.path, small_disk / "fp32")
    assert_user_error(done, small_disk / "fp32", "MB are needed", "MB are free", "make room")
    assert not any(small_disk.iterdir()), "nothing half-written stays"


def test_a_disk_that_fills_up_during_quantize_is_one_line(
    small_disk: Path, demo_fp32: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run_here(capfd, "quantize", demo_fp32.path, small_disk / "fp16", "--recipe", "fp16")
    assert_user_error(done, small_disk / "fp16", "MB are needed", "MB are free", "make room")
    assert not any(small_disk.iterdir())


def test_a_full_tmpdir_is_named(
    small_disk: Path,
    demo_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "packed.nemo").write_bytes(gzip.compress(demo_checkpoint.path.read_bytes(), 1))  # is unpacked there
    monkeypatch.setattr(tempfile, "tempdir", None)  # is found anew
    monkeypatch.setenv("TMPDIR", str(small_disk))
    done = run_here(capfd, "export", tmp_path / "packed.nemo", tmp_path / "fp32")
    assert_user_error(done, small_disk, "set TMPDIR")
    assert "download" not in done.stderr
    assert not (tmp_path / "fp32").exists()


def test_a_tmpdir_that_fills_up_meanwhile_is_named(
    small_disk: Path, demo_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is needed and what was there, which is not what a half-unpacked file leaves."""
    (tmp_path / "packed.nemo").write_bytes(gzip.compress(demo_checkpoint.path.read_bytes(), 1))
    checkpoint, usage = open_checkpoint(tmp_path / "packed.nemo"), shutil.disk_usage
    room = [usage(small_disk)._replace(free=1 << 40)]
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room.pop() if room else usage(path))
    with pytest.raises(UserError, match=r"disk: packed\.nemo is unpacked there, which takes .* MB, and 3\.\d MB are"):
        read_weights(checkpoint)
    assert not room
    assert not any(small_disk.iterdir()), "nothing half-unpacked stays"
    (small_disk / "full").write_bytes(bytes(usage(small_disk).free))
    match = r"disk: packed\.nemo is unpacked there, which takes .* MB, and 0\.0 MB are free"
    with pytest.raises(UserError, match=match), nemo._tokenizer(checkpoint):
        pass
