"""A folder's graphs in OpenVINO, whatever loop runs them: properties, compiling, one request each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from export.bundle import Bundle
from export.errors import UserError
from export.mapped_weights import pages_given_back

Array = NDArray[Any]

FP32_CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
"""Without it the CPU plugin computes in bf16 where the processor can, and an FP32 folder is not FP32."""


Config = Mapping[str, str | None]
"""OpenVINO properties by name; None leaves a property to OpenVINO."""

CLIENTS_CONFIG: Config = dict.fromkeys(FP32_CONFIG)
"""What the published clients ask for: nothing. Where the processor has bf16, OpenVINO then computes in it."""


def properties(threads: int | None, config: Config | None, device: str = "CPU") -> dict[str, str]:
    """OpenVINO properties of a runtime: :data:`FP32_CONFIG`, the threads if any are given, and what overrides both.

    Only the CPU takes a number of threads, and an NPU, which computes in f16, no precision.
    """
    kind = device.split(".", maxsplit=1)[0]
    wanted = FP32_CONFIG | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {}) | dict(config or {})
    refused = {"CPU": set(), "NPU": {"INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS"}}
    refused_here = refused.get(kind, {"INFERENCE_NUM_THREADS"})
    return {name: value for name, value in wanted.items() if value is not None and name not in refused_here}


def find_device(name: str) -> str:
    """An OpenVINO device by its name: ``CPU``, ``GPU``, ``GPU.1``, ``NPU``.

    Raises:
        UserError: there is none; the message names those that there are.
    """
    import openvino as ov

    there = ov.Core().available_devices
    wanted = name.upper()
    if wanted not in there and not any(device.startswith(f"{wanted}.") for device in there):
        raise UserError(f"--device {name}: OpenVINO finds no such device; here are {', '.join(there) or 'none'}")
    return wanted


def precision_of(config: Mapping[str, str], device: str) -> str:
    """The precision that these properties give on a device: ``f32``, ``bf16``, ``f16``; ``unknown`` where none says."""
    import openvino as ov

    name = "INFERENCE_PRECISION_HINT"
    try:
        hint = config.get(name) or ov.Core().get_property(device, name)
    except RuntimeError:
        return "unknown"
    return hint if isinstance(hint, str) else str(hint.to_string())


class Observer:
    """Told of every run of a graph; does nothing by itself."""

    def before(self, graph: Graph) -> None:
        """It is going to run on what its inputs hold, which may be changed."""

    def after(self, graph: Graph) -> None:
        """It has run: its inputs still hold what it was given, its outputs what it gave."""


class Graph:
    """A compiled graph with one request: arrays are bound to its ports once, then written and read in place.

    Args:
        compiled: an ``openvino.CompiledModel``.
        name: one of :data:`export.bundle.GRAPHS`.
        path: of its file, for errors.
        observer: told of every run.

    Attributes:
        seconds: spent in :meth:`run` so far.
        calls: of :meth:`run` so far.
        input_names: the names of its inputs.
    """

    def __init__(self, compiled: Any, name: str, path: Path, observer: Observer | None = None) -> None:
        import openvino as ov

        self.name = name
        self.seconds, self.calls = 0.0, 0
        self._tensor = ov.Tensor
        self._path = path
        self._observer = observer
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._bound: dict[str, Any] = {}  # tensors of ours, by port
        self._carried: tuple[str, ...] = ()
        self.input_names = {name for port in compiled.inputs for name in port.get_names()}

    @classmethod
    def load(
        cls,
        core: Any,
        bundle: Bundle,
        name: str,
        device: str,
        config: dict[str, str],
        *,
        shapes: dict[str, list[int]] | None = None,
        lean: bool = False,
        observer: Observer | None = None,
    ) -> Graph:
        """A folder's graph, compiled.

        Args:
            core: an ``openvino.Core``.
            bundle: the folder.
            name: one of :data:`export.bundle.GRAPHS`.
            device: OpenVINO device.
            config: OpenVINO properties.
            shapes: of inputs, where they are not those of the file; -1 where an axis is free.
            lean: mapped weights do not stay resident beside their packed copy, as they do in the published clients.
            observer: told of every run.

        Raises:
            UserError: the device cannot load it.
        """
        path = bundle.graph_path(name)
        try:
            model = core.read_model(path)
            if shapes:
                model.reshape(shapes)
            with pages_given_back(model, path.with_suffix(".bin")) if lean else nullcontext():
                compiled = core.compile_model(model, device, config)
            return cls(compiled, name, path, observer)
        except (RuntimeError, UnicodeDecodeError) as error:  # names that are no text among them
            raise UserError(f"{path}: {device} cannot load it ({reason_of(error)}); regenerate the folder") from error

    def another(self) -> Graph:
        """The same compiled graph with a request of its own, for another thread: its weights are there once."""
        return Graph(self._compiled, self.name, self._path, self._observer)

    def input(self, name: str, shape: Sequence[int] | None = None) -> Array:
        """The zeroed array that the graph reads an input from, in the element type that the graph declares.

        Args:
            name: of the input.
            shape: where the graph's is not fixed, or has to be this one.

        Raises:
            UserError: the graph has no such input, or does not take the shape.
        """
        return self._bind(name, self._port(self._compiled.input, name), shape)

    def carry(self, names: Sequence[str]) -> None:
        """Carry these states from run to run without a copy: :meth:`swap` makes each ``NAME_out`` the next ``NAME``."""
        for name in names:
            self.input(name)
            self._bind(f"{name}_out", self._port(self._compiled.output, f"{name}_out"))
        self._carried = tuple(names)

    def swap(self) -> None:
        """What the last run put out is what the next one reads; its outputs go where its inputs were."""
        for name in self._carried:
            out = f"{name}_out"
            self._bound[name], self._bound[out] = self._bound[out], self._bound[name]
            self._request.set_tensor(name, self._bound[name])
            self._request.set_tensor(out, self._bound[out])

    def give(self, name: str, array: Array) -> None:
        """Let the graph read an input of free shape from this contiguous array."""
        self._bound[name] = self._tensor(array, shared_memory=True)
        self._request.set_tensor(name, self._bound[name])

    def run(self) -> None:
        """Infer on what the inputs hold.

        Raises:
            UserError: the device cannot.
        """
        if self._observer is not None:
            self._observer.before(self)
        start = time.perf_counter()
        try:
            self._request.start_async()  # infer() would gather all outputs, which costs more than a small graph
            self._request.wait()
        except RuntimeError as error:
            raise UserError(f"{self._path}: cannot be run ({reason_of(error)}); regenerate the folder") from error
        self.seconds += time.perf_counter() - start
        self.calls += 1
        if self._observer is not None:
            self._observer.after(self)

    def output(self, name: str) -> Array:
        """An output of the last run, valid until the next; or an input as the next run reads it.

        Raises:
            UserError: there is no such port.
        """
        bound = self._bound.get(name)
        if bound is None:
            try:
                bound = self._request.get_tensor(name)
            except RuntimeError as error:
                raise UserError(f"{self._path}: has no output {name}; regenerate the folder") from error
        data: Array = bound.data
        return data

    def _port(self, find: Any, name: str) -> Any:
        try:
            return find(name)
        except RuntimeError as error:
            raise UserError(f"{self._path}: has no {name} ({reason_of(error)}); regenerate the folder") from error

    def _bind(self, name: str, port: Any, shape: Sequence[int] | None = None) -> Array:
        try:
            # OpenVINO owns the memory: it would not keep a numpy array of ours alive.
            tensor = self._tensor(port.get_element_type(), port.get_shape() if shape is None else list(shape))
            self._request.set_tensor(name, tensor)
        except RuntimeError as error:
            raise UserError(
                f"{self._path}: does not take {name} of shape {shape} ({reason_of(error)}); regenerate the folder"
            ) from error
        self._bound[name] = tensor
        tensor.data.fill(0)
        data: Array = tensor.data
        return data


def reason_of(error: Exception) -> str:
    """The last informative line of an OpenVINO error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
