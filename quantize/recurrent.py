"""LSTM weights in INT8: NNCF compresses none, OpenVINO runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino as ov

LSTM_WEIGHTS = {"LSTMSequence": (4, 5), "LSTMCell": (3, 4)}
"""Inputs W (from below) and R (from the step before), [(1,) 4·hidden, features]."""

_LARGEST = 127


def compress_lstm(model: ov.Model) -> int:
    """Store the W and R of every LSTM as symmetric INT8 with an f16 scale for each gate row; biases stay.

    Args:
        model: changed in place.

    Returns:
        How many constants were compressed.
    """
    changed = 0
    for node in model.get_ops():
        for index in LSTM_WEIGHTS.get(node.get_type_name(), ()):
            constant = _constant(node.input_value(index).get_node())
            if constant is not None:
                node.input(index).replace_source_output(_compressed(constant, node.input_value(index)).output(0))
                changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def _constant(node: Any) -> Any | None:
    """The floating-point constant, behind its conversion where it is stored in half precision."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    is_weight = node.get_type_name() == "Constant" and node.get_element_type().is_real()
    return node if is_weight else None


def _compressed(constant: Any, port: Any) -> Any:
    from openvino import opset13 as ops

    name = constant.get_friendly_name().removesuffix("_compressed")
    values = constant.get_data().astype(np.float32)
    scale = np.abs(values).max(axis=-1, keepdims=True) / _LARGEST
    scale = np.maximum(scale, np.finfo(np.float16).tiny).astype(np.float16)
    levels = np.clip(np.rint(values / scale.astype(np.float32)), -_LARGEST, _LARGEST).astype(np.int8)
    stored = ops.constant(levels)
    stored.set_friendly_name(name)
    scales = ops.constant(scale)
    scales.set_friendly_name(f"{name}/scale")
    return ops.convert(ops.multiply(ops.convert(stored, "f16"), scales), port.get_element_type().to_string())
