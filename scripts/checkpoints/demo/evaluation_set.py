"""The embedded evaluation and calibration sets: speech of one split each, as FLAC files with a NeMo manifest.

Run it as ``python -m scripts.checkpoints.demo.evaluation_set``, which writes both, or call
:func:`build_evaluation_set` and :func:`build_calibration_set`.
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
from scripts.checkpoints.demo.corpus import LANGUAGES, Language, Sentence, Split, draw_sentence, generator, joined_text
from scripts.checkpoints.demo.speech import SAMPLE_RATE, Audio, degrade, draw_delivery, join, synthesize

MANIFEST_NAME = "manifest.jsonl"
CALIBRATION_NAME = "calibration.jsonl"
MIN_SECONDS, MAX_SECONDS = 1.0, 24.5
NOISY_SHARE = 0.15
MIN_SNR_DB = 25.0
TRAILING_SILENCE_S = 0.8  # so that a model without lookahead can finish its last words


@dataclass(frozen=True)
class Plan:
    """What a set holds of each language."""

    split: Split
    singles: int  # recordings of one sentence
    joined: tuple[tuple[float, float], ...]  # recordings of several: the shortest and longest each may be, in seconds


EVALUATION = Plan(Split.EVALUATION, 30, ((4.0, 12.0), (4.0, 12.0), (20.2, MAX_SECONDS)))
CALIBRATION = Plan(Split.DEVELOPMENT, 3, ((6.0, 11.0), (6.0, 11.0)))  # long enough to fill a cache of 56 frames


@dataclass(frozen=True)
class Recording:
    """One recording before it is written."""

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
    return _build(EVALUATION, directory / MANIFEST_NAME, "audio", generator(f"evaluation-{seed}"))


def build_calibration_set(directory: Path, seed: int = 1) -> Path:
    """Write ``calibration/*.flac`` and their manifest below `directory`: sentences and voices of the development split.

    The same seed gives the same files with the same version of the synthesizer.
    """
    return _build(CALIBRATION, directory / CALIBRATION_NAME, "calibration", generator(f"calibration-{seed}"))


def _build(plan: Plan, manifest: Path, folder: str, rng: random.Random) -> Path:
    if manifest.exists():
        raise UserError(f"{manifest}: exists already: choose another directory or remove it")
    recordings = [recording for language in LANGUAGES for recording in _recordings(plan, language, rng)]
    (manifest.parent / folder).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, recording in enumerate(recordings):
        name = f"{folder}/{number:03d}-{recording.language.tag}.flac"
        soundfile.write(manifest.parent / name, recording.audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
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


def _recordings(plan: Plan, language: Language, rng: random.Random) -> list[Recording]:
    """All recordings of one language; no sentence occurs in two of them."""
    seen: set[str] = set()
    recordings = [_single(plan.split, language, seen, rng) for _ in range(plan.singles)]
    return recordings + [_joined(plan.split, language, seen, rng, *seconds) for seconds in plan.joined]


def _single(split: Split, language: Language, seen: set[str], rng: random.Random) -> Recording:
    while True:
        recording = _record(split, language, [_unseen_sentence(split, language, seen, rng)], rng)
        if MIN_SECONDS <= recording.seconds <= MAX_SECONDS:
            return recording


def _joined(
    split: Split, language: Language, seen: set[str], rng: random.Random, shortest: float, longest: float
) -> Recording:
    """Sentences of one voice, one after another, for `shortest` to `longest` seconds in all."""
    while True:
        known = set(seen)
        sentences = [_unseen_sentence(split, language, seen, rng, max_words=14) for _ in range(2)]
        recording = _record(split, language, sentences, rng)
        while recording.seconds < shortest:
            sentences.append(_unseen_sentence(split, language, seen, rng, max_words=14))
            recording = _record(split, language, sentences, rng)
        if recording.seconds <= longest:
            return recording
        seen.clear()
        seen.update(known)


def _unseen_sentence(
    split: Split, language: Language, seen: set[str], rng: random.Random, max_words: int = 25
) -> Sentence:
    while True:
        sentence = draw_sentence(language, split, rng, max_words=max_words)
        if sentence.text not in seen:
            seen.add(sentence.text)
            return sentence


def _record(split: Split, language: Language, sentences: list[Sentence], rng: random.Random) -> Recording:
    delivery = draw_delivery(split, rng)
    speech, _ = join([synthesize(sentence.spoken, language, delivery) for sentence in sentences], rng)
    loud = np.flatnonzero(speech)
    tail = np.zeros(int(TRAILING_SILENCE_S * SAMPLE_RATE), np.float32)
    audio = degrade(np.concatenate([speech[: loud[-1] + 1], tail]), rng, NOISY_SHARE, MIN_SNR_DB)
    return Recording(audio, joined_text(language, sentences, tags=False), language, delivery.variant)


def main(
    directory: Annotated[Path, typer.Argument(help="Where `audio/`, `calibration/` and the manifests go.")],
    seed: Annotated[int, typer.Option(help="Another seed gives other sets.")] = 1,
) -> None:
    """Write the evaluation set of the demo checkpoint and the set that recipes are calibrated with."""
    typer.echo(build_evaluation_set(directory, seed))
    typer.echo(build_calibration_set(directory, seed))


if __name__ == "__main__":
    typer.run(main)
