"""A recording's transcript as words with their times and languages, and as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from export.bundle import Bundle
from verify.runtimes.streaming import Word
from verify.runtimes.streaming.words import group_words
from verify.runtimes.transcript import Transcript

PAUSE_SECONDS = 2.0
"""Silence that ends a sentence, whatever its last word is."""

_SENTENCE_ENDS = tuple(".?!…。？！｡।؟۔။។")
_CLOSING = "\"'”’»)]」』）"


@dataclass(frozen=True, slots=True)
class SpokenWord(Word):
    """A word and the language of the sentence that it is in; None where the model emitted no tag."""

    language: str | None = None


@dataclass(frozen=True)
class RecordingTranscript:
    """One recording's transcript.

    Attributes:
        audio: the path as it was given.
        transcript: tokens, text and times in the graphs.
        words: of the transcript.
        seconds: that the transcription took, decoding included.
        partial: whether Ctrl-C came before its end; live audio on standard input ends so.
    """

    audio: str
    transcript: Transcript
    words: list[SpokenWord]
    seconds: float
    partial: bool = False


@dataclass(frozen=True)
class Sentence:
    """Words in a row of one language."""

    words: list[SpokenWord]

    @property
    def start(self) -> float:
        """Of its first word, in seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """Of its last word, in seconds."""
        return self.words[-1].end

    @property
    def language(self) -> str | None:
        """Of its words."""
        return self.words[0].language

    @property
    def text(self) -> str:
        """As it is written."""
        return joined(self.words)


def joined(words: Sequence[Word]) -> str:
    """Words as text, with a space where one was recognized."""
    return "".join(" " * word.spaced + word.text for word in words).strip()


def words_of(bundle: Bundle, tokens: Sequence[int], frames: Sequence[int]) -> list[SpokenWord]:
    """The words that tokens make, each with its language.

    A language tag comes after the sentence that it names. Words after the last tag have that tag's language.

    Args:
        bundle: the folder that emitted them.
        tokens: language tags included.
        frames: the encoder frame of each.
    """
    vocabulary, tags = bundle.vocabulary, frozenset(bundle.metadata.lang_tag_token_ids)
    seconds = bundle.metadata.subsampling_factor / 100
    words: list[SpokenWord] = []
    since: list[tuple[int, int]] = []  # the tokens after the last tag
    language, space = None, False

    def close(language: str | None) -> bool:
        """Add the words of the tokens since the last tag; whether a space without a word ends them."""
        found, _ = group_words(since, lambda token: vocabulary[token] if token < len(vocabulary) else "", seconds)
        begun = False
        for word in found:
            if word.text:
                spaced = word.spaced or (space and not begun)
                words.append(SpokenWord(word.text, word.start, word.end, spaced, language))
                begun = True
        return bool(found) and not found[-1].text

    for token, frame in zip(tokens, frames, strict=True):
        if token in tags:
            language = vocabulary[token].strip("<>")
            space = close(language)
            since = []
        else:
            since.append((token, frame))
    close(language)
    ended = [replace(word, end=min(word.end, following.start)) for word, following in pairwise(words)]
    return [*ended, *words[-1:]]


def sentences(
    words: Sequence[SpokenWord], fits: Callable[[list[SpokenWord]], bool] | None = None
) -> Iterator[Sentence]:
    """Words grouped by what ends a sentence: its punctuation, a pause, another language; the last may go on.

    Args:
        words: in order.
        fits: whether so many words may be one; a word that does not fit begins another. None sets no limit.
    """
    group: list[SpokenWord] = []
    for word in words:
        if group and (_ends(group[-1], word) or (fits and not fits([*group, word]))):
            yield Sentence(group)
            group = []
        group.append(word)
    if group:
        yield Sentence(group)


def _ends(word: SpokenWord, following: SpokenWord) -> bool:
    """Whether a sentence ends between two words."""
    stops = word.text.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
    return stops or word.language != following.language or following.start - word.end > PAUSE_SECONDS
