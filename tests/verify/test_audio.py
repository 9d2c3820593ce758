"""Recordings as tools and accidents leave them: joined, piped, stopped, cut, cancelled; never less without a word."""

from __future__ import annotations

import mmap
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from export.errors import UserError
from tests.helpers.tiny_bundle import speech
from verify.data import containers
from verify.data.audio import audio_blocks, audio_seconds, load_audio
from verify.data.manifest import Utterance, load_utterance

RATE = 16_000
LOSSY = {"mp3": 0.1, "ogg": 0.1}
"""Greatest error of a sample in these formats; none in the others."""


def write(path: Path, signal: NDArray[np.float32], **options: str) -> Path:
    with soundfile.SoundFile(path, "w", RATE, signal.ndim if signal.ndim == 1 else signal.shape[1], **options) as file:
        for first in range(0, len(signal), RATE):
            file.write(signal[first : first + RATE])
    return path


def quiet(seconds: float, seed: int) -> NDArray[np.float32]:
    """Sound that lossy codecs keep: a few tones."""
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    signal: NDArray[np.float32] = sum(0.1 * np.sin(2 * np.pi * hertz * time) for hertz in rng.uniform(200, 2000, 4))
    return signal.astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_containers_in_a_row_are_all_read(tmp_path: Path, suffix: str) -> None:
    signals = [quiet(seconds, seed) for seed, seconds in enumerate((1.2, 0.7, 2.3))]
    files = [write(tmp_path / f"{index}.{suffix}", signal) for index, signal in enumerate(signals)]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(file.read_bytes() for file in files))
    apart = np.concatenate([load_audio(file, RATE) for file in files])
    read = load_audio(joined, RATE)
    np.testing.assert_allclose(read, apart, atol=1e-6)
    assert audio_seconds(joined) == pytest.approx(4.2, abs=0.01)
    whole = np.concatenate(signals)
    assert len(read) == len(whole)
    assert np.abs(read - whole).mean() < LOSSY.get(suffix, 1e-4)
    part = load_utterance(Utterance(audio_filepath=joined, offset=1.0, duration=1.5), RATE)
    np.testing.assert_allclose(part, read[RATE : int(2.5 * RATE)], atol=1e-6)


@pytest.mark.parametrize("sizes", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_the_wav_of_a_killed_recorder_is_read_to_its_end(tmp_path: Path, sizes: int) -> None:
    whole = write(tmp_path / "whole.wav", speech(2.0))
    data = bytearray(whole.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", sizes)
    assert data[36:40] == b"data"
    (tmp_path / "killed.wav").write_bytes(data)
    np.testing.assert_array_equal(load_audio(tmp_path / "killed.wav", RATE), load_audio(whole, RATE))


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.flac", speech(2.0))
    data = bytearray(whole.read_bytes())
    data[21] &= 0xF0  # the upper 4 of STREAMINFO's 36 bits of total samples
    data[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(data)
    np.testing.assert_array_equal(load_audio(tmp_path / "piped.flac", RATE), load_audio(whole, RATE))
    assert audio_seconds(tmp_path / "piped.flac") == 2.0
    part = load_utterance(Utterance(audio_filepath=tmp_path / "piped.flac", offset=0.5, duration=1.0), RATE)
    np.testing.assert_array_equal(part, load_audio(whole, RATE)[RATE // 2 : 3 * RATE // 2])


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_half_a_file_is_reported(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = write(tmp_path / f"whole.{suffix}", quiet(20.0, 0))
    load_audio(whole, RATE)
    assert "missing" not in capfd.readouterr().err
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    try:
        read = load_audio(half, RATE)
    except UserError as error:
        assert f"{half}: is damaged" in str(error)  # noqa: PT017
        return
    assert 5.0 < len(read) / RATE < 15.0
    warning = capfd.readouterr().err
    assert str(half) in warning
    assert "is missing" in warning


def test_a_flipped_phase_is_no_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    signal = speech(1.0)
    opposite = write(tmp_path / "opposite.wav", np.stack([signal, -signal], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(load_audio(opposite, RATE), signal, atol=1e-6)
    assert "channels cancel each other" in capfd.readouterr().err
    np.testing.assert_allclose(load_audio(opposite, RATE, channel=2), -signal, atol=1e-6)
    with pytest.raises(UserError, match=r"--channel 3: .*opposite\.wav has 2"):
        load_audio(opposite, RATE, channel=3)


def test_what_libsndfile_cannot_read_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for name, data in {"a.raw": b"\1\2" * 999, "a.m4a": b"\0\0\0\x20ftypM4A " + bytes(99)}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=r"cannot be read as audio .*or install FFmpeg") as caught:
            load_audio(tmp_path / name, RATE)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_a_part_is_what_the_whole_holds_there(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(5)
    loudness = np.repeat(generator.uniform(0, 1, 120 * 25), 640)
    file = tmp_path / f"whole.{kind}"
    soundfile.write(file, (0.1 * generator.standard_normal(len(loudness)) * loudness).astype(np.float32), RATE)
    whole = load_audio(file, RATE)
    for offset in generator.uniform(0.0, 118.0, 40):
        part = load_audio(file, RATE, offset=offset, seconds=0.5)
        np.testing.assert_allclose(part, whole[int(offset * RATE) :][: RATE // 2], rtol=0, atol=0)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FFmpeg is not installed")
def test_ffmpeg_reads_the_rest(tmp_path: Path) -> None:
    import subprocess

    whole = write(tmp_path / "whole.wav", quiet(2.0, 1))
    subprocess.run(["ffmpeg", "-v", "error", "-i", whole, "-c:a", "aac", tmp_path / "a b.m4a"], check=True)
    assert len(load_audio(tmp_path / "a b.m4a", RATE)) == pytest.approx(2 * RATE, abs=2048)


def test_a_long_recording_is_never_whole_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    signal = np.zeros((48_000 * 240, 2), np.float32)
    signal[::100] = 0.5
    soundfile.write(tmp_path / "long.flac", signal, 48_000)
    del signal
    tracemalloc.start()
    seconds = sum(len(block) for block in audio_blocks(tmp_path / "long.flac", RATE)) / RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds == pytest.approx(240, abs=0.01)
    assert peak < 48_000 * 240 * 2 * 4 / 5


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux only")
@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_looking_for_parts_keeps_no_pages(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file's pages would count as memory; the parts are found across windows all the same."""
    one = write(tmp_path / f"one.{suffix}", quiet(60.0, 0)).read_bytes()
    path = tmp_path / f"long.{suffix}"
    path.write_bytes(one * 4)
    whole = [part.first for part in containers.parts(path)]
    assert whole == [0, len(one), 2 * len(one), 3 * len(one)]
    resident: list[int] = []

    def watched(data: mmap.mmap) -> None:
        let_go(data)
        resident.append(resident_bytes(path))

    let_go = containers._let_go
    monkeypatch.setattr(containers, "_WINDOW", len(one) // 3)
    monkeypatch.setattr(containers, "_let_go", watched)
    assert [part.first for part in containers.parts(path)] == whole
    assert len(resident) > 8
    assert max(resident) == 0


def resident_bytes(path: Path) -> int:
    """Of the mappings of a file in this process."""
    of_file = Path("/proc/self/smaps").read_text().split(f" {path}\n")[1:]  # what follows each mapping's first line
    return sum(int(lines.partition("\nRss:")[2].split(maxsplit=1)[0]) * 1024 for lines in of_file)
