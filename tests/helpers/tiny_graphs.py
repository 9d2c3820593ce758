"""Seeded graphs of a few thousand weights that stand for a bundle's four, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from export.bundle import GRAPHS, Bundle, Metadata, graph_file, write_metadata, write_vocabulary
from quantize.samples import CalibrationData, GraphSamples, Index, Origin, source_facts, write_index, write_shards

WIDTH = 32
FRAMES = 6


def _weights(generator: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return generator.standard_normal(shape).astype(np.float32)


def _named(node: ov.Node, name: str) -> ov.Node:
    node.set_friendly_name(name)
    return node


def product(data: ov.Node, weights: NDArray[np.float32], module: str) -> ov.Node:
    """A linear layer, named as tracing names it."""
    constant = _named(ops.constant(weights), f"self.{module}.weight")
    return _named(ops.matmul(data, constant, False, True), f"__module.{module}/aten::linear/MatMul")


def encoder(kind: str) -> ov.Model:
    """Products and an attention whose positions are computed from a constant (``nemo``) or stored (``rewritten``)."""
    generator = np.random.default_rng(0)
    mel = _named(ops.parameter([1, FRAMES, WIDTH], np.float32), "mel")
    mel.output(0).set_names({"mel"})
    hidden = product(mel, _weights(generator, WIDTH, WIDTH), "encoder.pre_encode.out")
    hidden = product(hidden, _weights(generator, WIDTH, WIDTH), "encoder.layers.0.self_attn.linear_q")
    if kind == "nemo":
        table = ops.constant(_weights(generator, 1, FRAMES, WIDTH))
        positions = product(table, _weights(generator, WIDTH, WIDTH), "encoder.layers.0.self_attn.linear_pos")
        transposed = ops.transpose(positions, ops.constant(np.array([0, 2, 1])))
        scores = ops.matmul(hidden, transposed, False, False)
        _named(scores, "__module.encoder.layers.0.self_attn/aten::matmul/MatMul")
    else:
        constant = ops.constant(_weights(generator, 1, WIDTH, FRAMES))
        _named(constant, "self.encoder.layers.0.self_attn.linear_pos.positions")
        scores = ops.matmul(hidden, constant, False, False)
        _named(scores, "__module.encoder.layers.0.self_attn.linear_pos/aten::matmul/MatMul")
    mixed = ops.matmul(scores, hidden, False, False)
    _named(mixed, "__module.encoder.layers.0.self_attn/aten::matmul/MatMul_1")
    encoded = product(mixed, _weights(generator, WIDTH, WIDTH), "encoder.layers.1.feed_forward1.linear1")
    encoded.output(0).set_names({"encoded"})
    return ov.Model([encoded], [mel], "encoder")


def decoder() -> ov.Model:
    """An embedding and an LSTM."""
    generator = np.random.default_rng(2)
    token = _named(ops.parameter([1, 1], np.int32), "token")
    states = [_named(ops.parameter([1, 1, WIDTH], np.float32), name) for name in ("h_in", "c_in")]
    for parameter in (token, *states):
        parameter.output(0).set_names({parameter.get_friendly_name()})
    table = _named(ops.constant(_weights(generator, 8, WIDTH)), "self.prediction.embed.weight")
    embedded = ops.gather(table, token, ops.constant(np.array(0, np.int32)))
    matrices = [ops.constant(0.2 * _weights(generator, 1, 4 * WIDTH, WIDTH)) for _ in "WR"]
    bias = ops.constant(np.zeros((1, 4 * WIDTH), np.float32))
    lengths = ops.constant(np.array([1], np.int32))
    lstm = ops.lstm_sequence(embedded, *states, lengths, *matrices, bias, WIDTH, "forward")
    for index, name in enumerate(("decoder_out", "h_out", "c_out")):
        lstm.output(index).set_names({name})
    return ov.Model([lstm.output(index) for index in range(3)], [token, *states], "decoder")


def other(name: str) -> ov.Model:
    """One product."""
    data = ops.parameter([1, WIDTH], np.float32)
    data.output(0).set_names({f"{name}_in"})
    result = product(data, _weights(np.random.default_rng(1), WIDTH, WIDTH), name)
    result.output(0).set_names({f"{name}_out"})
    return ov.Model([result], [data], name)


def bundle(directory: Path, kind: str = "rewritten") -> Bundle:
    """An FP32 folder of tiny graphs."""
    directory.mkdir(parents=True)
    models = {"encoder": encoder(kind), "decoder": decoder()}
    for name in GRAPHS:
        model = models[name] if name in models else other(name)
        ov.save_model(model, directory / graph_file(name), compress_to_fp16=False)
    write_vocabulary(directory, ["<unk>", "▁a"])
    metadata = Metadata(
        model="tiny",
        model_class="EncDecRNNTBPEModel",
        precision="FP32",
        sample_rate=16000,
        mel_features=WIDTH,
        chunk_mel_frames=8,
        pre_encode_cache=9,
        total_mel_frames=17,
        blank_idx=2,
        vocab_size=2,
        decoder_hidden=WIDTH,
        decoder_layers=1,
        encoder_dim=WIDTH,
        att_context_size=[56, 0],
        cache_channel_shape=[1, 1, 56, WIDTH],
        cache_time_shape=[1, 1, WIDTH, 8],
        lang_tag_token_ids=[],
        encoder=kind,
        recipe={"name": "fp32"},
    )
    write_metadata(directory, metadata)
    return Bundle.open(directory)


def calibration(directory: Path, source: Bundle) -> CalibrationData:
    """Four random inputs of the tiny encoder, none of the other graphs."""
    directory.mkdir(parents=True)
    count, generator = 4, np.random.default_rng(3)
    samples = [{"mel": _weights(generator, 1, FRAMES, WIDTH)} for _ in range(count)]
    origins = [Origin(language="en-US", audio=0, runtime="streaming", prompt="en-US", call=0)] * count
    stored = GraphSamples(origins=origins, shards=write_shards(directory, "encoder", samples))
    index = Index(seed=0, requested=count, source=source_facts(source), files={}, audio=[], excluded=0)
    write_index(directory, index.model_copy(update={"graphs": {"encoder": stored}}))
    return CalibrationData.open(directory)
