"""Audio files and manifests, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from export.errors import UserError
from verify.audio import load_audio
from verify.manifest import read_manifest


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_audio_of_any_format_and_rate_is_the_same_signal(tmp_path: Path, suffix: str, rate: int) -> None:
    file = tmp_path / f"tone.{suffix}"
    soundfile.write(file, tone(1.0, rate), rate)
    audio = load_audio(file, 16000)
    assert audio.dtype == np.float32
    assert abs(len(audio) - 16000) <= 1
    middle = slice(2000, 14000)
    assert np.abs(audio[: len(audio)][middle] - tone(1.0, 16000)[middle]).max() < (0.1 if suffix == "ogg" else 0.01)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.1, 16000), tone(0.1, 16000, 1000.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "stereo.wav", 16000), (left + right) / 2, atol=1e-6)


def test_unusable_audio_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "nothing.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), 16000, subtype="FLOAT")
    for name, reason in {
        "missing.wav": "no such audio file",
        "text.wav": "cannot be read as audio",
        "nothing.wav": "cannot be read as audio",
        "empty.wav": "no samples",
        "nan.wav": "not finite",
        "": "no such audio file",
    }.items():
        with pytest.raises(UserError, match=reason) as caught:
            load_audio(tmp_path / name, 16000)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def write_manifest(folder: Path, *lines: str) -> Path:
    soundfile.write(folder / "a.wav", tone(0.1, 16000), 16000)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines), encoding="utf-8")
    return manifest


GOOD = json.dumps({"audio_filepath": "a.wav", "duration": 0.1, "text": "eins", "target_lang": "de-DE", "speaker": 7})


def test_manifest_paths_are_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_manifest(
        tmp_path, GOOD, "", json.dumps({"audio_filepath": str(tmp_path / "a.wav"), "text": "\u2028"})
    )
    monkeypatch.chdir("/")
    first, second = read_manifest(manifest)
    assert first.audio_filepath == second.audio_filepath == (tmp_path / "a.wav").resolve()
    assert (first.text, first.target_lang, first.duration) == ("eins", "de-DE", 0.1)
    assert second.target_lang == "auto"
    assert first.model_dump()["speaker"] == 7


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSON"),
        ("[1]", "object"),
        ('{"text": "no audio"}', "audio_filepath: Field required"),
        ('{"audio_filepath": "a.wav"}', "text: Field required"),
        ('{"audio_filepath": "", "text": "x"}', "audio_filepath"),
        ('{"audio_filepath": "b.wav", "text": "x"}', "b.wav does not exist"),
        ('{"audio_filepath": "a.wav", "text": "x", "duration": -1}', "duration"),
        ('{"audio_filepath": "a.wav", "text": "x", "target_lang": 3}', "target_lang"),
    ],
)
def test_bad_manifest_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    manifest = write_manifest(tmp_path, GOOD, "", line)
    with pytest.raises(UserError, match=reason) as caught:
        read_manifest(manifest)
    assert f"{manifest}, line 3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unusable_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match="holds no utterances"):
        read_manifest(write_manifest(tmp_path, "", "  "))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_manifest(tmp_path / "binary.jsonl")
