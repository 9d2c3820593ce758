"""The encoder step of every kind of build behind one interface, so that one loop times them all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle
from export.contract import Port, expected_ports
from verify.runtimes.generation1 import EncoderStep
from verify.runtimes.graph import Graph

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    from export.geometry import Geometry

Array = NDArray[Any]

CACHES = ("cache_channel", "cache_time", "cache_len")

_INTEGERS = frozenset(("mel_length", "cache_len", "prompt_id"))


def openvino_encoder(bundle: Bundle, config: dict[str, str], batch: int = 1) -> EncoderStep:
    """A folder's encoder, compiled with the properties of the loop that it is compared under."""
    import openvino as ov

    ports = batched(expected_ports(bundle.metadata)["encoder"].inputs, batch)
    shapes = {port.name: list(port.shape) for port in ports} if batch > 1 else None
    return Graph.load(ov.Core(), bundle, "encoder", "CPU", config, shapes=shapes)


class _ArrayEncoder:
    """What engines share that take and return arrays; see :class:`verify.runtimes.generation1.EncoderStep`."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._inputs: dict[str, Array] = {}
        self._outputs: dict[str, Array] = {}

    def input(self, name: str, shape: Sequence[int]) -> Array:
        """A zeroed array that the step reads an input from."""
        kind = np.int32 if name in _INTEGERS else np.float32
        return self._inputs.setdefault(name, np.zeros(tuple(shape), kind))

    def output(self, name: str) -> Array:
        """The last run's output."""
        return self._outputs[name]


class OnnxEncoder(_ArrayEncoder):
    """An exported encoder in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        super().__init__()
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [port.name for port in self._session.get_outputs()]
        self.input_names = {port.name for port in self._session.get_inputs()}

    def run(self) -> None:
        """See :class:`verify.runtimes.generation1.EncoderStep`."""
        start = time.perf_counter()
        self._outputs = dict(zip(self._names, self._session.run(self._names, self._inputs), strict=True))
        self.seconds += time.perf_counter() - start
        self.calls += 1


class TorchEncoder(_ArrayEncoder):
    """NeMo's modules in PyTorch; changes the model's streaming configuration to whole chunks."""

    def __init__(self, model: EncDecRNNTBPEModel, geometry: Geometry) -> None:
        from export.graphs.encoder_nemo import NemoEncoderStep

        super().__init__()
        self._step = NemoEncoderStep(model, geometry).eval()
        self.input_names = {"mel", "mel_length", *CACHES}
        if self._step.prompt_kernel is not None:
            self.input_names.add("prompt_id")

    def run(self) -> None:
        """See :class:`verify.runtimes.generation1.EncoderStep`."""
        import torch

        start = time.perf_counter()
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in self._inputs.items()}  # share their memory
            outputs = self._step(**tensors)
        names = ("encoded", "encoded_length", *(f"{name}_out" for name in CACHES))
        self._outputs = {name: tensor.numpy() for name, tensor in zip(names, outputs, strict=True)}
        self.seconds += time.perf_counter() - start
        self.calls += 1


def batched(ports: Sequence[Port], batch: int) -> list[Port]:
    """Ports of so many streams a step."""
    return [Port(port.name, (batch, *port.shape[1:]), port.dtype) for port in ports]


def encoder_ports(model: EncDecRNNTBPEModel, geometry: Geometry) -> tuple[Port, ...]:
    """The contract's inputs for a model that was not exported."""
    encoder = model.encoder
    layers, dim = len(encoder.layers), int(encoder.d_model)
    ports = [
        Port("mel", (1, int(encoder._feat_in), geometry.total_mel_frames), "f32"),
        Port("mel_length", (1,), "i32"),
        Port("cache_channel", (1, layers, geometry.left_context, dim), "f32"),
        Port("cache_time", (1, layers, dim, int(encoder.conv_context_size[0])), "f32"),
        Port("cache_len", (1,), "i32"),
        Port("prompt_id", (1,), "i32"),
    ]
    return tuple(ports)


def mel_windows(mel: Array, carried: int, new: int) -> list[Array]:
    """A signal's mel [1, mel, frames] as the windows [1, mel, carried + new] of successive steps; one at least."""
    steps = max(1, mel.shape[2] // new)
    padded = np.zeros((1, mel.shape[1], carried + steps * new), np.float32)
    frames = min(mel.shape[2], steps * new)
    padded[:, :, carried : carried + frames] = mel[:, :, :frames]
    return [padded[:, :, step * new : step * new + carried + new] for step in range(steps)]


def time_steps(
    encoder: EncoderStep, ports: Sequence[Port], windows: Sequence[Array], prompt: int, *, warm_up: int, steps: int
) -> list[float]:
    """Seconds of each of ``steps`` encoder steps on warm caches.

    Args:
        encoder: what to run.
        ports: its inputs, and more where it does not have them all.
        windows: mel frames of successive steps, taken round and round.
        prompt: row of the language.
        warm_up: steps before, not counted: they fill the caches with what the audio left there.
        steps: how many.
    """
    arrays = {port.name: encoder.input(port.name, port.shape) for port in ports if port.name in encoder.input_names}
    arrays["mel_length"][:] = windows[0].shape[2]
    if "prompt_id" in arrays:
        arrays["prompt_id"][:] = prompt
    seconds = []
    for index in range(warm_up + steps):
        arrays["mel"][:] = windows[index % len(windows)]
        before = encoder.seconds
        encoder.run()
        seconds.append(encoder.seconds - before)
        for name in CACHES:
            if name in arrays:
                np.copyto(arrays[name], encoder.output(f"{name}_out"))
    return seconds[warm_up:]
