"""Audio from a pipe: raw, or WAV whose header knows its length or not; never noise without a word."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from export.errors import UserError
from tests.helpers.tiny_bundle import speech
from verify.data.audio import load_audio
from verify.data.pcm import pcm_blocks

RATE = 16_000


class Trickle(io.BytesIO):
    """Gives few bytes at a time, as a pipe may; frames are torn."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 777))


def samples_of(data: bytes, **options: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.concatenate(list(pcm_blocks(Trickle(data), RATE, **options)))


def test_raw_samples_are_16_bit_mono() -> None:
    samples = np.arange(-3000, 3000, dtype="<i2")
    np.testing.assert_allclose(samples_of(samples.tobytes() + b"\1"), samples / 32768, atol=1e-9)
    assert len(samples_of(samples.tobytes(), rate=8000)) == pytest.approx(12_000, abs=2)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_a_wav_stream_says_its_form(tmp_path: Path, subtype: str, form: str) -> None:
    stereo = np.stack([speech(0.5, 1), speech(0.5, 2)], axis=1).clip(-1, 1)
    path = tmp_path / "a.wav"
    soundfile.write(path, stereo, 22_050, subtype, format=form)
    np.testing.assert_allclose(samples_of(path.read_bytes()), load_audio(path, RATE), atol=1e-6)
    np.testing.assert_allclose(samples_of(path.read_bytes(), channel=2), load_audio(path, RATE, channel=2), atol=1e-6)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_header_that_does_not_know_its_length(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", speech(0.5), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = struct.pack("<I", size)
    assert len(samples_of(bytes(data))) == RATE // 2


def test_what_follows_the_samples_is_not_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", speech(0.5), RATE)
    data = (tmp_path / "a.wav").read_bytes()
    assert len(samples_of(data + b"LIST\4\0\0\0abcd")) == RATE // 2
    assert len(samples_of(data[:-8000])) == RATE // 2 - 4000
    assert "standard input: 50 % of what its header promises is missing" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no audio came"),
        (b"\0", "no audio came"),
        (b"fLaC\0\0\0\x22", "holds FLAC; pipe it through `ffmpeg"),
        (b"OggS\0", "holds Ogg"),
        (b"RIFF\0\0\0\0AVI ", "that is no WAV"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "header is damaged"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8), "format 7 with 8 bits"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 0, 8000, 8000, 1, 16), "format 1 with 16 bits"),
    ],
)
def test_what_is_no_audio_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        samples_of(data)


def test_options_that_the_header_contradicts(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(0.1), RATE)
    data = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(UserError, match="--rate 8000: the WAV header on standard input says 16000"):
        samples_of(data, rate=8000)
    with pytest.raises(UserError, match="--channel 2: standard input has 1"):
        samples_of(data, channel=2)
    with pytest.raises(UserError, match="--channel 2: standard input has 1"):
        samples_of(bytes(100), channel=2)
