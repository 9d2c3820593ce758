"""A recording of which many parts are read is read once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from export.errors import UserError
from tests.helpers.command import ROOT
from verify.data import sources
from verify.data.audio import audio_seconds, load_audio

RATE, SECONDS = 16000, 20


def stereo(path: Path) -> Path:
    soundfile.write(path, np.random.default_rng(1).uniform(-0.3, 0.3, (RATE * SECONDS, 2)).astype(np.float32), RATE)
    return path


def mono(path: Path, seed: int = 1) -> Path:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.3, 0.3, RATE * SECONDS).astype(np.float32), RATE)
    return path


def joined(path: Path) -> Path:
    """Two containers in one file."""
    path.write_bytes(mono(path.with_name("1.flac")).read_bytes() + mono(path.with_name("2.flac"), 2).read_bytes())
    return path


def by_ffmpeg(path: Path) -> Path:
    if shutil.which("ffmpeg") is None:
        pytest.skip("FFmpeg is not installed")
    codec = "aac" if path.suffix == ".m4a" else "libopus"
    command = ["ffmpeg", "-v", "error", "-i", str(mono(path.with_suffix(".wav"))), "-c:a", codec, str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How many frames every read of a recording gave; those of copies do not count."""
    counted: list[int] = []
    read = sources._SoundFile.read

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        block = read(self, *args, **options)
        if not os.fsdecode(str(self.name)).endswith(".w64'") and not str(self.name).endswith(".w64"):
            counted.append(len(block))
        return block

    monkeypatch.setattr(sources._SoundFile, "read", counting)
    return counted


@pytest.mark.parametrize(
    ("make", "name", "most"),
    [
        (mono, "a.wav", 1),
        (stereo, "a.flac", 2),  # once for its mix, once for the parts
        (mono, "a.mp3", 2),  # up to the first part, then into the copy
        (joined, "joined.flac", 3),  # twice as long
        (by_ffmpeg, "a.m4a", 0),
        (by_ffmpeg, "a.webm", 0),
    ],
)
def test_parts_are_those_of_the_whole_and_read_once(
    tmp_path: Path, make: Callable[[Path], Path], name: str, most: int, frames: list[int]
) -> None:
    path = make(tmp_path / name)
    rate = 48000 if path.suffix == ".webm" else RATE  # Opus'; at another one, a part is resampled as a part
    whole = load_audio(path, rate)
    assert audio_seconds(path) == pytest.approx(len(whole) / rate, abs=0.1)
    frames.clear()
    sources._header.cache_clear()
    for offset in np.arange(0.0, SECONDS, 0.5):
        part = load_audio(path, rate, offset=offset, seconds=0.5)
        np.testing.assert_array_equal(part, whole[int(offset * rate) :][: rate // 2])
    assert sum(frames) <= most * RATE * SECONDS


def test_a_recording_that_changed_is_read_again(tmp_path: Path) -> None:
    path = mono(tmp_path / "a.mp3")
    before = [load_audio(path, RATE, offset=offset, seconds=1.0) for offset in (1.0, 2.0, 2.0)]
    np.testing.assert_array_equal(before[1], before[2])
    mono(path, seed=9)
    after = load_audio(path, RATE, offset=2.0, seconds=1.0)
    assert np.abs(after - before[2]).max() > 0.1
    np.testing.assert_array_equal(after, load_audio(path, RATE)[2 * RATE : 3 * RATE])


def test_copies_are_bounded_and_go_with_the_process(tmp_path: Path) -> None:
    paths = [str(mono(tmp_path / f"{name}.mp3", seed=index)) for index, name in enumerate("abc")]
    (tmp_path / "tmp").mkdir()
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from verify.data import sources\nfrom verify.data.audio import load_audio\n"
        f"sources.COPIES = {3 * RATE * SECONDS * 2}\n"
        "for path in sys.argv[1:]:\n"
        "    for offset in (1.0, 2.0): load_audio(Path(path), 16000, offset=offset, seconds=1.0)\n"
        "print(len(list(Path(sources.tempfile.gettempdir()).rglob('*.w64'))))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", code, *paths]
    assert subprocess.check_output(command, env=environment, cwd=ROOT, text=True) == "1\n"
    assert not list((tmp_path / "tmp").iterdir())


def test_a_small_tmpdir_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mono(tmp_path / "a.mp3")

    def full(self: Any, data: Any) -> None:
        raise AssertionError  # as soundfile does where the disk takes less

    load_audio(path, RATE, offset=1.0, seconds=1.0)
    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(UserError, match=r"has no room for 1 MB of .*a\.mp3.*set TMPDIR"):
        load_audio(path, RATE, offset=2.0, seconds=1.0)


def test_a_copy_that_went_is_made_again_under_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread's copy alone is as large as all may be."""
    paths = [mono(tmp_path / f"{name}.mp3", seed=index) for index, name in enumerate("abcd")]
    wholes = [load_audio(path, RATE) for path in paths]
    monkeypatch.setattr(sources, "COPIES", 1)

    def parts(path: Path, whole: Any) -> bool:
        return all(
            np.array_equal(load_audio(path, RATE, offset=at, seconds=0.5), whole[int(at * RATE) :][: RATE // 2])
            for at in (1.0, 9.0, 4.5, 12.0, 2.0)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(parts, paths, wholes))


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    code = "import sys, pathlib, verify.data.sources as s; print(s.header_seconds(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "a.wav")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\n"
