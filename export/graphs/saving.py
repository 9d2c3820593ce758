"""Writing a graph, and saying what was missing where the disk is too small for it."""

from __future__ import annotations

import errno
import shutil
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov


def save_graph(model: ov.Model, path: Path, *, half: bool) -> None:
    """Write ``path`` (.xml) and its weights (.bin).

    Args:
        model: the graph.
        path: where to.
        half: store floating-point constants in FP16.

    Raises:
        OSError: it cannot be written. OpenVINO does not say why; the error says what is needed and what is free.
    """
    import openvino as ov

    try:
        ov.save_model(model, path, compress_to_fp16=half)
    except (RuntimeError, OSError) as error:
        free = shutil.disk_usage(path.parent).free
        needed = _constant_bytes(model) * (0.5 if half else 1.0)
        reason = str(error).strip().splitlines()[-1]
        room = f"about {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free"
        raise OSError(errno.EIO, f"{reason}; {room}") from error


def _constant_bytes(model: ov.Model) -> float:
    """Bytes of a graph's constants as they are in memory."""
    constants = [node.output(0) for node in model.get_ops() if node.get_type_name() == "Constant"]
    return float(sum(prod(output.get_shape()) * output.get_element_type().bitwidth / 8 for output in constants))
