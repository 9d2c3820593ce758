"""Every lint finds a tiny graph that breaks it, and nothing in graphs that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset10, opset13

from export.bundle import Bundle, graph_file, write_metadata
from export.devices import (
    DEVICES,
    LINTS,
    Lint,
    boolean_bitwise_not,
    constants_beyond_f16,
    constants_beyond_f16_on_gpu,
    device_findings,
    dynamic_ranks,
    dynamic_shapes,
    findings_in,
    operations_unknown_to_npu,
    operations_without_gpu_kernel,
    ranks_beyond_8,
    types_without_npu,
)
from tests.helpers.command import run_here
from tests.helpers.tiny_bundle import tiny_bundle


def graph(data: Any, *results: Any) -> ov.Model:
    return ov.Model([opset13.result(each) for each in results], [data], "tiny")


def of_shape(shape: Any, kind: Any = ov.Type.f32) -> ov.Model:
    data = opset13.parameter(shape, kind, name="data")
    return graph(data, opset13.abs(data))


def with_constant(values: Any, kind: Any = ov.Type.f32) -> ov.Model:
    data = opset13.parameter([1, 2], ov.Type.f32, name="data")
    constant = opset13.constant(np.array(values, np.float64), dtype=kind)
    return graph(data, opset13.add(data, opset13.convert(constant, ov.Type.f32)))


def negated(kind: Any) -> ov.Model:
    data = opset13.parameter([1, 2], kind, name="data")
    return graph(data, opset13.bitwise_not(data))


def is_nan() -> ov.Model:
    data = opset13.parameter([1, 2], ov.Type.f32, name="data")
    return graph(data, opset10.is_nan(data))


BROKEN: list[tuple[Lint, ov.Model, str]] = [
    (dynamic_shapes, of_shape([1, -1]), "data has the shape [1,?]"),
    (dynamic_shapes, of_shape(ov.PartialShape([ov.Dimension(1, 8)])), "data has the shape [1..8]"),
    (dynamic_ranks, of_shape(ov.PartialShape.dynamic()), "no fixed number of dimensions"),
    (ranks_beyond_8, of_shape([1] * 9), "data has 9 dimensions"),
    (boolean_bitwise_not, negated(ov.Type.boolean), "BitwiseNot on booleans"),
    (operations_without_gpu_kernel, negated(ov.Type.i32), "BitwiseNot is no operation"),
    (operations_unknown_to_npu, is_nan(), "IsNaN is no operation"),
    (types_without_npu, of_shape([1], ov.Type.f64), "f64 is no type"),
    (constants_beyond_f16, with_constant([[65520.0, 1.0]]), "holds 65520"),
    (constants_beyond_f16, with_constant([[-1e5, 1.0]]), "holds 100000"),
    (constants_beyond_f16, with_constant([[1.0, -np.inf]]), "holds inf"),
    (constants_beyond_f16, with_constant([[np.nan, 1.0]]), "holds nan"),
    (constants_beyond_f16, with_constant([[np.inf, 1.0]], ov.Type.f16), "holds inf"),
    (constants_beyond_f16, with_constant([[1e30, 1.0]], ov.Type.bf16), "which is not within f16"),
    (constants_beyond_f16, with_constant([[1e300, 1.0]], ov.Type.f64), "holds 1e+300"),
    (constants_beyond_f16_on_gpu, with_constant([[1e5, 1.0]]), "unless INFERENCE_PRECISION_HINT is f32"),
]

GOOD: list[tuple[Lint, ov.Model]] = [
    (boolean_bitwise_not, negated(ov.Type.i32)),
    (dynamic_ranks, of_shape([1, -1])),
    (ranks_beyond_8, of_shape([1] * 8)),
    (constants_beyond_f16, with_constant([[-65504.0, 65504.0]])),
    (constants_beyond_f16, with_constant([[100000, 1]], ov.Type.i32)),
    (constants_beyond_f16, with_constant([[1.0, 2.0]], ov.Type.bf16)),
    (types_without_npu, with_constant([[1, 2]], ov.Type.i64)),
]


@pytest.mark.parametrize(("lint", "model", "text"), BROKEN, ids=lambda each: getattr(each, "__name__", None))
def test_a_lint_finds_what_breaks_it(lint: Lint, model: ov.Model, text: str) -> None:
    found = list(lint(model))
    assert len(found) == 1
    assert text in found[0][0]
    assert found[0][1] is (lint is not constants_beyond_f16_on_gpu)


@pytest.mark.parametrize(("lint", "model"), GOOD, ids=lambda each: getattr(each, "__name__", None))
def test_a_lint_finds_nothing_else(lint: Lint, model: ov.Model) -> None:
    assert list(lint(model)) == []


def test_every_lint_has_a_graph_that_breaks_it_and_says_its_source() -> None:
    every = {lint for lints in LINTS.values() for lint in lints}
    assert every == {lint for lint, _, _ in BROKEN}
    assert all("\n    Source: " in (lint.__doc__ or "") or "The same" in (lint.__doc__ or "") for lint in every)
    assert tuple(LINTS) == DEVICES


@pytest.mark.parametrize("name", ["small_fp32", "small_kv_fp32", "small_80ms_fp32", "small_nemo_fp32", "demo_int8"])
def test_our_folders_are_clean(request: pytest.FixtureRequest, name: str) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    found = device_findings(bundle)
    if name == "small_nemo_fp32":  # NeMo's own modules negate masks
        assert any("BitwiseNot" in each.text for each in found["GPU"]) or not found["GPU"]
    else:
        assert found == {device: [] for device in DEVICES}


def test_a_large_constant_is_looked_at_to_its_end() -> None:
    values = np.zeros((1, (1 << 22) + 3), np.float32)
    values[0, -1] = 7e4
    data = opset13.parameter([1, 1], ov.Type.f32, name="data")
    model = graph(data, opset13.add(data, opset13.constant(values)))
    assert [each.blocks for each in findings_in(model, "encoder", "NPU")] == [True]
    assert [each.blocks for each in findings_in(model, "encoder", "GPU")] == [False]


def test_inspect_says_what_each_device_would_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = tiny_bundle(tmp_path / "good").path
    assert run_here(capfd, "inspect", good, "--device", "npu").returncode == 0
    table = run_here(capfd, "inspect", good).stdout
    assert all(f"{device} (lint, not run on a device)" in table for device in DEVICES)

    bad = tiny_bundle(tmp_path / "bad")
    model = ov.Core().read_model(good / graph_file("joint"))
    model.reshape({"encoder": [-1, *model.input("encoder").get_partial_shape()[1:]]})
    ov.save_model(model, bad.graph_path("joint"), compress_to_fp16=False)
    write_metadata(bad.path, bad.metadata)
    for arguments, code in (([], 0), (["--device", "CPU"], 0), (["--device", "GPU"], 0), (["--device", "NPU"], 1)):
        done = run_here(capfd, "inspect", bad.path, *arguments)
        assert done.returncode == code, (arguments, done.stdout)
    assert "joint: encoder has the shape [?,6,1], which is not static" in done.stdout

    done = run_here(capfd, "inspect", bad.path, "--device", "NPU", "--json")
    assert done.returncode == 1
    assert '"devices": {"NPU": {"blocked": true, "checked": "lint, not run on a device"' in done.stdout
    assert '"graph": "joint"' in done.stdout
    done = run_here(capfd, "inspect", bad.path, "--device", "TPU")
    assert (done.returncode, "TPU" in done.stderr) == (2, True)
