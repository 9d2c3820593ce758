"""Checkpoint in, FP32 bundle out."""

from __future__ import annotations

import gc
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import parity
from export.bundle import (
    GRAPHS,
    Bundle,
    Metadata,
    graph_file,
    new_directory,
    refuse_existing,
    write_metadata,
    write_vocabulary,
)
from export.checkpoint import Checkpoint, load_model
from export.constants import count_constants
from export.contract import expected_ports
from export.errors import UserError
from export.progress import note, task

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from torch import nn

    from export.geometry import Geometry

GRAPH_KINDS = ("fused", "nemo")
"""``fused``: the encoder step rewritten for inference. ``nemo``: NeMo's modules as they are, the published graph."""


def export_checkpoint(
    checkpoint: Checkpoint,
    directory: Path,
    *,
    lookahead: int = 0,
    chunk_ms: int | None = None,
    graph: str = "fused",
    force: bool = False,
    force_lookahead: bool = False,
) -> Bundle:
    """Export a checkpoint to an FP32 folder, every graph checked against NeMo before it is written.

    Args:
        checkpoint: what :func:`export.checkpoint.open_checkpoint` read.
        directory: the new folder; appears only when complete.
        lookahead: right context R in encoder frames.
        chunk_ms: new audio a step; None for the most whole lookahead groups that 1,120 ms hold.
        graph: one of :data:`GRAPH_KINDS`.
        force: replace an existing folder.
        force_lookahead: allow a lookahead that the checkpoint was not trained with.

    Raises:
        UserError: options that do not fit, an existing folder, a checkpoint that cannot be exported.
        ParityError: a graph differs from NeMo by more than :data:`export.parity.LIMIT`.
    """
    if graph not in GRAPH_KINDS:
        raise UserError(f"--graph {graph}: choose one of {', '.join(GRAPH_KINDS)}")
    geometry, warnings = checkpoint.geometry(lookahead, chunk_ms, force=force_lookahead)
    refuse_existing(directory, force=force)
    for warning in warnings:
        note(f"warning: {warning}")
    with new_directory(directory, force=force) as temporary:
        with task(f"restoring {checkpoint.path.name}"):
            model = load_model(checkpoint)
        metadata = _metadata(checkpoint, model, geometry, graph, warnings)
        ports = expected_ports(metadata)
        with task("running NeMo on the parity inputs"):
            recordings = parity.record(model, geometry, metadata, ports)
        from export.trace import trace  # OpenVINO and torch together

        constants = {}
        for name, module in _modules(model, geometry, graph).items():
            with task(f"exporting {name}"):
                traced = trace(module, ports[name])
                _save(traced, temporary / graph_file(name))
                constants[name] = count_constants(traced)
                del traced
        del model, module
        gc.collect()
        with task("checking the graphs against NeMo"):
            results = {name: parity.check(name, temporary / graph_file(name), recordings[name]) for name in GRAPHS}
        _print_parity(results)
        write_vocabulary(temporary, checkpoint.vocabulary)
        write_metadata(temporary, metadata.model_copy(update={"parity": results, "constants": constants}))
    return Bundle.open(directory)


def _modules(model: EncDecRNNTBPEModel, geometry: Geometry, graph: str) -> dict[str, nn.Module]:
    from export.graphs.encoder_fused import FusedEncoderStep
    from export.graphs.encoder_nemo import NemoEncoderStep
    from export.graphs.preprocessor import LogMel, NemoMel
    from export.graphs.transducer import DecoderStep, JointStep

    fused = graph == "fused"
    featurizer = model.preprocessor.featurizer
    return {
        "preprocessor": LogMel(featurizer) if fused else NemoMel(featurizer),
        "encoder": FusedEncoderStep(model, geometry) if fused else NemoEncoderStep(model, geometry),
        "decoder": DecoderStep(model),
        "joint": JointStep(model),
    }


def _save(model: Any, path: Path) -> None:
    import openvino as ov

    ov.save_model(model, path, compress_to_fp16=False)


def _metadata(
    checkpoint: Checkpoint, model: EncDecRNNTBPEModel, geometry: Geometry, graph: str, warnings: list[str]
) -> Metadata:
    layers, dim = len(model.encoder.layers), int(model.encoder.d_model)
    return Metadata(
        model=checkpoint.path.stem,
        model_class=checkpoint.model_class,
        precision="FP32",
        sample_rate=checkpoint.sample_rate,
        mel_features=checkpoint.mel_features,
        chunk_mel_frames=geometry.chunk_mel_frames,
        pre_encode_cache=geometry.pre_encode_cache,
        total_mel_frames=geometry.total_mel_frames,
        blank_idx=checkpoint.blank_id,
        vocab_size=len(checkpoint.vocabulary),
        decoder_hidden=int(model.decoder.pred_hidden),
        decoder_layers=int(model.decoder.pred_rnn_layers),
        encoder_dim=dim,
        att_context_size=geometry.att_context_size,
        cache_channel_shape=[1, layers, geometry.left_context, dim],
        cache_time_shape=[1, layers, dim, int(model.encoder.conv_context_size[0])],
        lang_tag_token_ids=checkpoint.language_tag_ids,
        num_prompts=checkpoint.num_prompts,
        default_prompt_id=checkpoint.default_prompt_id,
        prompt_dictionary=checkpoint.prompts,
        graph=graph,
        lookahead=geometry.lookahead,
        chunk_ms=geometry.chunk_ms,
        chunk_samples=geometry.chunk_samples,
        subsampling_factor=geometry.subsampling_factor,
        lead_mel_frames=geometry.lead_mel_frames if graph == "fused" else 0,
        recipe={"name": "fp32"},
        checkpoint={"source": checkpoint.source, "file": checkpoint.path.name, "sha256": checkpoint.sha256},
        tools={name: version(name) for name in ("openvino", "torch", "nemo_toolkit", "nemotron-ov")},
        warnings=warnings,
    )


def _print_parity(results: dict[str, dict[str, Any]]) -> None:
    for graph, result in results.items():
        worst = max(result["outputs"].items(), key=lambda item: item[1]["relative"])
        note(
            f"  {graph}: {result['steps']} steps, largest difference {worst[1]['max_difference']:.2g} in {worst[0]} "
            f"({worst[1]['relative']:.1g} of its scale, limit {result['limit']:g})"
        )
