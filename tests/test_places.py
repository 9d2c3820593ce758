"""Where the toolkit has to work: without Linux's own modules, without locks, with a cache that is half there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from export.bundle import BUNDLE
from export.checkpoint.hub import resolve_checkpoint
from export.errors import UserError
from export.folders import new_directory
from export.removal import TEMPORARY, clear_leftovers
from scripts.claim import claimed_folder
from tests.helpers.tiny_bundle import speech, tiny_bundle

ROOT = Path(__file__).resolve().parents[1]

WITHOUT = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix_ipc", "syslog")
"""Modules of Python that Windows does not have."""


@pytest.mark.parametrize("verb", ["inspect", "transcribe", "verify"])
def test_folders_are_used_without_linuxs_own_modules(tmp_path: Path, verb: str) -> None:
    folder, audio = tiny_bundle(tmp_path / "a").path, tmp_path / "a.wav"
    soundfile.write(audio, speech(1.0), 16000)
    (tmp_path / "m.jsonl").write_text(f'{{"audio_filepath": "{audio}", "text": "a", "target_lang": "en-US"}}\n')
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {WITHOUT!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"for name in {WITHOUT!r}: sys.modules.pop(name, None)\n"
        "from scripts.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    rest = {
        "inspect": [],
        "transcribe": [audio, "--language", "en-US"],
        "verify": ["--reference", tiny_bundle(tmp_path / "b", seed=2).path, "--manifest", tmp_path / "m.jsonl"],
    }[verb]
    done = subprocess.run(
        [sys.executable, "-c", block, verb, str(folder), *map(str, rest)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == (1 if verb == "verify" else 0), done.stderr  # the other folder has other weights
    assert "Traceback" not in done.stderr


def refuse(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_file_system_without_locks_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", refuse)
    with new_directory(tmp_path / "out", kind=BUNDLE) as temporary:
        (temporary / "metadata.json").write_text("{}")
    assert (tmp_path / "out" / "metadata.json").is_file()
    assert f"{tmp_path}: its file system knows no locks" in capfd.readouterr().err
    leftover = tmp_path / f".out.abcdefgh{TEMPORARY}"
    leftover.mkdir()
    clear_leftovers(tmp_path)
    assert leftover.is_dir(), "a living run may hold it"
    with claimed_folder(tmp_path / "claimed", "sweep", "--output"):
        pass
    assert "its file system knows no locks; start no second sweep here" in capfd.readouterr().err


def cached(home: Path, *, link: bool) -> Path:
    """A Hub cache whose download was stopped: a snapshot without the checkpoint, or with a link to nothing."""
    repository = home / "hub" / "models--someone--asr"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc.incomplete").write_bytes(bytes(10))
    if link:
        (snapshot / "model.nemo").symlink_to(repository / "blobs" / "abc")
    return repository


@pytest.mark.parametrize("link", [False, True], ids=["nothing", "link"])
def test_a_partly_filled_hub_cache_is_one_line_offline(tmp_path: Path, link: bool) -> None:
    cached(tmp_path, link=link)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", "export", "someone/asr", str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2, done.stderr
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("error:"))
    assert "download" in line
    assert "never finished" in line
    assert "embedded" not in line


def test_no_such_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        resolve_checkpoint(str(tmp_path / "absent.nemo"))
