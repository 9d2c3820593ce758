"""The demo checkpoint's sentences, voices and recordings."""

import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.errors import UserError
from scripts.checkpoints.demo import speech
from scripts.checkpoints.demo.corpus import (
    LANGUAGES,
    MAX_WORDS,
    MIN_WORDS,
    Language,
    Split,
    draw_sentence,
    expand,
    generator,
    joined_text,
    load_rules,
    split_of,
    vocabulary,
)
from scripts.checkpoints.demo.evaluation_set import build_evaluation_set

by_language = pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.tag)
JAPANESE = LANGUAGES[-1]


@by_language
def test_grammars_have_enough_words(language: Language) -> None:
    assert len(vocabulary(language.tag)) >= 150


@by_language
def test_every_rule_is_defined_and_used(language: Language) -> None:
    rules = load_rules(language.tag)
    text = " ".join(itertools.chain.from_iterable(rules.values()))
    assert all(f"{{{name}}}" in text for name in rules if name != "sentence")
    rng = generator("every rule")
    for name in rules:
        assert "{" not in expand(rules, name, rng)


@by_language
def test_sentences_have_case_punctuation_and_length(language: Language) -> None:
    rng = generator("sentences")
    for _ in range(200):
        sentence = draw_sentence(language, Split.TRAIN, rng)
        assert MIN_WORDS <= sentence.words <= MAX_WORDS
        assert sentence.text[-1] in ".?。"
        if language.by_characters:
            assert " " not in sentence.text
            assert sentence.spoken.replace(" ", "") == sentence.text
        else:
            assert next(letter for letter in sentence.text if letter.isalpha()).isupper()
            assert "  " not in sentence.text


@by_language
def test_parts_share_no_sentence(language: Language) -> None:
    rng = generator("parts")
    parts = {split: {draw_sentence(language, split, rng).text for _ in range(300)} for split in Split}
    for split, texts in parts.items():
        assert {split_of(text) for text in texts} == {split}
    for one, other in itertools.combinations(parts.values(), 2):
        assert one.isdisjoint(other)


def test_split_ignores_case_and_punctuation() -> None:
    assert split_of("The lamp was broken.") == split_of("the lamp, was broken?")


def test_parts_share_no_voice() -> None:
    for one, other in itertools.combinations(speech.VARIANTS.values(), 2):
        assert set(one).isdisjoint(other)
    assert len(speech.VARIANTS[Split.TRAIN]) >= 10
    assert len(speech.VARIANTS[Split.EVALUATION]) >= 4


def test_tags_follow_each_sentence() -> None:
    rng = generator("tags")
    for language, between in ((LANGUAGES[0], " "), (JAPANESE, "")):
        sentences = [draw_sentence(language, Split.TRAIN, rng) for _ in range(2)]
        tagged = joined_text(language, sentences, tags=True)
        assert tagged == between.join(sentence.text + language.piece for sentence in sentences)
        assert joined_text(language, sentences, tags=False) == tagged.replace(language.piece, "")


@pytest.mark.parametrize("variant", speech.VARIANTS[Split.EVALUATION])
def test_synthesizer_has_the_voices(variant: str) -> None:
    delivery = speech.Delivery(variant, words_per_minute=170, pitch=50, resample=1.0)
    audio = speech.synthesize("Good morning.", LANGUAGES[0], delivery)
    assert audio.dtype == np.float32
    assert 0.4 < audio.size / speech.SAMPLE_RATE < 3.0
    assert 0.05 < np.abs(audio).max() < 1.1  # levels are set, and clipped, by degrade()


def test_join_says_where_the_sentences_are() -> None:
    rng = generator("join")
    parts = [np.full(size, 0.5, np.float32) for size in (700, 900, 1100)]
    audio, segments = speech.join(parts, rng)
    for part, segment in zip(parts, segments, strict=True):
        np.testing.assert_array_equal(audio[segment.start : segment.end], part)
    assert np.count_nonzero(audio) == sum(part.size for part in parts)


def test_degraded_audio_stays_within_one() -> None:
    tone = np.sin(np.arange(16_000) / 10).astype(np.float32)
    for number in range(20):
        audio = speech.degrade(tone, generator(f"level {number}"))
        assert audio.dtype == np.float32
        assert 0.01 < np.abs(audio).max() <= 1.0


def test_missing_synthesizer_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "SYNTHESIZER", "no-such-program")
    with pytest.raises(UserError, match=r"no-such-program: not found.*apt-get install"):
        speech.require_synthesizer()


def test_silent_synthesizer_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], returncode=1, stdout=b"", stderr=b"no such voice")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match="no such voice"):
        speech.synthesize("Hello.", LANGUAGES[0], speech.draw_delivery(Split.TRAIN, generator("voice")))


def test_evaluation_set_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(UserError, match="exists already"):
        build_evaluation_set(tmp_path)
