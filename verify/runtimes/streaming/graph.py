"""A folder's graph, compiled for a batch, that reads and writes arrays in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from export.bundle import Bundle
from export.contract import expected_ports
from export.errors import UserError
from verify.runtimes.graph import compile_graph, run_request

Array = NDArray[Any]


class Graph:
    """A compiled graph with one request, whose inputs are arrays that the caller writes.

    Args:
        core: an ``openvino.Core``.
        bundle: the folder.
        graph: one of :data:`export.bundle.GRAPHS`.
        device: OpenVINO device.
        config: OpenVINO properties.
        shapes: of inputs, where they are not those of the file; -1 where an axis stays free.

    Raises:
        UserError: the device cannot load it, or it does not take these shapes.
    """

    def __init__(
        self, core: Any, bundle: Bundle, graph: str, device: str, config: dict[str, str], shapes: dict[str, list[int]]
    ) -> None:
        import openvino as ov

        self._tensor = ov.Tensor
        self._path = bundle.graph_path(graph)
        self._compiled = compile_graph(core, bundle, graph, device, config, shapes, lean=True)
        self._request = self._compiled.create_infer_request()
        self._bound: dict[str, Any] = {}  # tensors of ours, by input or output
        self.calls = 0
        self.input_names = {name for port in self._compiled.inputs for name in port.get_names()}

    def input(self, name: str) -> Array:
        """The zeroed array that the graph reads an input of fixed shape from."""
        return self._bind(name, self._port(self._compiled.input, name))

    def swapped(self, names: Sequence[str]) -> None:
        """Carry these states from run to run without a copy: :meth:`swap` makes each ``NAME_out`` the next ``NAME``."""
        for name in names:
            self.input(name)
            self._bind(f"{name}_out", self._port(self._compiled.output, f"{name}_out"))
        self._swapped = tuple(names)

    def swap(self) -> None:
        """What the last run put out is what the next one reads; its outputs go where its inputs were."""
        for name in self._swapped:
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
        self.calls += 1
        run_request(self._request, self._path)

    def output(self, name: str) -> Array:
        """An input as the next run reads it, or an output of the last run, valid until the next."""
        bound = self._bound.get(name)
        data: Array = (self._request.get_tensor(name) if bound is None else bound).data
        return data

    def _port(self, find: Any, name: str) -> Any:
        try:
            return find(name)
        except RuntimeError as error:
            raise UserError(f"{self._path}: has no {name}; regenerate the folder") from error

    def _bind(self, name: str, port: Any) -> Array:
        # OpenVINO owns the memory: it would not keep a numpy array of ours alive.
        tensor = self._bound[name] = self._tensor(port.get_element_type(), port.get_shape())
        tensor.data.fill(0)
        self._request.set_tensor(name, tensor)
        data: Array = tensor.data
        return data


def batch_shapes(bundle: Bundle, graph: str, batch: int) -> dict[str, list[int]]:
    """The input shapes of a graph for ``batch`` rows; LSTM states hold them on their second axis."""
    shapes = {}
    for port in expected_ports(bundle.metadata)[graph].inputs:
        axis = 1 if port.name in ("h_in", "c_in") else 0
        shapes[port.name] = [batch if index == axis else size for index, size in enumerate(port.shape)]
    return shapes
