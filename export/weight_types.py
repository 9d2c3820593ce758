"""Constants of a graph, counted by the type they are stored in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino as ov

Counts = dict[str, dict[str, int]]


def count_constants(model: ov.Model) -> Counts:
    """Constants of a graph by the element type they are stored in.

    Returns:
        Type name (``i8``, ``f16``, ``f32``, ``i64``, …) to ``count``, ``elements`` and ``bytes``; weights, their
        scales, and the shapes and axes of operations (``i64``, ``i32``) alike.
    """
    counts: Counts = {}
    for node in constants(model):
        entry = counts.setdefault(stored_type(node), {"count": 0, "elements": 0, "bytes": 0})
        size = elements(node)
        entry["count"] += 1
        entry["elements"] += size
        entry["bytes"] += math.ceil(size * node.get_element_type().bitwidth / 8)
    return dict(sorted(counts.items()))


def constants(model: ov.Model) -> Iterator[Any]:
    """The graph's ``Constant`` nodes."""
    return (node for node in model.get_ops() if node.get_type_name() == "Constant")


def stored_type(node: Any) -> str:
    """Name of the element type that a constant is stored in."""
    return str(node.get_element_type().get_type_name())


def elements(node: Any) -> int:
    """Number of a constant's elements."""
    return math.prod(node.get_output_shape(0))
