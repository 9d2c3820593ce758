"""Tiny seeded folders with the contract's ports, made from OpenVINO operations in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from export.bundle import Bundle, Metadata, graph_file, write_metadata, write_vocabulary
from verify.runtimes.transcript import Timings, Transcript

PIECES = ("<unk>", "<en-US>", "<de-DE>", "▁a", "b", "▁c", "d", "▁")
MEL, DIM, HIDDEN, LAYERS, LEAD, CHUNK, FRAMES = 4, 6, 5, 1, 1, 16, 2
HOP = 160
CHUNK_SAMPLES = CHUNK * HOP


def tiny_metadata(**changes: Any) -> Metadata:
    facts: dict[str, Any] = {
        "model": "tiny", "model_class": "EncDecRNNTBPEModelWithPrompt", "precision": "FP32", "sample_rate": 16000,
        "mel_features": MEL, "chunk_mel_frames": CHUNK, "pre_encode_cache": LEAD, "total_mel_frames": LEAD + CHUNK,
        "blank_idx": len(PIECES), "vocab_size": len(PIECES), "decoder_hidden": HIDDEN, "decoder_layers": LAYERS,
        "encoder_dim": DIM, "att_context_size": [4, 0], "cache_channel_shape": [1, 2, 3, DIM],
        "cache_time_shape": [1, 2, DIM, 2], "lang_tag_token_ids": [1, 2], "num_prompts": 4, "default_prompt_id": 3,
        "prompt_dictionary": {"en-US": 0, "de-DE": 1, "auto": 3}, "checkpoint": {"sha256": "c" * 64},
        "recipe": {"name": "fp32"},
    }  # fmt: skip
    return Metadata(**facts | changes)


def tiny_bundle(
    folder: Path, *, seed: int = 7, prompt: bool = True, token_type: Any = ov.Type.i32, mel_frames: int = CHUNK,
    encoder_gain: float = 1.0,
    blank_bias: float = 2.5,  **changes: Any,
) -> Bundle:  # fmt: skip
    """A folder whose four graphs do something that depends on every input; ``encoder_gain`` breaks the encoder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    if not prompt:
        changes |= {"num_prompts": None, "default_prompt_id": None, "prompt_dictionary": None}
    graphs = {
        "preprocessor": _preprocessor(rng, mel_frames),
        "encoder": _encoder(rng, prompt, encoder_gain),
        "decoder": _decoder(rng, token_type),
        "joint": _joint(rng, blank_bias),
    }
    for name, model in graphs.items():
        ov.save_model(model, folder / graph_file(name), compress_to_fp16=False)
    write_vocabulary(folder, PIECES)
    write_metadata(folder, tiny_metadata(**changes))
    return Bundle.open(folder)


def speech(seconds: float = 0.6, seed: int = 1) -> NDArray[np.float32]:
    """Noise whose level changes every 40 ms."""
    rng, samples = np.random.default_rng(seed), int(seconds * 16000)
    level = np.repeat(rng.uniform(0, 1, samples // 640 + 1), 640)[:samples]
    return (rng.normal(0, 0.4, samples) * level).astype(np.float32)


def speechlike(seconds: float, seed: int) -> NDArray[np.float32]:
    """Noise and tones in bursts, so that a random model emits varied tokens."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(16_000 * seconds)) / 16_000
    bursts = np.maximum(0.0, np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6)))
    sound = bursts * (0.2 * rng.standard_normal(len(time)) + 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * time))
    return sound.astype(np.float32)


def transcript(
    tokens: list[int], text: str, language: str | None = None, frames: list[int] | None = None
) -> Transcript:
    timings = Timings(wall=0.5, encoder=0.2, encoder_calls=4)
    return Transcript(tokens, frames or list(range(len(tokens))), text, language, 2.0, timings)


def _parameter(name: str, shape: list[int], kind: Any = ov.Type.f32) -> Any:
    node = op.parameter(shape, kind, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _model(name: str, inputs: list[Any], **outputs: Any) -> Any:
    results = []
    for output, node in outputs.items():
        named = node.output(0) if hasattr(node, "output") else node
        named.get_tensor().set_names({output})
        results.append(op.result(named))
    return ov.Model(results, inputs, name)


def _constant(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Any:
    return op.constant(rng.normal(0, scale, shape).astype(np.float32))


def _scalar(node: Any) -> Any:
    """A length input as a float of any shape, times zero: used, without effect."""
    return op.multiply(op.convert(node, ov.Type.f32), np.float32(0))


def _preprocessor(rng: np.random.Generator, frames: int) -> Any:
    """Energy of each hop in MEL seeded shades; ``frames`` may be one more than the audio has, as NeMo's."""
    audio, length = _parameter("audio", [1, -1]), _parameter("audio_length", [1], ov.Type.i32)
    hops = op.reshape(audio, np.array([1, 1, -1, HOP]), False)
    energy = op.reduce_mean(op.abs(hops), np.array([3]))  # [1, 1, frames]
    mel = op.multiply(op.subtract(energy, np.float32(0.16)), _constant(rng, 1, MEL, 1, scale=8.0))
    if frames > CHUNK:
        mel = op.concat([mel, op.constant(np.zeros((1, MEL, frames - CHUNK), np.float32))], 2)
    mel = op.add(mel, _scalar(length))
    return _model("preprocessor", [audio, length], mel=mel, mel_length=op.add(length, np.int32(0)))


def _encoder(rng: np.random.Generator, prompt: bool, gain: float) -> Any:
    """Means of 8 mel frames, projected, plus what the caches and the lead hold, plus the prompt."""
    mel, length = _parameter("mel", [1, MEL, LEAD + CHUNK]), _parameter("mel_length", [1], ov.Type.i32)
    channel, time = _parameter("cache_channel", [1, 2, 3, DIM]), _parameter("cache_time", [1, 2, DIM, 2])
    cache_len = _parameter("cache_len", [1], ov.Type.i32)
    inputs = [mel, length, channel, time, cache_len]
    lead, new = op.variadic_split(mel, 2, np.array([LEAD, CHUNK])).outputs()
    means = op.reduce_mean(op.reshape(new, np.array([1, MEL, FRAMES, 8]), False), np.array([3]))
    means = op.add(means, op.reduce_mean(lead, np.array([2]), True))  # [1, MEL, FRAMES]
    hidden = op.matmul(_constant(rng, DIM, MEL, scale=2.0 * gain), means, False, False)  # [1, DIM, FRAMES]
    warmth = op.reshape(op.reduce_mean(channel, np.array([1, 2])), np.array([1, DIM, 1]), False)
    hidden = op.add(hidden, warmth)
    hidden = op.add(hidden, op.reshape(op.reduce_mean(time, np.array([1, 3])), np.array([1, DIM, 1]), False))
    if prompt:
        row = _parameter("prompt_id", [1], ov.Type.i32)
        inputs.append(row)
        table = _constant(rng, 4, DIM)
        hidden = op.add(hidden, op.reshape(op.gather(table, row, np.int32(0)), np.array([1, DIM, 1]), False))
    encoded = op.tanh(hidden)
    last = op.reduce_mean(encoded, np.array([2]))  # [1, DIM]
    channel_out = op.add(op.multiply(channel, np.float32(-0.5)), op.reshape(last, np.array([1, 1, 1, DIM]), False))
    time_out = op.add(op.multiply(time, np.float32(-0.5)), op.reshape(last, np.array([1, 1, DIM, 1]), False))
    encoded = op.add(encoded, _scalar(length))
    return _model(
        "encoder", inputs, encoded=encoded, encoded_length=op.add(length, np.int32(FRAMES - LEAD - CHUNK)),
        cache_channel_out=channel_out, cache_time_out=time_out, cache_len_out=op.add(cache_len, np.int32(FRAMES)),
    )  # fmt: skip


def _decoder(rng: np.random.Generator, token_type: Any) -> Any:
    token, length = _parameter("token", [1, 1], token_type), _parameter("token_length", [1], ov.Type.i32)
    h, c = _parameter("h_in", [LAYERS, 1, HIDDEN]), _parameter("c_in", [LAYERS, 1, HIDDEN])
    embedded = op.reshape(
        op.gather(_constant(rng, len(PIECES) + 1, HIDDEN), token, np.int32(0)), np.array([1, 1, HIDDEN]), False
    )
    c_out = op.add(op.multiply(c, np.float32(0.5)), embedded)
    h_out = op.tanh(op.add(op.multiply(h, np.float32(-0.5)), op.add(c_out, _scalar(length))))
    out = op.reshape(h_out, np.array([1, HIDDEN, 1]), False)
    return _model("decoder", [token, length, h, c], decoder_out=out, h_out=op.add(h_out, np.float32(0)), c_out=c_out)


def _joint(rng: np.random.Generator, blank_bias: float) -> Any:
    encoder, decoder = _parameter("encoder", [1, DIM, 1]), _parameter("decoder", [1, HIDDEN, 1])
    classes = len(PIECES) + 1
    bias = np.zeros((1, classes, 1), np.float32)
    bias[0, -1] = blank_bias
    logits = op.add(
        op.matmul(_constant(rng, classes, DIM, scale=2.0), encoder, False, False),
        op.matmul(_constant(rng, classes, HIDDEN, scale=1.5), decoder, False, False),
    )
    return _model(
        "joint", [encoder, decoder], logits=op.reshape(op.add(logits, bias), np.array([1, 1, 1, classes]), False)
    )
