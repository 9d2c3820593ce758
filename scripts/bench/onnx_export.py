"""The encoder exported plainly to ONNX, and its smaller forms: what users of ONNX Runtime run.

Sources of the recipes: sherpa-onnx's export scripts for NeMo models (Apache-2.0), which export with
``torch.onnx.export`` and quantize every weight with ``quantize_dynamic(weight_type=QuantType.QUInt8)``; Microsoft's
for the English sibling, which rounds the matrix products' weights to 4 bits, symmetric, in blocks of 32, and computes
them at accuracy level 4 (activations in INT8). Convolutions, pointwise ones included, stay in FP32 there.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from export.bundle import BUNDLE, GRAPHS, METADATA, VOCABULARY, Bundle, graph_file
from export.contract import expected_ports
from export.folders import new_directory
from export.removal import FolderKind, scratch_folder

ENCODER = "encoder.onnx"

ONNX = FolderKind("an ONNX build", METADATA, re.compile(rf"{BUNDLE.files.pattern}|{re.escape(ENCODER)}(\.data)?"))
"""What a folder of such a build holds."""

OPSET = 17

INT4 = {"bits": 4, "block_size": 32, "is_symmetric": True, "accuracy_level": 4}
"""Arguments of ``MatMulNBitsQuantizer``."""


def export_encoder(checkpoint: str, source: Bundle, directory: Path) -> None:
    """Write a folder with the encoder as ONNX; everything else in it is the source's.

    Args:
        checkpoint: as ``open_checkpoint`` takes it.
        source: a ``--encoder nemo`` folder of that checkpoint; its geometry is exported.
        directory: the new folder; appears only when complete.
    """
    import onnx
    import torch

    from export.checkpoint import open_checkpoint
    from export.checkpoint.nemo import load_model
    from export.graphs.encoder_nemo import NemoEncoderStep

    opened = open_checkpoint(checkpoint)
    geometry, _ = opened.geometry(source.metadata.lookahead, round(source.metadata.chunk_ms))
    ports = expected_ports(source.metadata)["encoder"]
    example = tuple(
        torch.zeros(port.shape, dtype=torch.float32 if port.dtype == "f32" else torch.int32) for port in ports.inputs
    )
    with new_directory(directory, kind=ONNX) as target, scratch_folder(target.parent / "onnx") as scratch:
        with torch.inference_mode():
            torch.onnx.export(
                NemoEncoderStep(load_model(opened), geometry).eval(),
                example,
                str(scratch / ENCODER),
                dynamo=False,
                opset_version=OPSET,
                input_names=[port.name for port in ports.inputs],
                output_names=[port.name for port in ports.outputs],
            )
        # Past 2 GB the exporter writes one file for each tensor; one for all loads faster.
        model = onnx.load(scratch / ENCODER)
        onnx.save(model, target / ENCODER, save_as_external_data=True, location=f"{ENCODER}.data")
        _copy_rest(source.path, target)


def quantize_encoder(source: Path, directory: Path, precision: str) -> None:
    """Write a folder whose ONNX encoder is the source's, smaller.

    Args:
        source: what :func:`export_encoder` wrote.
        directory: the new folder; appears only when complete.
        precision: ``int8`` for dynamic INT8, ``int4`` for weights of :data:`INT4`.
    """
    quantize = {"int8": _to_int8, "int4": _to_int4}[precision]
    with new_directory(directory, kind=ONNX) as target:
        quantize(source / ENCODER, target / ENCODER)
        _copy_rest(source, target)


def _to_int8(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QUInt8, use_external_data_format=True)


def _to_int4(source: Path, target: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(str(source), **INT4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=True)


def _copy_rest(source: Path, target: Path) -> None:
    """Metadata, vocabulary and every graph but the encoder."""
    names = [graph_file(graph) for graph in GRAPHS if graph != "encoder"]
    for name in [*names, *(name.replace(".xml", ".bin") for name in names), METADATA, VOCABULARY]:
        shutil.copyfile(source / name, target / name)
