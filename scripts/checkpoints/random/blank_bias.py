"""Set the blank bias of a random model so that greedy decoding emits a realistic number of tokens.

Speech at 80 ms a frame carries about a quarter token a frame. The rate is measured by decoding the embedded demo
utterances with the model itself, prediction network feedback included, and holds on the average over them: random
weights answer to one utterance with bursts and to the next with silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from export.languages import DEFAULT_LANGUAGE
from verify.data.manifest import default_manifest, load_utterance, read_manifest

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from numpy.typing import NDArray

TOKENS_PER_FRAME = 0.25
"""Tokens that greedy decoding shall emit per encoder frame."""

_SECONDS = 4.0  # of every clip
_CLIPS = 40  # every one decoded from its start
_LANES = 12  # biases decoded side by side
_PASSES = 4
_FEEDBACK = 0.3  # deviation of the prediction network's part; with more, one token can set off or silence all others


def clips(sample_rate: int) -> NDArray[np.float32]:
    """Beginnings of demo utterances, evenly spread over the set, zero-padded to one length; shape [C, samples]."""
    utterances = read_manifest(default_manifest())
    chosen = utterances[:: max(1, len(utterances) // _CLIPS)][:_CLIPS]
    samples = int(_SECONDS * sample_rate)
    audio = np.zeros((len(chosen), samples), np.float32)
    for row, utterance in zip(audio, chosen, strict=True):
        beginning = load_utterance(utterance, sample_rate)[:samples]
        row[: len(beginning)] = beginning
    return audio


def calibrate_blank(model: EncDecRNNTBPEModel, seed: int) -> float:
    """Make the joint sensitive to its inputs and set its blank bias; returns the tokens per frame that it then emits.

    With untouched random weights every frame looks alike to the joint, so that it emits at all of them or at none.
    Its two projections are therefore scaled to unit variance, over frames and over tokens. Many biases are then
    decoded side by side: over the whole range, then between the neighbours of the best, and so on.

    Args:
        model: in evaluation mode; only the joint changes.
        seed: of the tokens that the prediction network is scaled on.
    """
    import torch

    with torch.inference_mode():
        encoded = encode(model, clips(int(model.cfg.sample_rate)))  # [C, T, D]
        _standardize(model.joint.enc, encoded.flatten(0, 1))
        _standardize(model.joint.pred, _random_predictions(model, seed), _FEEDBACK)
        frames = model.joint.project_encoder(encoded)  # [C, T, H]
        last = model.joint.joint_net[-1]
        last.bias[-1] = 0.0
        margins = _margins(model, frames.flatten(0, 1), _predict(model, None, None)[0])
        biases = torch.linspace(float(margins.min()), float(margins.max()) + 0.1, _LANES)
        found: dict[float, float] = {}  # bias to rate, which jumps: a later pass may miss what an earlier one met
        with _one_thread():
            for _ in range(_PASSES):
                found |= zip(biases.tolist(), tokens_per_frame(model, frames, biases).tolist(), strict=True)
                chosen = min(found, key=lambda bias: abs(found[bias] - TOKENS_PER_FRAME))
                step = float(biases[1] - biases[0])
                biases = torch.linspace(chosen - step, chosen + step, _LANES)
        last.bias[-1] = chosen
    return found[chosen]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small operations lose more by waiting for threads than they win."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def encode(model: EncDecRNNTBPEModel, audio: NDArray[np.float32]) -> torch.Tensor:
    """Encoder output [C, T, D] of ``audio`` [C, samples] at the smallest lookahead, with the default prompt if any."""
    import torch

    signal = torch.from_numpy(audio)
    sizes = model.encoder.att_context_size_all
    model.encoder.set_default_att_context_size(min(sizes, key=lambda size: int(size[1])))
    mel, length = model.preprocessor(input_signal=signal, length=torch.full((len(audio),), audio.shape[1]))
    encoded, _ = model.encoder(audio_signal=mel, length=length)  # [C, D, T]
    model.encoder.set_default_att_context_size(sizes[0])
    if "prompt_dictionary" in model.cfg.model_defaults:
        model.set_inference_prompt(DEFAULT_LANGUAGE)
        encoded = model._apply_prompt_to_encoded(encoded)
    result: torch.Tensor = encoded.transpose(1, 2)
    return result


def _random_predictions(model: EncDecRNNTBPEModel, seed: int) -> torch.Tensor:
    """Prediction network output over random tokens; shape [64, H]."""
    import torch

    pieces = int(model.joint.num_classes_with_blank) - 1
    tokens = torch.randint(pieces, (1, 64), generator=torch.Generator().manual_seed(seed))
    output, _ = model.decoder.predict(tokens, None, add_sos=False, batch_size=1)  # [1, 64, H]
    result: torch.Tensor = output[0]
    return result


def _standardize(projection: torch.nn.Linear, inputs: torch.Tensor, deviation: float = 1.0) -> None:
    """Shift and scale a layer so that its outputs for ``inputs`` [N, D] have zero mean and this deviation over N."""
    outputs = projection(inputs)
    mean = outputs.mean(0)
    scale = (outputs - mean).std() / deviation
    projection.weight.div_(scale)
    projection.bias.sub_(mean).div_(scale)


def _predict(
    model: EncDecRNNTBPEModel, tokens: torch.Tensor | None, state: list[torch.Tensor] | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Projected prediction [N, 1, H] and next state for ``tokens`` [N], or the start of a stream without any."""
    labels = None if tokens is None else tokens[:, None]
    batch = 1 if tokens is None else len(tokens)
    output, state = model.decoder.predict(labels, state, add_sos=False, batch_size=batch)
    return model.joint.project_prednet(output), state


def _logits(model: EncDecRNNTBPEModel, frames: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Joint output [N, V + 1], blank last, for frames [N, H] and predictions [N, 1, H]."""
    logits: torch.Tensor = model.joint.joint_net((frames[:, None] + predicted)[:, 0])
    return logits


def _margins(model: EncDecRNNTBPEModel, frames: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """How far the best piece lies above blank in each frame at the start of a stream; shape [T]."""
    logits = _logits(model, frames, predicted.expand(len(frames), -1, -1))
    return logits[:, :-1].amax(1) - logits[:, -1]


def tokens_per_frame(model: EncDecRNNTBPEModel, frames: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """Tokens per frame of ``frames`` [C, T, H] at each blank bias [N]; a bias far above the target stops early."""
    import torch

    limit = int(model.cfg.decoding.greedy.max_symbols)
    streams, steps, _ = frames.shape
    lanes = len(biases) * streams
    bias = biases.repeat_interleave(streams)
    counts = torch.zeros(lanes)
    predicted, state = _predict(model, None, None)
    predicted = predicted.repeat(lanes, 1, 1)
    state = [part.repeat(1, lanes, 1) for part in state]
    for step in range(steps):
        frame = frames[:, step].repeat(len(biases), 1)
        too_many = counts.view(-1, streams).mean(1) > 4 * TOKENS_PER_FRAME * steps
        emits = ~too_many.repeat_interleave(streams)
        for _ in range(limit):
            active = emits.nonzero()[:, 0]
            logits = _logits(model, frame[active], predicted[active])
            value, token = logits[:, :-1].max(1)
            emitted = value > logits[:, -1] + bias[active]
            emits = torch.zeros_like(emits)
            emits[active] = emitted
            if not emitted.any():
                break
            active = active[emitted]
            update, inner = _predict(model, token[emitted], [part[:, active].contiguous() for part in state])
            predicted[active] = update
            for part, new in zip(state, inner, strict=True):
                part[:, active] = new
            counts[active] += 1
    return counts.view(-1, streams).mean(1) / steps
