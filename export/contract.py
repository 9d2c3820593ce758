"""The bundle contract as data: every graph's ports, derived from the metadata that clients read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from export.bundle import GRAPHS, Bundle, Metadata
from export.errors import UserError
from export.vocabulary import checkpoint_ids

Shape = tuple[int, ...]
DYNAMIC = -1


@dataclass(frozen=True)
class Port:
    """One input or output: its name, shape (:data:`DYNAMIC` where free) and element type as OpenVINO names it."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Ports:
    """A graph's inputs and outputs, in the contract's order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def expected_ports(metadata: Metadata) -> dict[str, Ports]:
    """Ports of the four graphs for batch 1."""
    mel, dim, hidden = metadata.mel_features, metadata.encoder_dim, metadata.decoder_hidden
    frames = metadata.chunk_mel_frames // metadata.subsampling_factor
    channel, time = tuple(metadata.cache_channel_shape), tuple(metadata.cache_time_shape)
    state = (metadata.decoder_layers, 1, hidden)
    encoder_inputs = [
        Port("mel", (1, mel, metadata.total_mel_frames), "f32"),
        Port("mel_length", (1,), "i32"),
        Port("cache_channel", channel, "f32"),
        Port("cache_time", time, "f32"),
        Port("cache_len", (1,), "i32"),
    ]
    if metadata.has_prompt:
        encoder_inputs.append(Port("prompt_id", (1,), "i32"))
    return {
        "preprocessor": Ports(
            (Port("audio", (1, DYNAMIC), "f32"), Port("audio_length", (1,), "i32")),
            (Port("mel", (1, mel, DYNAMIC), "f32"), Port("mel_length", (1,), "i32")),
        ),
        "encoder": Ports(
            tuple(encoder_inputs),
            (
                Port("encoded", (1, dim, frames), "f32"),
                Port("encoded_length", (1,), "i32"),
                Port("cache_channel_out", channel, "f32"),
                Port("cache_time_out", time, "f32"),
                Port("cache_len_out", (1,), "i32"),
            ),
        ),
        "decoder": Ports(
            (
                Port("token", (1, 1), "i32"),
                Port("token_length", (1,), "i32"),
                Port("h_in", state, "f32"),
                Port("c_in", state, "f32"),
            ),
            (Port("decoder_out", (1, hidden, 1), "f32"), Port("h_out", state, "f32"), Port("c_out", state, "f32")),
        ),
        "joint": Ports(
            (Port("encoder", (1, dim, 1), "f32"), Port("decoder", (1, hidden, 1), "f32")),
            (Port("logits", (1, 1, 1, metadata.vocab_size + 1), "f32"),),
        ),
    }


def folder_problems(bundle: Bundle) -> list[str]:
    """What `inspect` says of a folder: damaged files, else what breaks the contract; empty when it is good."""
    damaged = [f"{name}: differs from what was written" for name in bundle.damaged_files()]
    return damaged or contract_problems(bundle)


def contract_problems(bundle: Bundle) -> list[str]:
    """Everything about a folder that would stop a published client, as one line each; empty when it conforms."""
    metadata = bundle.metadata
    problems = _metadata_problems(metadata)
    try:
        pieces = len(bundle.vocabulary)
        if pieces != metadata.vocab_size:
            problems.append(f"vocabulary: {pieces} pieces, metadata.vocab_size is {metadata.vocab_size}")
    except UserError as error:
        problems.append(f"vocabulary: {error}")
    ports = expected_ports(metadata)
    for graph in GRAPHS:
        problems += _graph_problems(bundle, graph, ports[graph])
    problems += [f"{name}: size or hash differs from metadata.files" for name in bundle.damaged_files()]
    return problems


def _metadata_problems(metadata: Metadata) -> list[str]:
    problems = []
    if metadata.blank_idx != metadata.vocab_size:
        problems.append(f"metadata: blank_idx {metadata.blank_idx} is not vocab_size {metadata.vocab_size}")
    if metadata.total_mel_frames != metadata.pre_encode_cache + metadata.chunk_mel_frames:
        problems.append("metadata: total_mel_frames is not pre_encode_cache + chunk_mel_frames")
    if metadata.chunk_ms and metadata.chunk_ms != 10 * metadata.chunk_mel_frames:  # every client cuts frames of 10 ms
        problems.append(f"metadata: chunk_ms {metadata.chunk_ms:g} is not {metadata.chunk_mel_frames} frames of 10 ms")
    if metadata.chunk_samples and metadata.chunk_samples * 100 != metadata.chunk_mel_frames * metadata.sample_rate:
        problems.append(
            f"metadata: chunk_samples {metadata.chunk_samples} is not {metadata.chunk_mel_frames} frames of 10 ms at "
            f"sample_rate {metadata.sample_rate}"
        )
    if "lookahead" in metadata.model_fields_set and metadata.att_context_size[1] != metadata.lookahead:
        problems.append(f"metadata: lookahead {metadata.lookahead} is not that of att_context_size")
    if metadata.prompt_dictionary is not None:
        rows = metadata.num_prompts or 0
        outside = [name for name, row in metadata.prompt_dictionary.items() if not 0 <= row < rows]
        if outside:
            problems.append(f"metadata: prompts {', '.join(outside)} lie outside of num_prompts {rows}")
        if metadata.default_prompt_id is None:
            problems.append("metadata: default_prompt_id is missing")
    try:
        pruned = checkpoint_ids(metadata.vocabulary)
        if pruned is not None and len(pruned) != metadata.vocab_size:
            problems.append(f"metadata: vocabulary keeps {len(pruned)} pieces, vocab_size is {metadata.vocab_size}")
    except UserError as error:
        problems.append(str(error))
    wrong = [index for index in metadata.lang_tag_token_ids if not 0 <= index < metadata.vocab_size]
    if wrong:
        problems.append(f"metadata: lang_tag_token_ids {wrong} lie outside of the vocabulary")
    return problems


def _graph_problems(bundle: Bundle, graph: str, expected: Ports) -> list[str]:
    import openvino as ov

    try:
        model = ov.Core().read_model(bundle.graph_path(graph))
        problems = _port_problems(model, graph, expected)
        if graph == "encoder" and bundle.metadata.longer_steps and not problems:
            problems += longer_step_problems(model, bundle.metadata)
        return problems
    except (RuntimeError, UnicodeDecodeError) as error:  # names that are no text, ports without names
        return [f"{graph}: OpenVINO cannot read it ({_line(error)})"]


def longer_step_problems(model: Any, metadata: Metadata) -> list[str]:
    """Why an encoder takes no step of two chunks, though the metadata say so, as one line; nothing where it does.

    Args:
        model: the encoder, an ``openvino.Model``, which is reshaped.
        metadata: of its folder.
    """
    frames = 2 * metadata.chunk_mel_frames // metadata.subsampling_factor
    wanted = {"encoded": (1, metadata.encoder_dim, frames), "cache_channel_out": tuple(metadata.cache_channel_shape)}
    try:
        model.reshape({"mel": [1, metadata.mel_features, metadata.total_mel_frames + metadata.chunk_mel_frames]})
        found = {name: tuple(model.output(name).get_partial_shape().to_shape()) for name in wanted}
    except RuntimeError as error:
        return [f"encoder: metadata.longer_steps is true, and it takes no step of two chunks ({_line(error)})"]
    if found == wanted:
        return []
    return [f"encoder: metadata.longer_steps is true, and a step of two chunks gives {found}, expected {wanted}"]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _port_problems(model: Any, graph: str, expected: Ports) -> list[str]:
    problems = []
    for side, wanted, actual in (("input", expected.inputs, model.inputs), ("output", expected.outputs, model.outputs)):
        by_name = {name: port for port in actual for name in port.get_names()}
        for port in wanted:
            found = by_name.get(port.name)
            if found is None:
                problems.append(f"{graph}: {side} {port.name} is missing")
                continue
            shape = tuple(d.get_length() if d.is_static else DYNAMIC for d in found.get_partial_shape())
            if len(shape) != len(port.shape) or any(
                want not in (have, DYNAMIC) and have != DYNAMIC for have, want in zip(shape, port.shape, strict=True)
            ):
                problems.append(f"{graph}: {side} {port.name} has shape {shape}, expected {port.shape}")
            dtype = found.get_element_type().to_string()
            if dtype != port.dtype:
                problems.append(f"{graph}: {side} {port.name} is {dtype}, expected {port.dtype}")
        if side == "input":
            known = {port.name for port in wanted}
            extra = [port.get_any_name() for port in actual if known.isdisjoint(port.get_names())]
            problems += [f"{graph}: unknown input {name}" for name in extra]
    return problems
