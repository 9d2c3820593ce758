"""Optional dependencies: which extra brings a module that is not installed."""

from __future__ import annotations

_EXTRAS = {
    "bench": ("matplotlib", "onnx", "onnx_ir", "onnxruntime"),
    "data": ("datasets", "pyarrow"),
    "ray": ("ray",),
    "report": ("altair", "vl_convert"),
    "nemo": ("fontTools", "lightning", "nemo", "nemo-toolkit", "nemo_toolkit"),
    "export": ("safetensors", "torch"),
    "transformers": ("tokenizers", "transformers"),
}
"""Modules and distributions that a verb may miss, by the extra that brings them."""


def missing_extra(error: Exception) -> str | None:
    """What to install for a module that is missing, in one line, if that is what the error says."""
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = next((extra for extra, names in _EXTRAS.items() if name in names), None)
    return extra and f"{name} is not installed; pip install 'nemotron-ov[{extra}]'"
