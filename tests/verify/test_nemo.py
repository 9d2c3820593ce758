"""NeMo's own streaming as a reference: its API, its greedy decoding, and what folders are measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from export.checkpoint import Checkpoint
from tests.helpers.tiny_bundle import speech
from verify.references.nemo import NemoStreaming
from verify.runtimes.transcript import MAX_SYMBOLS

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel


def plain_greedy(model: EncDecRNNTBPEModel, encoded: np.ndarray) -> tuple[list[int], list[int]]:
    """The textbook loop on the encoder's output, [frames, dim]: tokens and their frames."""
    import torch

    blank = model.joint.num_classes_with_blank - 1
    state, last, tokens, frames = None, None, [], []
    with torch.inference_mode():
        for frame, vector in enumerate(torch.from_numpy(encoded)):
            for _ in range(MAX_SYMBOLS):
                label: torch.Tensor | None = None if last is None else torch.tensor([[last]])
                predicted, moved = model.decoder.predict(label, state, add_sos=False, batch_size=1)
                best = int(model.joint.joint(vector[None, None], predicted).argmax())
                if best == blank:
                    break
                last, state = best, moved
                tokens.append(best)
                frames.append(frame)
    return tokens, frames


@pytest.mark.parametrize("lookahead", [0, 13])
def test_tokens_are_plain_greedy_on_what_the_encoder_gave(
    small_nemo: Any, small_checkpoint: Checkpoint, lookahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = NemoStreaming(small_checkpoint, lookahead, small_nemo)
    seen: list[np.ndarray] = []
    prompted = type(small_nemo)._apply_prompt_to_encoded

    def spy(self: EncDecRNNTBPEModel, encoded: object) -> object:
        result = prompted(self, encoded)
        seen.append(result[0].numpy().T.copy())
        return result

    monkeypatch.setattr(type(small_nemo), "_apply_prompt_to_encoded", spy)
    result = reference.transcribe(speech(3.0), "auto")
    assert len(seen) == result.timings.encoder_calls == len(result.timings.steps)
    assert (result.tokens, result.frames) == plain_greedy(small_nemo, np.concatenate(seen))
    assert result.tokens


def test_nothing_leaks_from_one_utterance_to_the_next(small_nemo: Any, small_checkpoint: Checkpoint) -> None:
    reference = NemoStreaming(small_checkpoint, 13, small_nemo)
    before = reference.transcribe(speech(2.0), "auto")
    reference.transcribe(speech(0.5, seed=4), "en-US")
    assert reference.transcribe(speech(2.0), "auto").tokens == before.tokens


def test_the_prompt_is_chosen_by_the_clients_rule(small_nemo: Any, small_checkpoint: Checkpoint) -> None:
    reference = NemoStreaming(small_checkpoint, 13, small_nemo)
    prompts = small_checkpoint.prompts
    assert prompts
    for language, row in {"en-US": prompts["en-US"], "xx-YY": small_checkpoint.default_prompt_id}.items():
        reference.transcribe(speech(0.3), language)
        assert small_nemo._inference_prompt_index == row


def test_steps_are_nemos_own_unless_a_chunk_is_given(small_nemo: Any, small_checkpoint: Checkpoint) -> None:
    # 3 s are 301 mel frames: first 1 + 8 (c - 1) of them, then 8 c a step.
    audio = speech(3.0)
    steps = {
        chunk: NemoStreaming(small_checkpoint, 3, small_nemo, chunk_frames=chunk)
        .transcribe(audio)
        .timings.encoder_calls
        for chunk in (None, 4, 12)
    }
    assert steps == {None: 10, 4: 10, 12: 4}


def test_the_english_sibling_needs_no_prompt(small_english_checkpoint: Checkpoint) -> None:
    result = NemoStreaming(small_english_checkpoint, 0).transcribe(speech(0.5), "de-DE")
    assert result.timings.encoder_calls > 1


def test_short_audio_is_no_error(small_nemo: Any, small_checkpoint: Checkpoint) -> None:
    for samples in (1, 160, 200, 1000):
        result = NemoStreaming(small_checkpoint, 13, small_nemo).transcribe(np.zeros(samples, np.float32))
        assert result.audio_seconds == samples / 16000
        assert len(result.tokens) == len(result.frames)
