"""The published clients' generation-1 loop, step by step: what a folder transcribes in the field today.

Source of the loop: eddy-audio (Apache-2.0), first generation, as its C++ reads a folder. Its known flaws are
kept on purpose, because this runtime measures what those clients get: every chunk's mel is computed alone, the
frames carried over are the last ones of whatever the preprocessor returned, and the decoder runs again after
every blank.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle
from export.contract import Port, expected_ports
from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE, prompt_id_for
from verify.runtimes.graph import compile_graph, properties, reason_of, run_request
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

    def input(self, port: Port) -> NDArray[Any]:
        """A zeroed array that the step reads ``port`` from."""
        ...

    def output(self, name: str) -> NDArray[Any]:
        """The last run's output, valid until the next run."""
        ...

    def run(self) -> None:
        """One step on what the inputs hold."""
        ...


class _Graph:
    """A compiled graph with one request: inputs are bound by name once and written in place."""

    def __init__(self, core: Any, bundle: Bundle, graph: str, device: str, config: dict[str, str]) -> None:
        import openvino as ov

        self.seconds = 0.0
        self.calls = 0
        self._tensor = ov.Tensor
        self._path = bundle.graph_path(graph)
        self._model = compile_graph(core, bundle, graph, device, config)
        self._request = self._model.create_infer_request()
        self.input_names = {name for port in self._model.inputs for name in port.get_names()}

    def input(self, port: Port, samples: int = 1) -> NDArray[Any]:
        """A zeroed array that the graph reads ``port`` from, in the element type the graph declares."""
        shape = [samples if size < 0 else size for size in port.shape]
        try:
            # OpenVINO owns the memory: it would not keep a numpy array of ours alive.
            tensor = self._tensor(self._model.input(port.name).get_element_type(), shape)
            self._request.set_tensor(port.name, tensor)
        except RuntimeError as error:
            raise UserError(
                f"{self._path}: does not take {port.name} of shape {shape} ({reason_of(error)}); regenerate the folder"
            ) from error
        array: NDArray[Any] = tensor.data
        array.fill(0)
        return array

    def output(self, name: str) -> NDArray[Any]:
        """The last run's output, valid until the next run."""
        try:
            data: NDArray[Any] = self._request.get_tensor(name).data
        except RuntimeError as error:
            raise UserError(f"{self._path}: has no output {name}; regenerate the folder") from error
        return data

    def run(self) -> None:
        """Infer on the bound inputs."""
        start = time.perf_counter()
        run_request(self._request, self._path)
        self.seconds += time.perf_counter() - start
        self.calls += 1


class Generation1:
    """A folder, run the way the first generation of clients runs it.

    Args:
        bundle: the folder.
        device: OpenVINO device of encoder, decoder and joint; the preprocessor always runs on the CPU.
        threads: CPU threads; None leaves the choice to OpenVINO.
        config: OpenVINO properties that override :data:`FP32_CONFIG`.
        encoder: runs instead of the folder's encoder graph, which then need not be there.

    Raises:
        UserError: a graph cannot be loaded, or lacks a port of the contract.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "CPU",
        threads: int | None = None,
        config: dict[str, str] | None = None,
        encoder: EncoderStep | None = None,
    ) -> None:
        import openvino as ov

        self.bundle = bundle
        meta = bundle.metadata
        ports = {
            name: {port.name: port for port in (*graph.inputs, *graph.outputs)}
            for name, graph in expected_ports(meta).items()
        }
        self.config = properties(threads, config)
        core = ov.Core()
        self._preprocessor = _Graph(core, bundle, "preprocessor", "CPU", self.config)
        self._encoder: EncoderStep = encoder or _Graph(core, bundle, "encoder", device, self.config)
        self._decoder, self._joint = (_Graph(core, bundle, name, device, self.config) for name in ("decoder", "joint"))
        self.chunk_samples = meta.chunk_mel_frames * meta.sample_rate // _HOPS_PER_SECOND
        self._tags = frozenset(meta.lang_tag_token_ids)

        self._audio = self._preprocessor.input(ports["preprocessor"]["audio"], self.chunk_samples)
        # The last chunk is padded with zeros, and its full length is passed all the same.
        self._preprocessor.input(ports["preprocessor"]["audio_length"])[:] = self.chunk_samples
        inputs = ports["encoder"]
        self._mel = self._encoder.input(inputs["mel"])
        self._encoder.input(inputs["mel_length"])[:] = meta.total_mel_frames
        self._caches = {
            name: self._encoder.input(inputs[name]) for name in ("cache_channel", "cache_time", "cache_len")
        }
        has_prompt = "prompt_id" in self._encoder.input_names
        self._prompt = self._encoder.input(Port("prompt_id", (1,), "i32")) if has_prompt else None
        self._token = self._decoder.input(ports["decoder"]["token"])
        self._decoder.input(ports["decoder"]["token_length"])[:] = 1
        self._state = {name: self._decoder.input(ports["decoder"][f"{name}_in"]) for name in ("h", "c")}
        self._joint_encoder = self._joint.input(ports["joint"]["encoder"])
        self._joint_decoder = self._joint.input(ports["joint"]["decoder"])

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
        for step in self.steps(audio, language):
            for frame in range(step.encoded.shape[2]):
                for token in self._symbols(step.encoded[:, :, frame : frame + 1]):
                    tokens.append(token)
                    frames.append(first_frame + frame)
            first_frame += step.encoded.shape[2]
        text, detected = detokenize(tokens, self.bundle.vocabulary, self._tags)
        after = self._spent()
        spent = Timings(**{name: after[name] - before[name] for name in after}, wall=time.perf_counter() - start)
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
        lead = meta.pre_encode_cache
        carried = np.zeros((1, meta.mel_features, lead), np.float32)
        for index, first in enumerate(range(0, len(audio), self.chunk_samples)):
            chunk = audio[first : first + self.chunk_samples]
            self._audio[0, : len(chunk)] = chunk
            self._audio[0, len(chunk) :] = 0.0
            self._preprocessor.run()
            mel = self._preprocessor.output("mel")  # [1, features, frames]
            taken = min(mel.shape[2], meta.total_mel_frames - lead)
            self._mel.fill(0)
            self._mel[:, :, :lead] = carried
            self._mel[:, :, lead : lead + taken] = mel[:, :, :taken]
            carried = mel[:, :, mel.shape[2] - lead :].copy()
            self._encoder.run()
            for name, cache in self._caches.items():
                np.copyto(cache, self._encoder.output(f"{name}_out"))
            yield Step(index, self._mel, self._encoder.output("encoded"))

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
