"""A streaming runtime without the flaws of the generation-1 loop: FP32 gives exactly NeMo's streaming tokens.

What differs from :mod:`verify.generation1`: the mel is that of the running signal, with no restart at chunk edges;
the first step is NeMo's own (a lead of zero frames that the graph masks, said by a negative ``cache_len``); the
decoder runs only after an emission, and the joint looks at all remaining frames of a step at once; a stream may end
with silence, so that the last word gets its right context.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle
from export.checkpoint import DEFAULT_LANGUAGE
from export.errors import UserError
from verify.generation1 import MAX_SYMBOLS, compile_graph, properties
from verify.transcript import WORD_START, Timings, Transcript, detokenize, prompt_id_for

Audio = NDArray[np.float32]
Outputs = dict[str, NDArray[Any]]

FLUSH_SECONDS = 1.0
"""Silence that ends a flushed stream, beyond the lookahead: time for the last word and its language tag."""


@dataclass(frozen=True)
class Word:
    """A word with the times of the encoder frames that emitted its first and last piece, in seconds."""

    text: str
    start: float
    end: float


class MelStream:
    """Log-mel of a running signal through the preprocessor graph, in bounded memory.

    A frame is computed once all samples of its window are there, from a slice that holds the window and one sample
    before it, so that every frame equals that of the whole signal.
    """

    def __init__(self, graph: _Compiled, hop: int, features: int) -> None:
        self._graph = graph
        self._hop = hop
        self._half_window = 200 * hop // 160  # 25 ms windows at a hop of 10 ms
        self._features = features
        self._samples: Audio = np.zeros(0, np.float32)
        self._start = 0  # of the kept samples in the signal, whole hops
        self._next = 0  # frame

    def push(self, samples: Audio) -> Audio:
        """Take more signal; returns the frames [1, features, n] that it completes."""
        self._samples = np.concatenate([self._samples, samples])
        end = self._start + len(self._samples)
        complete = (end - self._half_window) // self._hop + 1 if end >= self._half_window else 0
        if complete <= self._next:
            return np.zeros((1, self._features, 0), np.float32)
        frames = self._compute((complete - 1) * self._hop + self._half_window, complete)
        keep = max(0, self._next - 2) * self._hop
        self._samples, self._start = self._samples[keep - self._start :].copy(), keep
        return frames

    def finish(self) -> Audio:
        """The signal is over: its last frames, and the zero frame with which NeMo ends a signal."""
        end = self._start + len(self._samples)
        total = end // self._hop
        rest = self._compute(end, total) if total > self._next else np.zeros((1, self._features, 0), np.float32)
        return np.concatenate([rest, np.zeros((1, self._features, 1), np.float32)], axis=2)

    def _compute(self, end: int, upto: int) -> Audio:
        """Frames [next, upto) from the kept samples before ``end``."""
        signal = self._samples[: end - self._start]
        outputs = self._graph({"audio": signal[None], "audio_length": np.array([len(signal)], np.int32)})
        first = self._next - self._start // self._hop
        frames: Audio = outputs["mel"][:, :, first : upto - self._start // self._hop]
        self._next = upto
        return frames


class _Compiled:
    """A compiled graph: named arrays in, copies of named arrays out; counts its time and calls."""

    def __init__(self, core: Any, bundle: Bundle, graph: str, device: str, config: dict[str, str]) -> None:
        shapes = {"encoder": [1, bundle.metadata.encoder_dim, -1]} if graph == "joint" else None
        compiled = compile_graph(core, bundle, graph, device, config, shapes)
        self._request = compiled.create_infer_request()
        self._outputs = [port.get_any_name() for port in compiled.outputs]
        self.inputs = {name for port in compiled.inputs for name in port.get_names()}
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> Outputs:
        start = time.perf_counter()
        self._request.infer({name: array for name, array in inputs.items() if name in self.inputs})
        outputs = {name: self._request.get_tensor(name).data.copy() for name in self._outputs}
        self.seconds += time.perf_counter() - start
        self.calls += 1
        return outputs


class Streaming:
    """A folder as a streaming recognizer; any number of :meth:`stream` at a time, from any threads.

    Args:
        bundle: a folder whose graph knows how streams begin (``--graph fused``).
        device: OpenVINO device of encoder, decoder and joint; the preprocessor always runs on the CPU.
        threads: CPU threads; None leaves the choice to OpenVINO.
        config: OpenVINO properties that override :data:`verify.generation1.FP32_CONFIG`.

    Raises:
        UserError: the folder's graph cannot begin a stream as NeMo does, or cannot be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "CPU",
        threads: int | None = None,
        config: dict[str, str] | None = None,
    ) -> None:
        import openvino as ov

        if not bundle.metadata.lead_mel_frames:
            raise UserError(
                f"{bundle.path}: its {bundle.metadata.graph} graph cannot begin a stream as NeMo does; "
                "use --runtime generation1, or export with --graph fused"
            )
        self.bundle = bundle
        self.config = properties(threads, config)
        core = ov.Core()
        self.preprocessor = _Compiled(core, bundle, "preprocessor", "CPU", self.config)
        self.encoder, self.decoder, self.joint = (
            _Compiled(core, bundle, graph, device, self.config) for graph in ("encoder", "decoder", "joint")
        )
        self.lock = threading.Lock()
        self.tags = frozenset(bundle.metadata.lang_tag_token_ids)

    def stream(self, language: str = DEFAULT_LANGUAGE) -> Stream:
        """A new stream; see :func:`verify.transcript.prompt_id_for` for ``language``."""
        return Stream(self, language)

    def transcribe(self, audio: Audio, language: str = DEFAULT_LANGUAGE, *, flush: bool = False) -> Transcript:
        """Recognize one utterance; see :class:`verify.transcript.Recognizer`.

        Args:
            audio: [samples] at the folder's sample rate.
            language: prompt.
            flush: end with silence; without it the tokens are NeMo's.
        """
        start = time.perf_counter()
        before = self._spent()
        stream = self.stream(language)
        stream.push(audio)
        stream.finish(flush=flush)
        after = self._spent()
        spent = Timings(**{name: after[name] - before[name] for name in after}, wall=time.perf_counter() - start)
        text, detected = stream.result()
        return Transcript(
            stream.tokens, stream.frames, text, detected, len(audio) / self.bundle.metadata.sample_rate, spent
        )

    def _spent(self) -> dict[str, Any]:
        graphs = {"mel": self.preprocessor, "encoder": self.encoder, "decoder": self.decoder, "joint": self.joint}
        seconds: dict[str, Any] = {name: graph.seconds for name, graph in graphs.items()}
        return seconds | {f"{name}_calls": graph.calls for name, graph in graphs.items()}


class Stream:
    """One live signal: push audio in blocks of any size, read text at any time, finish."""

    def __init__(self, recognizer: Streaming, language: str) -> None:
        self._recognizer = recognizer
        meta = self._meta = recognizer.bundle.metadata
        prompt = prompt_id_for(language, meta.prompt_dictionary or {}, meta.default_prompt_id or 0)
        self._prompt = np.array([prompt], np.int32)
        self._mel = MelStream(recognizer.preprocessor, meta.sample_rate // 100, meta.mel_features)
        self._window = np.zeros((1, meta.mel_features, meta.lead_mel_frames), np.float32)  # carried and new frames
        self._fresh = meta.lead_mel_frames  # frames at the window's head that are carried or lead
        self._caches: Outputs = {
            "cache_channel": np.zeros(meta.cache_channel_shape, np.float32),
            "cache_time": np.zeros(meta.cache_time_shape, np.float32),
            "cache_len": np.array([-meta.lead_mel_frames], np.int32),
        }
        self._frame = 0
        self.tokens: list[int] = []
        self.frames: list[int] = []
        state = np.zeros((meta.decoder_layers, 1, meta.decoder_hidden), np.float32)
        self._predicted: Outputs = {"h_out": state, "c_out": state}
        self._finished = False
        with recognizer.lock:
            self._predict(meta.blank_idx)

    def push(self, samples: Audio) -> None:
        """Take a block of audio, [samples] at the folder's rate, and recognize every step that it completes."""
        if self._finished:
            raise ValueError("the stream is finished; open another one")
        with self._recognizer.lock:
            self._take(self._mel.push(np.asarray(samples, np.float32)))

    def finish(self, *, flush: bool = True) -> None:
        """The signal is over.

        Args:
            flush: append silence for the lookahead and :data:`FLUSH_SECONDS`; without it the tokens are NeMo's.
        """
        meta = self._meta
        if flush:
            frames = (meta.lookahead + 1) * meta.subsampling_factor
            self.push(np.zeros(frames * meta.sample_rate // 100 + int(FLUSH_SECONDS * meta.sample_rate), np.float32))
        with self._recognizer.lock:
            self._take(self._mel.finish())
            self._finished = True
            rest = self._window.shape[2] - self._fresh
            used = self._used_rest(rest)
            if used:
                self._step(self._fresh + used)

    def result(self) -> tuple[str, str | None]:
        """Text so far and the detected language."""
        return detokenize(self.tokens, self._recognizer.bundle.vocabulary, self._recognizer.tags)

    def words(self) -> list[Word]:
        """Words so far with their times."""
        meta, vocabulary = self._meta, self._recognizer.bundle.vocabulary
        seconds = meta.subsampling_factor / 100
        words: list[Word] = []
        for token, frame in zip(self.tokens, self.frames, strict=True):
            piece = vocabulary[token] if token < len(vocabulary) else ""
            if token in self._recognizer.tags or not piece:
                continue
            moment = round(frame * seconds, 3)
            if piece.startswith(WORD_START) or not words:
                words.append(Word(piece.lstrip(WORD_START), moment, moment))
            else:
                words[-1] = Word(words[-1].text + piece, words[-1].start, moment)
        return [word for word in words if word.text]

    def _take(self, mel: Audio) -> None:
        """Append frames and run every full step."""
        total = self._meta.total_mel_frames
        self._window = np.concatenate([self._window, mel], axis=2)
        while self._window.shape[2] >= total:
            self._step(total)
            # Copied, so that the window is not a view of ever longer arrays.
            self._window = self._window[:, :, total - self._meta.pre_encode_cache :].copy()
            self._fresh = self._meta.pre_encode_cache

    def _used_rest(self, rest: int) -> int:
        """New frames of an unfinished step that NeMo would take.

        NeMo steps by groups of R + 1 encoder frames and leaves out a rest that is too short for one encoder frame.
        """
        meta = self._meta
        factor = meta.subsampling_factor
        begun = self._fresh == meta.lead_mel_frames  # the first step holds one group of 1 + 8 R frames first
        first = 1 + factor * meta.lookahead if begun else 0
        if rest <= first:
            return rest
        short = (rest - first) % (factor * (meta.lookahead + 1))
        return rest - short if short < factor else rest

    def _step(self, length: int) -> None:
        """One encoder step over the window's first ``length`` frames, and the tokens in it."""
        meta, recognizer = self._meta, self._recognizer
        mel = np.zeros((1, meta.mel_features, meta.total_mel_frames), np.float32)
        mel[:, :, :length] = self._window[:, :, :length]
        outputs = recognizer.encoder(
            {"mel": mel, "mel_length": np.array([length], np.int32), "prompt_id": self._prompt, **self._caches}
        )
        self._caches = {name: outputs[f"{name}_out"] for name in self._caches}
        self._decode(outputs["encoded"][:, :, : int(outputs["encoded_length"][0])])

    def _decode(self, encoded: Audio) -> None:
        """Greedy tokens of encoded [1, d, T]: the first frame that is not blank emits, then the joint looks again."""
        frames, blank = encoded.shape[2], self._meta.blank_idx
        frame = symbols = 0
        while frame < frames:
            inputs = {"encoder": encoded[:, :, frame:], "decoder": self._predicted["decoder_out"]}
            best = self._recognizer.joint(inputs)["logits"][0, :, 0].argmax(axis=1)  # the lowest id on a tie
            emitting = np.flatnonzero(best != blank)
            if not len(emitting):
                break
            if emitting[0]:
                frame, symbols = frame + int(emitting[0]), 0
            token = int(best[emitting[0]])
            self.tokens.append(token)
            self.frames.append(self._frame + frame)
            self._predict(token)
            symbols += 1
            if symbols == MAX_SYMBOLS:
                frame, symbols = frame + 1, 0
        self._frame += frames

    def _predict(self, token: int) -> None:
        """Advance the prediction network by a token."""
        self._predicted = self._recognizer.decoder(
            {
                "token": np.array([[token]], np.int32),
                "token_length": np.ones(1, np.int32),
                "h_in": self._predicted["h_out"],
                "c_in": self._predicted["c_out"],
            }
        )
