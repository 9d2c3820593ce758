"""The published clients' generation-1 loop, step by step: what a folder transcribes in the field today.

Source of the loop: eddy-audio (Apache-2.0), first generation, as its C++ reads a folder. Its known flaws are
kept on purpose, because this runtime measures what those clients get: every chunk's mel is computed alone, the
frames carried over are the last ones of whatever the preprocessor returned, and the decoder runs again after
every blank.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle
from export.contract import expected_ports
from export.languages import DEFAULT_LANGUAGE, prompt_id_for
from verify.runtimes.graph import Config, Graph, Observer, properties
from verify.runtimes.transcript import MAX_SYMBOLS, Timings, Transcript, detokenize

_HOPS_PER_SECOND = 100
"""The clients cut audio by 10 ms a mel frame."""


@dataclass(frozen=True)
class Step:
    """One chunk through the encoder."""

    index: int
    mel: NDArray[np.float32]  # [1, features, total_mel_frames], what the encoder got
    encoded: NDArray[np.float32]  # [1, encoder_dim, frames], valid until the next step


class EncoderStep(Protocol):
    """What the loop needs of an encoder, so that another engine's can take the folder's place."""

    seconds: float  # spent in it so far
    calls: int
    input_names: set[str]

    def input(self, name: str, shape: Sequence[int]) -> NDArray[Any]:
        """A zeroed array that the step reads an input from."""
        ...

    def output(self, name: str) -> NDArray[Any]:
        """The last run's output, valid until the next run."""
        ...

    def run(self) -> None:
        """One step on what the inputs hold."""
        ...


class Generation1:
    """A folder, run the way the first generation of clients runs it.

    Args:
        bundle: the folder.
        device: OpenVINO device of encoder, decoder and joint; the preprocessor always runs on the CPU.
        threads: CPU threads; None leaves the choice to OpenVINO.
        config: OpenVINO properties that override :data:`FP32_CONFIG`.
        encoder: runs instead of the folder's encoder graph, which then need not be there.
        observer: told of every run of a graph.

    Raises:
        UserError: a graph cannot be loaded, or lacks a port of the contract.
    """

    mel_config: ClassVar[Config] = {}
    """OpenVINO properties of the preprocessor that override ``config``."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "CPU",
        threads: int | None = None,
        config: Config | None = None,
        encoder: EncoderStep | None = None,
        observer: Observer | None = None,
    ) -> None:
        import openvino as ov

        self.bundle = bundle
        meta = bundle.metadata
        shapes = {
            name: {port.name: port.shape for port in graph.inputs} for name, graph in expected_ports(meta).items()
        }
        self.config = properties(threads, config, device)
        core = ov.Core()

        def load(name: str, device: str = device, own: Config | None = None) -> Graph:
            wanted = properties(threads, dict(config or {}) | dict(own or {}), device)
            return Graph.load(core, bundle, name, device, wanted, observer=observer)

        self._preprocessor = load("preprocessor", "CPU", self.mel_config)
        self._encoder: EncoderStep = encoder or load("encoder")
        self._decoder, self._joint = load("decoder"), load("joint")
        self.chunk_samples = meta.chunk_mel_frames * meta.sample_rate // _HOPS_PER_SECOND
        self._tags = frozenset(meta.lang_tag_token_ids)

        self._audio = self._preprocessor.input("audio", (1, self.chunk_samples))
        # The last chunk is padded with zeros, and its full length is passed all the same.
        self._preprocessor.input("audio_length", (1,))[:] = self.chunk_samples
        inputs = shapes["encoder"]
        self._mel = self._encoder.input("mel", inputs["mel"])
        self._encoder.input("mel_length", inputs["mel_length"])[:] = meta.total_mel_frames
        self._caches = {
            name: self._encoder.input(name, inputs[name]) for name in ("cache_channel", "cache_time", "cache_len")
        }
        has_prompt = "prompt_id" in self._encoder.input_names
        self._prompt = self._encoder.input("prompt_id", (1,)) if has_prompt else None
        inputs = shapes["decoder"]
        self._token = self._decoder.input("token", inputs["token"])
        self._decoder.input("token_length", inputs["token_length"])[:] = 1
        self._state = {name: self._decoder.input(f"{name}_in", inputs[f"{name}_in"]) for name in ("h", "c")}
        self._joint_encoder = self._joint.input("encoder", shapes["joint"]["encoder"])
        self._joint_decoder = self._joint.input("decoder", shapes["joint"]["decoder"])

    def transcribe(self, audio: NDArray[np.float32], language: str = DEFAULT_LANGUAGE) -> Transcript:
        """Recognize one utterance from cold caches; see :class:`verify.runtimes.transcript.Recognizer`."""
        start = time.perf_counter()
        before = self._spent()
        meta = self.bundle.metadata
        self._token[:] = meta.blank_idx
        for state in self._state.values():
            state.fill(0)
        tokens: list[int] = []
        frames: list[int] = []
        first_frame = 0
        times = [start]  # at the beginning, and after each chunk
        for step in self.steps(audio, language):
            for frame in range(step.encoded.shape[2]):
                for token in self._symbols(step.encoded[:, :, frame : frame + 1]):
                    tokens.append(token)
                    frames.append(first_frame + frame)
            first_frame += step.encoded.shape[2]
            times.append(time.perf_counter())
        text, detected = detokenize(tokens, self.bundle.vocabulary, self._tags)
        after = self._spent()
        spent = Timings(
            **{name: after[name] - before[name] for name in after},
            wall=time.perf_counter() - start,
            steps=tuple(end - begin for begin, end in pairwise(times)),
        )
        return Transcript(tokens, frames, text, detected, len(audio) / meta.sample_rate, spent)

    def steps(self, audio: NDArray[np.float32], language: str = DEFAULT_LANGUAGE) -> Iterator[Step]:
        """The encoder's output chunk by chunk, caches carried from one to the next.

        Args:
            audio: [samples] at the folder's sample rate.
            language: see :func:`export.languages.prompt_id_for`.
        """
        meta = self.bundle.metadata
        if self._prompt is not None:
            default = meta.default_prompt_id or 0
            self._prompt[:] = prompt_id_for(language, meta.prompt_dictionary or {}, default)
        for cache in self._caches.values():
            cache.fill(0)
        carried = np.zeros((1, meta.mel_features, meta.pre_encode_cache), np.float32)
        for index, first in enumerate(range(0, len(audio), self.chunk_samples)):
            chunk = audio[first : first + self.chunk_samples]
            self._audio[0, : len(chunk)] = chunk
            self._audio[0, len(chunk) :] = 0.0
            self._preprocessor.run()
            mel = self._mel_of_chunk()
            lead = carried.shape[2]
            taken = min(mel.shape[2], meta.total_mel_frames - lead)
            self._mel.fill(0)
            self._mel[:, :, :lead] = carried
            self._mel[:, :, lead : lead + taken] = mel[:, :, :taken]
            # A chunk of fewer frames than are carried leads the next window with as many as it has.
            carried = mel[:, :, max(0, mel.shape[2] - meta.pre_encode_cache) :].copy()
            self._encoder.run()
            for name, cache in self._caches.items():
                np.copyto(cache, self._encoder.output(f"{name}_out"))
            yield Step(index, self._mel, self._encoder.output("encoded"))

    def _mel_of_chunk(self) -> NDArray[np.float32]:
        """Mel of the chunk that the preprocessor has just run on, [1, features, frames]."""
        return self._preprocessor.output("mel")

    def _symbols(self, encoded: NDArray[np.float32]) -> Iterator[int]:
        """Greedy tokens of one frame, [1, encoder_dim, 1]; the state moves only when a token comes out."""
        decoder, joint, blank = self._decoder, self._joint, self.bundle.metadata.blank_idx
        self._joint_encoder[:] = encoded
        for _ in range(MAX_SYMBOLS):
            decoder.run()
            self._joint_decoder[:] = decoder.output("decoder_out")
            joint.run()
            token = int(joint.output("logits").argmax())  # the lowest id on a tie
            if token == blank:
                return
            for name, state in self._state.items():
                np.copyto(state, decoder.output(f"{name}_out"))
            self._token[:] = token
            yield token

    def _spent(self) -> dict[str, Any]:
        """Seconds and calls of every graph so far, under the names of :class:`Timings`."""
        graphs = {"mel": self._preprocessor, "encoder": self._encoder, "decoder": self._decoder, "joint": self._joint}
        seconds: dict[str, Any] = {name: graph.seconds for name, graph in graphs.items()}
        return seconds | {f"{name}_calls": graph.calls for name, graph in graphs.items()}
