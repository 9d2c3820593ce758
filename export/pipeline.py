"""Checkpoint in, FP32 bundle out.

The graphs are traced from modules of ours that hold the checkpoint's tensors (:mod:`export.graphs.modules`). NeMo is an
oracle: what the graphs are compared with, and what ``--encoder nemo`` exports.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import parity
from export.bundle import BUNDLE, GRAPHS, Bundle, Metadata, graph_file, write_metadata, write_vocabulary
from export.checkpoint import Checkpoint
from export.checkpoint.hub import checkpoint_facts
from export.checkpoint.weights import read_weights
from export.contract import expected_ports
from export.digest import file_facts
from export.errors import UserError
from export.folders import new_directory, refuse_existing
from export.graphs.saving import save_graph
from export.profiles import GraphOracle, profile_name, tier_warnings
from export.progress import note, task
from export.vocabulary import prune_vocabulary
from export.weight_types import Counts, count_constants

if TYPE_CHECKING:
    from torch import nn

    from export.geometry import Geometry
    from export.graphs.modules import Recognizer

ENCODERS = ("rewritten", "nemo")
"""``rewritten``: the encoder step rewritten for inference. ``nemo``: NeMo's modules as they are, as published."""

CACHES = ("channel", "kv")
"""What ``cache_channel`` holds: the attention layers' inputs, as NeMo's, or their projected keys and values."""

ORACLES: dict[GraphOracle, str] = {"nemo": "NeMo", "torch": "the modules they were traced from"}
"""What the progress calls an oracle."""


def export_checkpoint(
    checkpoint: Checkpoint,
    directory: Path,
    *,
    lookahead: int = 0,
    chunk_ms: int | None = None,
    encoder: str = "rewritten",
    cache: str = "channel",
    force: bool = False,
    force_lookahead: bool = False,
    languages: Sequence[str] = (),
    scripts: Sequence[str] = (),
    oracle: GraphOracle | None = None,
) -> Bundle:
    """Export a checkpoint to an FP32 folder, every graph checked against PyTorch before it is written.

    Args:
        checkpoint: what :func:`export.checkpoint.open_checkpoint` read.
        directory: the new folder; appears only when complete.
        lookahead: right context R in encoder frames.
        chunk_ms: new audio a step; None for the most whole lookahead groups that 1,120 ms hold.
        encoder: one of :data:`ENCODERS`.
        cache: one of :data:`CACHES`; the ``nemo`` encoder has NeMo's.
        force: replace an existing folder.
        force_lookahead: allow a lookahead that the checkpoint was not trained with.
        languages: keep only the pieces that these need; see :func:`export.vocabulary.prune_vocabulary`.
        scripts: the same by scripts instead.
        oracle: what the graphs are compared with; None for NeMo where the checkpoint is a ``.nemo`` file.

    Raises:
        UserError: options that do not fit, an existing folder, a checkpoint that cannot be exported.
        ParityError: a graph differs from its oracle by more than :data:`export.parity.LIMIT`.
    """
    _check_options(encoder, cache, oracle)
    oracle = oracle or _default_oracle(checkpoint, encoder)
    geometry, warnings = checkpoint.geometry(lookahead, chunk_ms, force=force_lookahead)
    pruning = prune_vocabulary(checkpoint, languages=languages, scripts=scripts)
    warnings += [*tier_warnings(checkpoint, geometry.lookahead, geometry.chunk_ms, cache), *pruning.warnings]
    if encoder == "rewritten":
        missed = (geometry.lead_mel_frames - geometry.pre_encode_cache) * geometry.hop_ms
        warnings.append(
            f"the clients' loop does not transcribe the last {missed:g} ms of a recording that fits in one chunk; end "
            "recordings with silence, or use the streaming runtime"
        )
    refuse_existing(directory, kind=BUNDLE, force=force)
    for warning in warnings:
        note(f"warning: {warning}")
    with new_directory(directory, kind=BUNDLE, force=force) as temporary, ThreadPoolExecutor() as threads:
        origin = threads.submit(checkpoint_facts, pruning.checkpoint)  # hashes it
        metadata = _metadata(pruning.checkpoint, geometry, encoder, cache, oracle, warnings)
        recordings, constants = _write_graphs(
            checkpoint, metadata, geometry, pruning.rows, oracle, temporary, directory, threads
        )
        gc.collect()
        files = {file.name: threads.submit(file_facts, file) for file in temporary.iterdir()}
        with task(f"checking the graphs against {ORACLES[oracle]}"):
            results = {name: parity.check(name, temporary / graph_file(name), recordings[name]) for name in GRAPHS}
        checkpoint.require_unchanged()
        _print_parity(results)
        write_vocabulary(temporary, pruning.checkpoint.vocabulary)
        facts = {"parity": results, "constants": constants, "vocabulary": pruning.record}
        metadata = metadata.model_copy(update=facts | {"checkpoint": origin.result()})
        write_metadata(temporary, metadata, {name: each.result() for name, each in files.items()})
    return Bundle.open(directory)


def _check_options(encoder: str, cache: str, oracle: GraphOracle | None) -> None:
    """Refuse options that do not fit each other.

    Raises:
        UserError: naming the option.
    """
    if encoder not in ENCODERS:
        raise UserError(f"--encoder {encoder}: choose one of {', '.join(ENCODERS)}")
    if cache not in CACHES:
        raise UserError(f"--cache {cache}: choose one of {', '.join(CACHES)}")
    if encoder == "nemo" and cache != "channel":
        raise UserError(f"--cache {cache}: NeMo's encoder has its own cache; leave it out, or use --encoder rewritten")
    if encoder == "nemo" and oracle == "torch":
        raise UserError("--oracle torch: NeMo's encoder is made with NeMo, which is its oracle then; leave it out")


def _default_oracle(checkpoint: Checkpoint, encoder: str) -> GraphOracle:
    """NeMo for a ``.nemo`` file, where NeMo is installed, and always for NeMo's encoder; else the traced modules."""
    if encoder == "nemo":
        return "nemo"
    if checkpoint.shards:
        return "torch"
    if find_spec("nemo") is None:
        note("NeMo is not installed: each graph is compared with the PyTorch module that it is traced from")
        return "torch"
    return "nemo"


def _write_graphs(
    checkpoint: Checkpoint,
    metadata: Metadata,
    geometry: Geometry,
    rows: Sequence[int] | None,
    oracle: GraphOracle,
    folder: Path,
    target: Path,
    threads: ThreadPoolExecutor,
) -> tuple[dict[str, parity.Recording], dict[str, Counts]]:
    """Write every graph into ``folder``, which is to become ``target``.

    ``threads`` read the weights while NeMo is imported.

    Returns:
        What the oracle computed, and the graphs' constants.

    Raises:
        UserError: the checkpoint cannot be read, or a graph cannot be written.
    """
    from export.graphs.modules import build_modules
    from export.graphs.trace import trace  # OpenVINO and torch together
    from export.oracles import module_reference, nemo_reference

    ports, name = expected_ports(metadata), checkpoint.path.name
    recordings: dict[str, parity.Recording] = {}
    model: Recognizer | None = None
    weights = threads.submit(read_weights, checkpoint)
    if oracle == "nemo":
        from export.checkpoint.nemo import import_nemo

        with task("importing NeMo"):
            import_nemo()
    with task(f"reading the weights of {name}"):
        tensors = weights.result()
    del weights
    if oracle == "nemo":
        from export.checkpoint.nemo import load_model, release

        with task(f"restoring {name} with NeMo"):
            model = load_model(checkpoint, tensors)
        with task("running NeMo on the parity inputs"):
            recordings = parity.record(nemo_reference(model, geometry, metadata, rows), geometry, metadata, ports)
        if metadata.encoder == "rewritten":
            release(model)
    if model is None or metadata.encoder == "rewritten":
        with task(f"checking the weights of {name}"):
            model = build_modules(checkpoint, tensors)
    modules = _modules(model, geometry, metadata.encoder, metadata.cache, rows)
    if oracle == "torch":
        with task("running the modules on the parity inputs"):
            recordings = parity.record(module_reference(modules, metadata), geometry, metadata, ports)
    constants = {}
    for graph, module in modules.items():
        with task(f"exporting {graph}"):
            free_mel = graph == "encoder" and metadata.encoder == "rewritten"
            traced = trace(module, ports[graph], free_mel=free_mel)
            try:
                save_graph(traced, folder / graph_file(graph), half=False)
            except OSError as error:
                raise UserError(
                    f"{target}: cannot be written ({error.strerror}); make room there, or choose another folder"
                ) from error
            constants[graph] = count_constants(traced)
            del traced
    return recordings, constants


def _modules(
    model: Recognizer, geometry: Geometry, encoder: str, cache: str, rows: Sequence[int] | None
) -> dict[str, nn.Module]:
    from export.graphs.encoder_nemo import NemoEncoderStep
    from export.graphs.encoder_rewritten import RewrittenEncoderStep
    from export.graphs.preprocessor import LogMel, NemoMel
    from export.graphs.transducer import DecoderStep, JointStep

    rewritten = encoder == "rewritten"
    featurizer = model.preprocessor.featurizer
    short = geometry.chunk_mel_frames < geometry.pre_encode_cache
    return {
        "preprocessor": LogMel(featurizer, masked_frame=short) if rewritten else NemoMel(featurizer),
        "encoder": RewrittenEncoderStep(model, geometry, cache) if rewritten else NemoEncoderStep(model, geometry),
        "decoder": DecoderStep(model, rows, unrolled=rewritten),
        "joint": JointStep(model, rows),
    }


def _metadata(
    checkpoint: Checkpoint,
    geometry: Geometry,
    encoder: str,
    cache: str,
    oracle: GraphOracle,
    warnings: list[str],
) -> Metadata:
    section, prednet = checkpoint.encoder, checkpoint.config["decoder"]["prednet"]
    layers, dim = int(section["n_layers"]), int(section["d_model"])
    tools = ("openvino", "torch", *(["nemo_toolkit"] if oracle == "nemo" else []), "nemotron-ov")
    return Metadata(
        model=checkpoint.name,
        model_class=checkpoint.model_class,
        precision="FP32",
        sample_rate=checkpoint.sample_rate,
        mel_features=checkpoint.mel_features,
        chunk_mel_frames=geometry.chunk_mel_frames,
        pre_encode_cache=geometry.pre_encode_cache,
        total_mel_frames=geometry.total_mel_frames,
        blank_idx=checkpoint.blank_id,
        vocab_size=len(checkpoint.vocabulary),
        decoder_hidden=int(prednet["pred_hidden"]),
        decoder_layers=int(prednet["pred_rnn_layers"]),
        encoder_dim=dim,
        att_context_size=geometry.att_context_size,
        cache_channel_shape=[1, layers, geometry.left_context, 2 * dim if cache == "kv" else dim],
        cache_time_shape=[1, layers, dim, int(section.get("conv_kernel_size", 31)) - 1],
        lang_tag_token_ids=checkpoint.language_tag_ids,
        num_prompts=checkpoint.num_prompts,
        default_prompt_id=checkpoint.default_prompt_id,
        prompt_dictionary=checkpoint.prompts,
        encoder=encoder,
        profile=profile_name(checkpoint, geometry.lookahead, geometry.chunk_ms, cache),
        cache=cache,
        lookahead=geometry.lookahead,
        chunk_ms=geometry.chunk_ms,
        chunk_samples=geometry.chunk_samples,
        subsampling_factor=geometry.subsampling_factor,
        lead_mel_frames=geometry.lead_mel_frames if encoder == "rewritten" else 0,
        knows_short_leads=encoder == "rewritten",
        longer_steps=encoder == "rewritten" and geometry.whole_groups,
        recipe={"name": "fp32"},
        tools={name: version(name) for name in tools},
        warnings=warnings,
    )


def _print_parity(results: dict[str, dict[str, Any]]) -> None:
    for graph, result in results.items():
        worst = max(result["outputs"].items(), key=lambda item: item[1]["relative"])
        note(
            f"  {graph}: {result['steps']} steps, largest difference {worst[1]['max_difference']:.2g} in {worst[0]} "
            f"({worst[1]['relative']:.1g} of its scale, limit {result['limit']:g})"
        )
