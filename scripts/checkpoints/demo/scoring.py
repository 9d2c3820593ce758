"""Error rates and language accuracy of a model on recordings, decoded offline with one lookahead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jiwer
import torch

from scripts.checkpoints.demo.corpus import LANGUAGES, Language, Split, draw_sentence, generator
from scripts.checkpoints.demo.features import FrontEnd, Mel
from scripts.checkpoints.demo.model import AUTO_PROMPT_ID, LEFT_CONTEXT
from scripts.checkpoints.demo.speech import degrade, draw_delivery, join, synthesize

_TAG = re.compile(r"<[a-z]{2}-[A-Z]{2}>")


@dataclass(frozen=True)
class Utterance:
    """A held-out recording with its transcript."""

    mel: Mel  # [frames, 128]
    text: str
    language: Language


def development_set(seed: int, per_language: int = 8) -> list[Utterance]:
    """Unseen sentences in unseen voices, other ones than the evaluation set's."""
    rng = generator(f"development-{seed}")
    front_end = FrontEnd()
    utterances = []
    for language in LANGUAGES:
        for _ in range(per_language):
            sentence = draw_sentence(language, Split.DEVELOPMENT, rng)
            speech = synthesize(sentence.spoken, language, draw_delivery(Split.DEVELOPMENT, rng))
            signal, _ = join([speech], rng)
            utterances.append(Utterance(front_end(degrade(signal, rng)[None])[0], sentence.text, language))
    return utterances


def error_rate(language: Language, references: list[str], hypotheses: list[str]) -> float:
    """WER, or CER for a language scored by characters, in per cent; case and punctuation count."""
    if language.by_characters:
        return 100.0 * float(jiwer.cer(references, hypotheses))
    return 100.0 * float(jiwer.wer(references, hypotheses))


def decode(model: Any, utterances: list[Utterance], lookahead: int, *, auto: bool) -> list[tuple[str, str]]:
    """Text without tags and the last tag emitted ("" if none), per utterance."""
    model.eval()
    model.encoder.set_default_att_context_size([LEFT_CONTEXT, lookahead])
    lengths = torch.tensor([utterance.mel.shape[0] for utterance in utterances])
    mels = torch.zeros(len(utterances), int(lengths.max()), utterances[0].mel.shape[1])
    for row, utterance in zip(mels, utterances, strict=True):
        row[: utterance.mel.shape[0]] = torch.from_numpy(utterance.mel)
    prompts = torch.tensor([AUTO_PROMPT_ID if auto else utterance.language.prompt_id for utterance in utterances])
    with torch.inference_mode():
        encoded, frames = model.forward(
            processed_signal=mels.transpose(1, 2), processed_signal_length=lengths, prompt_indices=prompts
        )
        hypotheses = model.decoding.rnnt_decoder_predictions_tensor(
            encoder_output=encoded, encoded_lengths=frames, return_hypotheses=False
        )
    texts = [hypothesis if isinstance(hypothesis, str) else hypothesis.text for hypothesis in hypotheses]
    return [(" ".join(_TAG.sub(" ", text).split()), (_TAG.findall(text) or [""])[-1]) for text in texts]


def score(utterances: list[Utterance], decoded: list[tuple[str, str]]) -> dict[str, float]:
    """Error rate per language and the share of utterances with the right language tag, both in per cent."""
    result = {}
    for language in LANGUAGES:
        pairs = [
            (utterance.text, text)
            for utterance, (text, _) in zip(utterances, decoded, strict=True)
            if utterance.language == language
        ]
        result[language.tag] = error_rate(language, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    right = [utterance.language.piece == tag for utterance, (_, tag) in zip(utterances, decoded, strict=True)]
    result["language"] = 100.0 * sum(right) / len(right)
    return result
