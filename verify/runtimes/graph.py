"""A folder's graphs in OpenVINO, whatever loop runs them: properties, compiling, running a request."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from export.bundle import Bundle
from export.errors import UserError
from verify.runtimes.mapped_weights import pages_given_back

FP32_CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
"""Without it the CPU plugin computes in bf16 where the processor can, and an FP32 folder is not FP32."""


def properties(threads: int | None, config: dict[str, str] | None) -> dict[str, str]:
    """OpenVINO properties of a runtime: :data:`FP32_CONFIG`, the threads if any are given, and what overrides both."""
    return FP32_CONFIG | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {}) | (config or {})


def compile_graph(
    core: Any,
    bundle: Bundle,
    graph: str,
    device: str,
    config: dict[str, str],
    shapes: dict[str, list[int]] | None = None,
    *,
    lean: bool = False,
) -> Any:
    """A graph of the folder, compiled; ``shapes`` replaces those of some inputs, -1 where an axis is free.

    With ``lean``, mapped weights do not stay resident beside their packed copy, as they do in the published clients.

    Raises:
        UserError: the device cannot load it.
    """
    path = bundle.graph_path(graph)
    try:
        model = core.read_model(path)
        if shapes:
            model.reshape(shapes)
        with pages_given_back(model, path.with_suffix(".bin")) if lean else nullcontext():
            return core.compile_model(model, device, config)
    except RuntimeError as error:
        raise UserError(f"{path}: {device} cannot load it ({reason_of(error)}); regenerate the folder") from error


def run_request(request: Any, path: Path) -> None:
    """Infer on what a request's inputs hold; ``infer()`` would gather all outputs, which costs more than a small graph.

    Raises:
        UserError: the device cannot run the graph at ``path``.
    """
    try:
        request.start_async()
        request.wait()
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be run ({reason_of(error)}); regenerate the folder") from error


def reason_of(error: Exception) -> str:
    """The last informative line of an OpenVINO error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
