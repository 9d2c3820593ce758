"""The embedded evaluation set: unseen sentences in unseen voices, as FLAC files and a NeMo manifest.

Run it as ``python -m scripts.demo_checkpoint.evaluation_set`` or call :func:`build_evaluation_set`.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer

from export.errors import UserError
from scripts.demo_checkpoint.corpus import LANGUAGES, Language, Sentence, Split, draw_sentence, generator, joined_text
from scripts.demo_checkpoint.speech import SAMPLE_RATE, Audio, degrade, draw_delivery, join, synthesize

MANIFEST_NAME = "manifest.jsonl"
SINGLE_PER_LANGUAGE = 30
JOINED_PER_LANGUAGE = 2  # of two or three sentences
LONG_PER_LANGUAGE = 1  # longer than LONG_SECONDS
LONG_SECONDS, MAX_SECONDS, MIN_SECONDS = 20.2, 24.5, 1.0
NOISY_SHARE = 0.15
MIN_SNR_DB = 25.0
TRAILING_SILENCE_S = 0.8  # so that a model without lookahead can finish its last words


@dataclass(frozen=True)
class Recording:
    """One evaluation recording before it is written."""

    audio: Audio
    text: str
    language: Language
    voice: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.audio.size / SAMPLE_RATE


def build_evaluation_set(directory: Path, seed: int = 1) -> Path:
    """Write ``audio/*.flac`` and the manifest below `directory`; returns the manifest's path.

    The same seed gives the same files with the same version of the synthesizer.
    """
    manifest = directory / MANIFEST_NAME
    if manifest.exists():
        raise UserError(f"{manifest}: exists already: choose another directory or remove it")
    rng = generator(f"evaluation-{seed}")
    recordings = [recording for language in LANGUAGES for recording in _recordings(language, rng)]
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, recording in enumerate(recordings):
        name = f"audio/{number:03d}-{recording.language.tag}.flac"
        soundfile.write(directory / name, recording.audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        entry = {
            "audio_filepath": name,
            "duration": round(recording.seconds, 4),
            "text": recording.text,
            "target_lang": recording.language.tag,
            "voice": recording.voice,
        }
        lines.append(json.dumps(entry, ensure_ascii=False))
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def _recordings(language: Language, rng: random.Random) -> list[Recording]:
    """All recordings of one language; no sentence occurs in two of them."""
    seen: set[str] = set()
    recordings = [_single(language, seen, rng) for _ in range(SINGLE_PER_LANGUAGE)]
    recordings += [_joined(language, seen, rng, 4.0, 12.0) for _ in range(JOINED_PER_LANGUAGE)]
    recordings += [_joined(language, seen, rng, LONG_SECONDS, MAX_SECONDS) for _ in range(LONG_PER_LANGUAGE)]
    return recordings


def _single(language: Language, seen: set[str], rng: random.Random) -> Recording:
    while True:
        recording = _record(language, [_unseen_sentence(language, seen, rng)], rng)
        if MIN_SECONDS <= recording.seconds <= MAX_SECONDS:
            return recording


def _joined(language: Language, seen: set[str], rng: random.Random, shortest: float, longest: float) -> Recording:
    """Sentences of one voice, one after another, for `shortest` to `longest` seconds in all."""
    while True:
        known = set(seen)
        sentences = [_unseen_sentence(language, seen, rng, max_words=14) for _ in range(2)]
        recording = _record(language, sentences, rng)
        while recording.seconds < shortest:
            sentences.append(_unseen_sentence(language, seen, rng, max_words=14))
            recording = _record(language, sentences, rng)
        if recording.seconds <= longest:
            return recording
        seen.clear()
        seen.update(known)


def _unseen_sentence(language: Language, seen: set[str], rng: random.Random, max_words: int = 25) -> Sentence:
    while True:
        sentence = draw_sentence(language, Split.EVALUATION, rng, max_words=max_words)
        if sentence.text not in seen:
            seen.add(sentence.text)
            return sentence


def _record(language: Language, sentences: list[Sentence], rng: random.Random) -> Recording:
    delivery = draw_delivery(Split.EVALUATION, rng)
    speech, _ = join([synthesize(sentence.spoken, language, delivery) for sentence in sentences], rng)
    loud = np.flatnonzero(speech)
    tail = np.zeros(int(TRAILING_SILENCE_S * SAMPLE_RATE), np.float32)
    audio = degrade(np.concatenate([speech[: loud[-1] + 1], tail]), rng, NOISY_SHARE, MIN_SNR_DB)
    return Recording(audio, joined_text(language, sentences, tags=False), language, delivery.variant)


def main(
    directory: Annotated[Path, typer.Argument(help="Where `audio/` and the manifest go.")],
    seed: Annotated[int, typer.Option(help="Another seed gives another set.")] = 1,
) -> None:
    """Write the evaluation set of the demo checkpoint."""
    typer.echo(build_evaluation_set(directory, seed))


if __name__ == "__main__":
    typer.run(main)
