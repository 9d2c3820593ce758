"""PyTorch module to ``ov.Model``, with the contract's names, shapes and types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from export.contract import DYNAMIC, Port, Ports

if TYPE_CHECKING:
    from torch import Tensor, nn

_DTYPES = {"f32": (torch.float32, ov.Type.f32), "i32": (torch.int32, ov.Type.i32)}
_EXAMPLE_LENGTH = 16_000  # for free axes; any length traces the same graph


def trace(module: nn.Module, ports: Ports, *, free_mel: bool = False) -> ov.Model:
    """Trace a step module.

    TorchScript tracing (not ``torch.export``) keeps module paths in node names, which recipes address.

    Args:
        module: in evaluation mode; its ``forward`` takes the ports' inputs by name, in order.
        ports: the contract's inputs and outputs.
        free_mel: trace with a free time axis of ``mel``, so that nothing in the graph depends on its length and
            :meth:`openvino.Model.reshape` can give it another one.

    Returns:
        A model whose ports carry exactly those names, shapes and types. Its constants may share memory with the
        module's parameters.
    """
    with torch.no_grad():
        example = {port.name: _example(port) for port in ports.inputs}
        # PyTorch's own check traces and runs the module three times more, and proves less than parity does.
        decoder = TorchScriptPythonDecoder(module.eval(), example_input=example, trace_kwargs={"check_trace": False})
        model = ov.convert_model(
            decoder,
            input=[(port.name, _shape(port, free_mel), _DTYPES[port.dtype][1]) for port in ports.inputs],
        )
    for port in ports.inputs:
        parameter = model.input(port.name)
        parameter.get_tensor().set_names({port.name})
        parameter.get_node().set_friendly_name(port.name)
    for port, output in zip(ports.outputs, model.outputs, strict=True):
        output.get_tensor().set_names({port.name})
        output.get_node().set_friendly_name(port.name)
    if free_mel:
        model.reshape({port.name: ov.PartialShape(list(port.shape)) for port in ports.inputs})
    return model


def _shape(port: Port, free_mel: bool) -> ov.PartialShape:
    """What an input is traced with."""
    free = free_mel and port.name == "mel"
    return ov.PartialShape([*port.shape[:-1], DYNAMIC] if free else list(port.shape))


def _example(port: Port) -> Tensor:
    """Zeros, which every step accepts."""
    shape = [_EXAMPLE_LENGTH if size == DYNAMIC else size for size in port.shape]
    return torch.zeros(shape, dtype=_DTYPES[port.dtype][0])
