"""Every graph against NeMo's modules, and proof that the comparison notices a difference."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch

from export import parity
from export.bundle import GRAPHS, Bundle
from export.checkpoint import Checkpoint
from export.contract import contract_problems, expected_ports
from export.errors import ParityError
from export.graphs import transducer
from export.graphs.encoder_nemo import NemoEncoderStep
from export.graphs.encoder_rewritten import RewrittenEncoderStep
from export.graphs.preprocessor import LogMel
from export.graphs.trace import trace
from export.oracles import nemo_reference
from export.pipeline import export_checkpoint


@pytest.fixture(scope="module")
def recordings(small_nemo: Any, small_checkpoint: Checkpoint, small_fp32: Bundle) -> dict[str, parity.Recording]:
    """What NeMo computes in the geometry of ``small_fp32``, for each graph."""
    (geometry, _), metadata = small_checkpoint.geometry(0), small_fp32.metadata
    return parity.record(nemo_reference(small_nemo, geometry, metadata), geometry, metadata, expected_ports(metadata))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk_ms": 80},
        {"lookahead": 3},
        {"lookahead": 3, "chunk_ms": 1120},
        {"lookahead": 13},
        {"cache": "kv", "chunk_ms": 80},
        {"cache": "kv", "lookahead": 3, "chunk_ms": 1120},
        {"cache": "kv", "lookahead": 13},
        {"encoder": "nemo"},
        {"encoder": "nemo", "lookahead": 6, "chunk_ms": 1120},
    ],
    ids=lambda options: " ".join(f"{key}={value}" for key, value in options.items()) or "default",
)
def test_encoder_step_equals_nemo(small_export: Callable[..., Bundle], options: dict[str, Any]) -> None:
    bundle = small_export(**options)
    assert {name: getattr(bundle.metadata, name) for name in options} == options
    assert contract_problems(bundle) == []
    for name in GRAPHS:
        outputs = bundle.metadata.parity[name]["outputs"]
        assert bundle.metadata.parity[name]["reference"].startswith("NeMo")
        assert outputs
        assert all(numbers["relative"] <= parity.LIMIT for numbers in outputs.values())
        assert all(numbers["scale"] > 0 for numbers in outputs.values()), "an all-zero reference proves nothing"


def test_english_sibling_has_no_prompt(small_english_fp32: Bundle) -> None:
    bundle = small_english_fp32
    assert contract_problems(bundle) == []
    names = {port.get_any_name() for port in ov.Core().read_model(bundle.graph_path("encoder")).inputs}
    assert "prompt_id" not in names
    assert "prompt_dictionary" not in (bundle.path / "metadata.json").read_text()
    assert bundle.metadata.att_context_size == [70, 0]
    assert bundle.metadata.cache_channel_shape[2] == 70


@pytest.mark.parametrize("batch", [1, 3])
def test_rewritten_step_equals_nemo_in_torch_for_any_batch(
    small_nemo: Any, small_checkpoint: Checkpoint, batch: int
) -> None:
    geometry, _ = small_checkpoint.geometry(3)
    steps = NemoEncoderStep(small_nemo, geometry).eval(), RewrittenEncoderStep(small_nemo, geometry).eval()
    layers, dim = len(small_nemo.encoder.layers), small_nemo.encoder.d_model
    zeros = [
        torch.zeros(batch, layers, 56, dim),
        torch.zeros(batch, layers, dim, 8),
        torch.full(
            (batch,), geometry.chunk_frames, dtype=torch.int32
        ),  # not a stream's start, which differs on purpose
    ]
    caches = [list(zeros), list(zeros)]
    generator = torch.Generator().manual_seed(0)
    for step in range(7):
        mel = torch.randn(batch, 128, geometry.total_mel_frames, generator=generator) * 4 - 8
        length = torch.tensor([geometry.total_mel_frames - 9 * step * row for row in range(batch)], dtype=torch.int32)
        prompt = torch.tensor([0, 101, 8][:batch], dtype=torch.int32)
        with torch.no_grad():
            results = [module(mel, length, *cache, prompt) for module, cache in zip(steps, caches, strict=True)]
        for expected, actual in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        caches = [list(result[2:]) for result in results]


def test_a_batch_gives_each_stream_what_it_gets_alone(small_fp32: Bundle) -> None:
    core = ov.Core()
    model = core.read_model(small_fp32.graph_path("encoder"))
    rng = np.random.default_rng(0)
    inputs = {}
    for port in model.inputs:
        shape = [2, *[size.get_length() for size in port.get_partial_shape()][1:]]
        name = port.get_any_name()
        if port.get_element_type() == ov.Type.f32:
            inputs[name] = rng.standard_normal(shape).astype(np.float32)
        else:
            inputs[name] = np.array({"mel_length": [121, 90], "cache_len": [56, 14]}.get(name, [0, 101]), np.int32)
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    alone = core.compile_model(model, "CPU", config)
    single = [alone({name: value[row : row + 1] for name, value in inputs.items()})["encoded"] for row in range(2)]
    model.reshape({name: list(value.shape) for name, value in inputs.items()})
    together = core.compile_model(model, "CPU", config)(inputs)["encoded"]
    np.testing.assert_allclose(together, np.concatenate(single), rtol=1e-4, atol=1e-4)


def test_rewritten_graph_has_no_bitwise_not_and_no_position_products(small_fp32: Bundle) -> None:
    operations = ov.Core().read_model(small_fp32.graph_path("encoder")).get_ops()
    types = {operation.get_type_name() for operation in operations}
    assert not types & {"BitwiseNot", "LogicalNot", "OneHot", "Select"}
    names = [operation.get_friendly_name() for operation in operations]
    dim = small_fp32.metadata.encoder_dim
    assert not any("linear_pos.weight" in name for name in names)
    assert not [
        operation
        for operation in operations
        if "linear_pos" in operation.get_friendly_name() and list(operation.get_output_shape(0)) == [dim, dim]
    ]
    for module in ("self_attn.linear_q", "conv.pointwise_conv1", "feed_forward1.linear1"):
        assert any(f"encoder.layers.0.{module}/" in name and name.endswith("MatMul") for name in names)


def test_nemo_graph_is_as_published(small_nemo_fp32: Bundle) -> None:
    encoder = ov.Core().read_model(small_nemo_fp32.graph_path("encoder"))
    types = {operation.get_type_name() for operation in encoder.get_ops()}
    assert "BitwiseNot" in types
    mel = ov.Core().compile_model(small_nemo_fp32.graph_path("preprocessor"), "CPU")(
        {"audio": np.zeros((1, 17_920), np.float32), "audio_length": np.array([17_920], np.int32)}
    )["mel"]
    assert mel.shape == (1, 128, 113)
    assert not mel[:, :, -1].any()


CHUNK = 17_920


@pytest.mark.parametrize(
    "samples",
    [
        160,
        161,
        239,
        240,
        319,
        320,
        399,
        400,
        401,
        512,
        1600,
        CHUNK - 160,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        CHUNK + 79,
        CHUNK + 80,
        3 * CHUNK + 5,
    ],
)
def test_mel_equals_nemo(small_fp32: Bundle, small_nemo: Any, samples: int) -> None:
    rng = np.random.default_rng(samples)
    audio = (rng.standard_normal((1, samples)) * 0.1 * np.hanning(samples)).astype(np.float32)
    expected, length = small_nemo.preprocessor(
        input_signal=torch.from_numpy(audio.copy()), length=torch.tensor([samples])
    )
    compiled = ov.Core().compile_model(
        small_fp32.graph_path("preprocessor"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    result = compiled({"audio": audio, "audio_length": np.array([samples], np.int32)})
    assert result["mel"].shape == (1, 128, samples // 160)
    assert result["mel_length"].tolist() == length.tolist() == [samples // 160]
    np.testing.assert_allclose(result["mel"], expected.numpy()[:, :, : samples // 160], atol=2e-3)


def test_full_chunk_gives_exactly_the_chunks_frames(small_fp32: Bundle) -> None:
    metadata = small_fp32.metadata
    compiled = ov.Core().compile_model(small_fp32.graph_path("preprocessor"), "CPU")
    audio = np.random.default_rng(0).standard_normal((1, metadata.chunk_samples)).astype(np.float32) / 10
    mel = compiled({"audio": audio, "audio_length": np.array([metadata.chunk_samples], np.int32)})["mel"]
    assert mel.shape[2] == metadata.chunk_mel_frames
    assert np.abs(mel[:, :, -1]).min() > 0, "the last frame is a real one"


def test_two_exports_are_identical(small_checkpoint: Checkpoint, small_fp32: Bundle, tmp_path: Path) -> None:
    again = export_checkpoint(small_checkpoint, tmp_path / "again")
    for graph in GRAPHS:
        digests = [
            hashlib.sha256(bundle.graph_path(graph).with_suffix(".bin").read_bytes()).hexdigest()
            for bundle in (again, small_fp32)
        ]
        assert digests[0] == digests[1], graph


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_wrong_weight_is_noticed(
    recordings: dict[str, parity.Recording], small_fp32: Bundle, tmp_path: Path, graph: str
) -> None:
    recording = recordings[graph]
    parity.check(graph, small_fp32.graph_path(graph), recording)

    broken = ov.Core().read_model(small_fp32.graph_path(graph))
    constants = [
        operation
        for operation in broken.get_ops()
        if operation.get_type_name() == "Constant" and operation.get_element_type() == ov.Type.f32
    ]
    largest = max(constants, key=lambda constant: int(np.prod(constant.get_output_shape(0))))
    # A hundredth off in one tensor is far less than a wrong transposition or a forgotten mask would do.
    replacement = ov.opset13.constant((largest.data * 1.01).astype(np.float32))
    for target in largest.output(0).get_target_inputs():
        target.replace_source_output(replacement.output(0))
    ov.save_model(broken, tmp_path / "broken.xml", compress_to_fp16=False)
    with pytest.raises(ParityError, match=rf"the {graph} graph differs from NeMo PyTorch, FP32 in"):
        parity.check(graph, tmp_path / "broken.xml", recording)


@pytest.mark.parametrize("step", ["DecoderStep", "JointStep"])
def test_a_wrong_step_of_ours_is_noticed(
    recordings: dict[str, parity.Recording],
    small_nemo: Any,
    small_fp32: Bundle,
    tmp_path: Path,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The graphs are compared with NeMo's own methods, not with the module that they were traced from."""
    right = getattr(transducer, step).forward

    @functools.wraps(right)
    def wrong(self: Any, *inputs: Any, **named: Any) -> Any:
        results = right(self, *inputs, **named)
        return (results[0] * 1.01, *results[1:]) if isinstance(results, tuple) else results * 1.01

    monkeypatch.setattr(getattr(transducer, step), "forward", wrong)
    graph = step.removesuffix("Step").lower()
    ports = expected_ports(small_fp32.metadata)
    module = getattr(transducer, step)(small_nemo).eval()
    ov.save_model(trace(module, ports[graph]), tmp_path / "wrong.xml", compress_to_fp16=False)
    with pytest.raises(ParityError, match=rf"the {graph} graph differs from NeMo PyTorch, FP32 in"):
        parity.check(graph, tmp_path / "wrong.xml", recordings[graph])


def test_nan_is_noticed(
    recordings: dict[str, parity.Recording], small_nemo: Any, small_fp32: Bundle, tmp_path: Path
) -> None:
    module = LogMel(small_nemo.preprocessor.featurizer)
    module.log_guard = float("nan")
    ov.save_model(trace(module, expected_ports(small_fp32.metadata)["preprocessor"]), tmp_path / "nan.xml")
    with pytest.raises(ParityError, match="mel by inf"):
        parity.check("preprocessor", tmp_path / "nan.xml", recordings["preprocessor"])


def test_contract_finds_a_graph_that_takes_no_longer_steps(small_fp32: Bundle, small_nemo_fp32: Bundle) -> None:
    """NeMo's own modules are traced for one chunk, whatever their metadata say."""
    assert small_fp32.metadata.longer_steps
    assert not small_nemo_fp32.metadata.longer_steps
    claims = small_nemo_fp32.metadata.model_copy(update={"longer_steps": True})
    (problem,) = contract_problems(Bundle(small_nemo_fp32.path, claims))
    assert problem.startswith("encoder: metadata.longer_steps is true, and")


def test_a_chunk_of_no_whole_groups_takes_no_longer_steps(small_checkpoint: Checkpoint) -> None:
    whole = {chunk_ms: small_checkpoint.geometry(3, chunk_ms)[0].whole_groups for chunk_ms in (320, 400, 640)}
    assert whole == {320: True, 400: False, 640: True}


def test_contract_names_what_is_wrong(small_fp32: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in small_fp32.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    text = (copy / "nemotron_encoder.xml").read_text()
    (copy / "nemotron_encoder.xml").write_text(text.replace('"cache_len_out"', '"cache_length_out"'))
    problems = contract_problems(Bundle.open(copy))
    assert any("output cache_len_out is missing" in problem for problem in problems)
    assert any("nemotron_encoder.xml: size or hash differs" in problem for problem in problems)
