"""Audio files and manifests, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from export.checkpoint import open_checkpoint
from export.errors import UserError
from tests.helpers.tiny_bundle import transcript
from verify.data.audio import load_audio
from verify.data.fleurs import cache_folder
from verify.data.identity import manifest_sha256
from verify.data.manifest import Utterance, load_utterance, read_manifest
from verify.data.sets import DataSet, choose_manifest
from verify.runtimes.transcript import Transcript
from verify.shards import transcribe_manifest


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
        ('{"audio_filepath": "a.wav", "text": "x", "offset": -1}', "offset"),
        ('{"audio_filepath": "a.wav", "text": "x", "offset": "later"}', "offset"),
        ('{"audio_filepath": "a.wav", "text": "x", "duration": NaN}', "duration"),
        ('{"audio_filepath": "a.wav", "text": "x", "offset": 0.1, "duration": 1e308}', "duration: .* 1000000000"),
        ('{"audio_filepath": "a\\u0000.wav", "text": "x"}', "audio_filepath: Value error, no name of a file"),
        ('{"audio_filepath": "~no-such-user/a.wav", "text": "x"}', "audio_filepath ~no-such-user/a.wav does not exist"),
    ],
)
def test_bad_manifest_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    manifest = write_manifest(tmp_path, GOOD, "", line)
    with pytest.raises(UserError, match=reason) as caught:
        read_manifest(manifest)
    assert f"{manifest}, line 3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_home_of_nobody_is_no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell leaves such a name as it is."""
    name = "~no-such-user/x"
    with pytest.raises(UserError, match=f"{name}: no such checkpoint; give"):
        open_checkpoint(name)
    with pytest.raises(UserError, match=f"--data {name}:en_us: no such folder; give"):
        choose_manifest(None, DataSet(f"{name}:en_us"), prompts=None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEMOTRON_OV_CACHE", name)
    assert cache_folder() == tmp_path / name


def test_text_may_be_missing_where_nothing_is_scored(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, '{"audio_filepath": "a.wav"}')
    assert [each.text for each in read_manifest(manifest, text=False)] == [""]
    with pytest.raises(UserError, match="line 1: text: Field required, transcripts are scored against it; write"):
        read_manifest(manifest)


def test_every_spelling_that_nemo_reads(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("eins\n")
    lines = [
        {"audio_filename": "a.wav", "normalized_text": "eins", "lang": "de-DE"},
        {"audio_filepath": "a.wav", "text_filepath": "one.txt", "target_lang": "de-DE", "lang": "de-DE"},
        {"audio_filepath": "a.wav", "text": "eins", "normalized_text": "zwei", "lang": "de-DE", "target_lang": None},
        {"audio_filepath": "a.wav", "text": None, "normalized_text": "eins", "target_lang": "de_de", "duration": None},
    ]
    manifest = write_manifest(tmp_path, *map(json.dumps, lines))
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes().replace(b"\n", b"\r\n"))
    for utterance in read_manifest(manifest, prompts={"auto": 0, "de-DE": 1}):
        assert (utterance.audio_filepath, utterance.text, utterance.target_lang) == (
            tmp_path / "a.wav",
            "eins",
            "de-DE",
        )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"text": None}, "text: Field required"),
        ({"text_filepath": "none.txt"}, "text_filepath none.txt cannot be read"),
        ({"text_filepath": "a\0.txt"}, "text_filepath a\0.txt cannot be read"),
        ({"text_filepath": "~no-such-user/a.txt"}, "text_filepath ~no-such-user/a.txt cannot be read"),
        ({"text": "x", "lang": "de", "target_lang": "en"}, "target_lang 'en' and lang 'de' differ"),
        ({"text": "x", "lang": "tlh"}, "target_lang: 'tlh' is no language of this model; .*de-DE"),
        ({"text": "x", "lang": 3}, "target_lang"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(tmp_path: Path, line: dict[str, object], reason: str) -> None:
    manifest = write_manifest(tmp_path, GOOD, json.dumps({"audio_filepath": "a.wav"} | line))
    with pytest.raises(UserError, match=f"manifest.jsonl, line 2: .*{reason}"):
        read_manifest(manifest, prompts={"auto": 0, "de-DE": 1})


# Parts of a file: two seconds at 8 kHz whose samples say where they are.


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "ramp.wav", np.arange(16_000, dtype=np.float32) / 16_000, 8000, subtype="FLOAT")
    return tmp_path / "ramp.wav"


@pytest.mark.parametrize(
    ("offset", "duration", "first", "last"),
    [
        (None, None, 0, 16_000),
        (0.0, 2.0, 0, 16_000),
        (0.0, 1.95, 0, 16_000),  # rounded, or padded by its codec
        (0.0, 1.5, 0, 12_000),
        (0.5, 1.0, 4000, 12_000),
        (0.5, None, 4000, 16_000),
        (0.5, 9.0, 4000, 16_000),
        (1.23456, 0.00019, 9876, 9877),  # counted as NeMo counts
    ],
)
def test_a_line_may_mean_a_part_of_its_file(
    ramp: Path, offset: float | None, duration: float | None, first: int, last: int
) -> None:
    line = {"audio_filepath": str(ramp), "text": "x", "offset": offset, "duration": duration}
    ramp.with_name("manifest.jsonl").write_text(json.dumps(line))
    (utterance,) = read_manifest(ramp.with_name("manifest.jsonl"))
    audio = load_utterance(utterance, 8000)
    np.testing.assert_array_equal(audio, (np.arange(first, last) / 16_000).astype(np.float32))
    assert (utterance.cut is None) == (last - first == 16_000)
    assert len(load_utterance(utterance, 16_000)) == pytest.approx(2 * (last - first), abs=2)


def test_parts_are_cut_as_nemo_cuts_them(ramp: Path) -> None:
    segment = pytest.importorskip("nemo.collections.asr.parts.preprocessing.segment")
    for offset, duration in ((0.1, 0.3), (1.1, 0.29), (1.23456, 0.5), (1.9, 0.5)):
        theirs = segment.AudioSegment.from_file(str(ramp), target_sr=8000, offset=offset, duration=duration).samples
        ours = load_utterance(Utterance(audio_filepath=ramp, offset=offset, duration=duration), 8000)
        np.testing.assert_array_equal(ours, theirs)


def test_a_part_behind_the_end_is_named(ramp: Path) -> None:
    for offset, duration in ((2.0, 1.0), (3.5, 0.0), (1.0, 1e-6)):
        with pytest.raises(UserError, match=rf"ramp\.wav: lasts 2\.00 s and holds nothing for offset {offset:g}"):
            load_utterance(Utterance(audio_filepath=ramp, offset=offset, duration=duration), 8000)


def test_transcribing_takes_the_part(ramp: Path) -> None:
    lengths: list[int] = []

    class Counter:
        def transcribe(self, audio: NDArray[np.float32], language: str = "auto") -> Transcript:
            lengths.append(len(audio))
            return transcript([], "", language)

    utterances = [Utterance(audio_filepath=ramp, offset=begin, duration=0.5) for begin in (0.0, 1.0, 1.75)]
    transcribe_manifest(Counter(), utterances, sample_rate=8000)
    assert lengths == [4000, 4000, 2000]


def test_the_manifests_identity_holds_parts_and_only_those(ramp: Path) -> None:
    """So that runs recorded before parts were known stay valid."""
    whole = Utterance(audio_filepath=ramp)
    assert manifest_sha256([whole]) == manifest_sha256([whole.model_copy(update={"duration": 2.0})])
    different = [(0.0, 0.0), (0.0, 1.0), (0.5, 1.0), (0.5, 1.25), (0.5, 0.0)]
    parts = [whole.model_copy(update={"offset": offset, "duration": duration}) for offset, duration in different]
    assert len({manifest_sha256([part]) for part in parts}) == len(parts)
    before, (samples, rate) = manifest_sha256(parts), soundfile.read(ramp)
    soundfile.write(ramp, -samples, rate)
    assert manifest_sha256(parts) != before, "other audio under the same name and of the same length"
    ramp.write_text("no audio")
    assert manifest_sha256(parts) not in (before, manifest_sha256(parts[:1])), (
        "left out, and told apart from what it was"
    )


def test_unusable_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match="holds no utterances"):
        read_manifest(write_manifest(tmp_path, "", "  "))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_manifest(tmp_path / "binary.jsonl")
