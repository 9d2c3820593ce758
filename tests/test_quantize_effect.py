from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from export.constants import count_constants
from export.errors import ParityError, UserError
from quantize.compression import compress
from quantize.effect import check_effect, check_scope, is_ignored, weights
from quantize.recipe import GraphRecipe, IgnoredScope, WeightCompression
from quantize.recipes import POSITIONS
from tests import tiny_graphs

INT8 = WeightCompression(mode="int8_sym", ignored_scope=IgnoredScope(patterns=(POSITIONS,)))
SQUARE = tiny_graphs.WIDTH**2
TABLE = tiny_graphs.WIDTH * tiny_graphs.FRAMES


def half(model: ov.Model, folder: Path) -> ov.Model:
    ov.save_model(model, folder / "half.xml", compress_to_fp16=True)
    return ov.Core().read_model(folder / "half.xml")


def test_constants_are_counted_by_stored_type(tmp_path: Path) -> None:
    model = tiny_graphs.encoder("nemo")
    assert count_constants(model) == {
        "f32": {"count": 4, "elements": 3 * SQUARE + TABLE, "bytes": 4 * (3 * SQUARE + TABLE)},
        "i64": {"count": 1, "elements": 3, "bytes": 24},
    }
    assert count_constants(half(model, tmp_path))["f16"] == {
        "count": 4,
        "elements": 3 * SQUARE + TABLE,
        "bytes": 2 * (3 * SQUARE + TABLE),
    }
    compressed = count_constants(compress(half(model, tmp_path), INT8, "test"))
    assert compressed["i8"] == {"count": 2, "elements": 2 * SQUARE, "bytes": 2 * SQUARE}
    scales = 2 * tiny_graphs.WIDTH
    assert compressed["f16"]["elements"] == SQUARE + TABLE + scales
    assert "f32" not in compressed


def test_half_bytes_are_rounded_up() -> None:
    data = ops.parameter([3], np.float32)
    weights = ops.convert(ops.constant(ov.Tensor(np.zeros(2, np.uint8), [3], ov.Type.u4)), "f32")
    model = ov.Model([ops.add(data, weights)], [data])
    assert count_constants(model)["u4"] == {"count": 1, "elements": 3, "bytes": 2}


@pytest.mark.parametrize("kind", ["fused", "nemo"])
def test_position_weights_are_recognized_in_both_graphs(kind: str, tmp_path: Path) -> None:
    model = compress(half(tiny_graphs.encoder(kind), tmp_path), INT8, "test")
    kept = [weight for weight in weights(model) if is_ignored(weight, INT8.ignored_scope)]
    assert {weight.type for weight in kept} == {"f16"}
    expected = "self.encoder.layers.0.self_attn.linear_pos." + ("weight" if kind == "nemo" else "positions")
    assert expected in {weight.name for weight in kept}
    assert {weight.type for weight in weights(model)} == {"i8", "f16"}
    check_effect(model, GraphRecipe(compression=INT8), "test")


def test_rule_that_matches_nothing_fails() -> None:
    model = tiny_graphs.encoder("fused")
    check_scope(model, IgnoredScope(patterns=(".*linear_q.*",), types=("MatMul",)), "test")
    for scope in (
        IgnoredScope(patterns=("linear_q",)),  # patterns match from the start
        IgnoredScope(names=("linear_q",)),
        IgnoredScope(types=("Convolution",)),
        IgnoredScope(patterns=(".*linear_q.*", ".*linear_k.*")),
    ):
        with pytest.raises(UserError, match="matches no weight of this graph"):
            check_scope(model, scope, "recipe x: encoder.xml")


def test_recipe_that_did_nothing_fails(tmp_path: Path) -> None:
    model = half(tiny_graphs.encoder("fused"), tmp_path)
    with pytest.raises(ParityError, match="int8_sym left the graph without any integer weight"):
        check_effect(model, GraphRecipe(compression=INT8), "test")


def test_recipe_that_left_a_product_out_fails(tmp_path: Path) -> None:
    less = WeightCompression(mode="int8_sym", ignored_scope=IgnoredScope(patterns=(POSITIONS, ".*linear_q.*")))
    model = compress(half(tiny_graphs.encoder("fused"), tmp_path), less, "test")
    check_effect(model, GraphRecipe(compression=less), "test")
    with pytest.raises(ParityError, match=r"1 weights are not compressed, the first .*linear_q"):
        check_effect(model, GraphRecipe(compression=INT8), "test")


def test_recipe_that_did_too_much_fails(tmp_path: Path) -> None:
    model = compress(half(tiny_graphs.encoder("fused"), tmp_path), WeightCompression(mode="int8_sym"), "test")
    with pytest.raises(ParityError, match=r"compressed though the recipe ignores them, the first .*linear_pos"):
        check_effect(model, GraphRecipe(compression=INT8), "test")


def test_ignored_weights_left_in_f32_fail() -> None:
    model = compress(tiny_graphs.encoder("nemo"), INT8, "test")
    with pytest.raises(ParityError, match="still f32"):
        check_effect(model, GraphRecipe(compression=INT8), "test")
    check_effect(tiny_graphs.encoder("nemo"), GraphRecipe(precision="f32"), "test")
