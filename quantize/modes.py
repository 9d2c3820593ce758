"""The weight formats that NNCF writes and OpenVINO's CPU plugin runs, under NNCF's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CompressionMode = Literal[
    "int8_sym",
    "int8_asym",
    "int4_sym",
    "int4_asym",
    "int3_sym",
    "int2_sym",
    "nf4",
    "fp4",
    "mxfp4",
    "nvfp4",
    "fp8_e4m3",
    "mxfp8_e4m3",
]
"""``nncf.CompressWeightsMode`` without the codebooks, which are tables beside the weights."""

BackupMode = Literal["none", "int8_sym", "int8_asym", "fp8_e4m3", "mxfp8_e4m3"]


@dataclass(frozen=True)
class Mode:
    """How a mode stores weights.

    Attributes:
        stored: OpenVINO's name of the element type.
        label: for people and metadata.
        bits: of one weight.
        group_size: the only one that the format knows, or None for any.
        default_backup: what NNCF falls back to where no other mode is given.
        data_aware: whether AWQ, scale estimation, GPTQ and LoRA correction know the mode.
    """

    stored: str
    label: str
    bits: int
    group_size: int | None = None
    default_backup: BackupMode = "int8_asym"
    data_aware: bool = False


MODES: dict[str, Mode] = {
    "int8_sym": Mode("i8", "INT8", 8),
    "int8_asym": Mode("u8", "INT8", 8),
    "int4_sym": Mode("i4", "INT4", 4, data_aware=True),
    "int4_asym": Mode("u4", "INT4", 4, data_aware=True),
    "int3_sym": Mode("u3", "INT3", 3, data_aware=True),
    "int2_sym": Mode("u2", "INT2", 2, data_aware=True),
    "nf4": Mode("nf4", "NF4", 4, data_aware=True),
    "fp4": Mode("f4e2m1", "FP4", 4, default_backup="fp8_e4m3"),
    "mxfp4": Mode("f4e2m1", "MXFP4", 4, group_size=32, default_backup="mxfp8_e4m3"),
    "nvfp4": Mode("f4e2m1", "NVFP4", 4, group_size=16),
    "fp8_e4m3": Mode("f8e4m3", "FP8", 8, default_backup="fp8_e4m3"),
    "mxfp8_e4m3": Mode("f8e4m3", "MXFP8", 8, group_size=32, default_backup="mxfp8_e4m3"),
}

INTEGER_8 = ("int8_sym", "int8_asym")
"""Per channel, every layer, data-free."""
