"""Words with languages, sentences, and the forms in which programs read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.bundle import Bundle
from scripts.transcribe.formats import ctm, ctm_names, jsonl, srt, vtt
from scripts.transcribe.sentences import RecordingTranscript, SpokenWord, joined, sentences, words_of
from tests.helpers.tiny_bundle import PIECES, tiny_metadata, transcript
from verify.runtimes.transcript import detokenize


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(Bundle, "vocabulary", list(PIECES))
    return Bundle(Path("tiny"), tiny_metadata())


def spoken(bundle: Bundle, *pieces: str) -> list[SpokenWord]:
    tokens = [PIECES.index(piece) for piece in pieces]
    words = words_of(bundle, tokens, list(range(len(tokens))))
    assert joined(words) == detokenize(tokens, PIECES, [1, 2])[0]
    return words


def test_a_tag_names_the_language_of_what_comes_before_it(bundle: Bundle) -> None:
    words = spoken(bundle, "▁a", "b", "<en-US>", "▁c", "<de-DE>", "▁a")
    assert [(word.text, word.language) for word in words] == [("ab", "en-US"), ("c", "de-DE"), ("a", "de-DE")]
    assert [each.text for each in sentences(words)] == ["ab", "c a"]
    assert [word.language for word in spoken(bundle, "▁a", "b")] == [None]


def test_a_space_before_a_tag_is_not_lost(bundle: Bundle) -> None:
    assert joined(spoken(bundle, "▁a", "▁", "<en-US>", "b")) == "a b"


def test_words_end_where_the_next_begins_across_a_tag(bundle: Bundle) -> None:
    first, second = words_of(bundle, [PIECES.index(piece) for piece in ("▁a", "<en-US>", "▁c")], [3, 3, 3])
    assert (first.end, second.start) == (0.24, 0.24)


WORDS = [
    SpokenWord("Hello", 0.0, 0.4, True, "en-US"),
    SpokenWord("<b>.", 0.5, 0.9, True, "en-US"),
    SpokenWord("Ja", 3661.0, 3661.08, True, "de-DE"),
    *(SpokenWord("Donaudampfschiff", 3662 + place, 3662.5 + place, True, "de-DE") for place in range(9)),
]
TRANSCRIPT = RecordingTranscript("a b.wav", transcript([1, 2], "Hello <b>. Ja", "en-US"), WORDS, 0.25)


def test_subtitles_fit_a_screen() -> None:
    cues = [cue.split("\n") for cue in srt(TRANSCRIPT).strip().split("\n\n")]
    assert cues[0] == ["1", "00:00:00,000 --> 00:00:01,000", "Hello <b>."]
    assert cues[1][1] == "01:01:01,000 --> 01:01:05,500"
    assert [cue[0] for cue in cues] == ["1", "2", "3", "4"]
    assert all(len(line) <= 42 for cue in cues for line in cue[2:])
    assert all(len(cue[2:]) <= 2 for cue in cues)
    assert " ".join(line for cue in cues for line in cue[2:]) == joined(WORDS)


def test_webvtt_escapes_and_names_languages() -> None:
    text = vtt(TRANSCRIPT)
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n<lang en-US>Hello &lt;b&gt;.</lang>\n\n")
    assert "<lang de-DE>Ja" in text


def test_ctm_has_five_columns() -> None:
    assert ctm(TRANSCRIPT, "a_b", 2).splitlines()[:2] == ["a_b 2 0.000 0.400 Hello", "a_b 2 0.500 0.400 <b>."]
    assert ctm_names(["x/a b.wav", "y/c.wav", "z/c.wav", "-"]) == ["a_b", "y/c.wav", "z/c.wav", "stdin"]


def test_json_lines_are_what_other_scorers_read() -> None:
    row = json.loads(jsonl(TRANSCRIPT))
    assert list(row) == ["audio_filepath", "duration", "time", "text", "pred_text", "language", "words"]
    assert (row["text"], row["pred_text"], row["duration"], row["time"]) == (None, "Hello <b>. Ja", 2.0, 0.25)
    assert row["words"][0] == {"word": "Hello", "start": 0.0, "end": 0.4, "language": "en-US"}
