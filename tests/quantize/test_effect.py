from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from export.errors import ParityError, UserError
from export.weight_types import constants, count_constants, stored_type
from quantize.compression import Samples, compress
from quantize.effect import check_effect, check_runtime_options, check_scope, group_warnings, is_ignored, weights
from quantize.modes import MODES
from quantize.recipe import ACTIVATION_GROUP, GraphRecipe
from quantize.recipes import POSITIONS, RECIPES, SENSITIVE
from quantize.steps import IgnoredScope, Quantization, WeightCompression
from tests.helpers import tiny_graphs

INT8 = WeightCompression(mode="int8_sym", ignored_scope=IgnoredScope(patterns=(POSITIONS,)))
SQUARE = tiny_graphs.WIDTH**2
TABLE = tiny_graphs.WIDTH * tiny_graphs.FRAMES


def half(model: ov.Model, folder: Path) -> ov.Model:
    ov.save_model(model, folder / "half.xml", compress_to_fp16=True)
    return ov.Core().read_model(folder / "half.xml")


def test_constants_are_counted_by_stored_type(tmp_path: Path) -> None:
    model = tiny_graphs.encoder("nemo")
    assert count_constants(model) == {
        "f32": {"count": 5, "elements": 4 * SQUARE + TABLE, "bytes": 4 * (4 * SQUARE + TABLE)},
        "i64": {"count": 1, "elements": 3, "bytes": 24},
    }
    assert count_constants(half(model, tmp_path))["f16"] == {
        "count": 5,
        "elements": 4 * SQUARE + TABLE,
        "bytes": 2 * (4 * SQUARE + TABLE),
    }
    compressed = count_constants(compress(half(model, tmp_path), INT8, "test"))
    assert compressed["i8"] == {"count": 3, "elements": 3 * SQUARE, "bytes": 3 * SQUARE}
    scales = 3 * tiny_graphs.WIDTH
    assert compressed["f16"]["elements"] == SQUARE + TABLE + scales
    assert "f32" not in compressed


def test_half_bytes_are_rounded_up() -> None:
    data = ops.parameter([3], np.float32)
    weights = ops.convert(ops.constant(ov.Tensor(np.zeros(2, np.uint8), [3], ov.Type.u4)), "f32")
    model = ov.Model([ops.add(data, weights)], [data])
    assert count_constants(model)["u4"] == {"count": 1, "elements": 3, "bytes": 2}


@pytest.mark.parametrize("kind", ["rewritten", "nemo"])
def test_position_weights_are_recognized_in_both_graphs(kind: str, tmp_path: Path) -> None:
    model = compress(half(tiny_graphs.encoder(kind), tmp_path), INT8, "test")
    kept = [weight for weight in weights(model) if is_ignored(weight, INT8.ignored_scope)]
    assert {weight.type for weight in kept} == {"f16"}
    expected = "self.encoder.layers.0.self_attn.linear_pos." + ("weight" if kind == "nemo" else "positions")
    assert expected in {weight.name for weight in kept}
    assert {weight.type for weight in weights(model)} == {"i8", "f16"}
    check_effect(model, GraphRecipe(compression=(INT8,)), "test")


def test_rule_that_matches_nothing_fails() -> None:
    model = tiny_graphs.encoder("rewritten")
    good = IgnoredScope(patterns=(".*linear_q.*",), types=("MatMul",))
    check_scope(model, WeightCompression(mode="int8_sym", ignored_scope=good), "test")
    for scope in (
        IgnoredScope(patterns=("linear_q",)),  # patterns match from the start
        IgnoredScope(names=("linear_q",)),
        IgnoredScope(types=("Convolution",)),
        IgnoredScope(patterns=(".*linear_q.*", ".*linear_k.*")),
    ):
        with pytest.raises(UserError, match="matches no weight of this graph"):
            check_scope(model, WeightCompression(mode="int8_sym", ignored_scope=scope), "recipe x: encoder.xml")


def test_quantization_may_ignore_what_has_no_weight() -> None:
    model = tiny_graphs.encoder("rewritten")
    products = IgnoredScope(patterns=(".*self_attn/.*",))
    check_scope(model, Quantization(ignored_scope=products), "test")
    with pytest.raises(UserError, match="matches no weight"):
        check_scope(model, WeightCompression(mode="int8_sym", ignored_scope=products), "test")
    with pytest.raises(UserError, match="matches no operation"):
        check_scope(model, Quantization(ignored_scope=IgnoredScope(types=("Softmax",))), "test")


def test_recipe_that_did_nothing_fails(tmp_path: Path) -> None:
    model = half(tiny_graphs.encoder("rewritten"), tmp_path)
    with pytest.raises(ParityError, match="int8_sym left the graph without any i8 weight"):
        check_effect(model, GraphRecipe(compression=(INT8,)), "test")


def test_recipe_that_left_a_product_out_fails(tmp_path: Path) -> None:
    less = WeightCompression(mode="int8_sym", ignored_scope=IgnoredScope(patterns=(POSITIONS, ".*linear_q.*")))
    model = compress(half(tiny_graphs.encoder("rewritten"), tmp_path), less, "test")
    check_effect(model, GraphRecipe(compression=(less,)), "test")
    with pytest.raises(ParityError, match=r"1 weights are not compressed, the first .*linear_q"):
        check_effect(model, GraphRecipe(compression=(INT8,)), "test")


def test_recipe_that_did_too_much_fails(tmp_path: Path) -> None:
    model = compress(half(tiny_graphs.encoder("rewritten"), tmp_path), WeightCompression(mode="int8_sym"), "test")
    with pytest.raises(ParityError, match=r"compressed though the recipe ignores them, the first .*linear_pos"):
        check_effect(model, GraphRecipe(compression=(INT8,)), "test")


def test_ignored_weights_left_in_f32_fail() -> None:
    model = compress(tiny_graphs.encoder("nemo"), INT8, "test")
    with pytest.raises(ParityError, match="still f32"):
        check_effect(model, GraphRecipe(compression=(INT8,)), "test")
    check_effect(tiny_graphs.encoder("nemo"), GraphRecipe(precision="f32"), "test")


FOUR = WeightCompression(
    mode="int4_sym",
    group_size=32,
    all_layers=True,
    backup_mode="none",
    ignored_scope=IgnoredScope(patterns=(SENSITIVE,)),
)


def compressed(folder: Path, *steps: WeightCompression) -> ov.Model:
    model = half(tiny_graphs.encoder("rewritten"), folder)
    for step in steps:
        model = compress(model, step, "test")
    return model


def test_two_compressions_share_a_graph(tmp_path: Path) -> None:
    types = {weight.name.split(".")[-2]: weight.type for weight in weights(compressed(tmp_path, FOUR, INT8))}
    assert types == {"out": "i8", "linear_q": "i4", "linear1": "i4", "linear_pos": "f16"}
    part = GraphRecipe(compression=(FOUR, INT8))
    check_effect(compressed(tmp_path, FOUR, INT8), part, "test")
    for missing, message in (
        ((FOUR,), "int8_sym left the graph without any i8 weight"),
        ((INT8,), "int4_sym left the graph without any i4 weight"),
    ):
        with pytest.raises(ParityError, match=message):
            check_effect(compressed(tmp_path, *missing), part, "test")
    with pytest.raises(ParityError, match=r"2 weights are stored in a type that the recipe does not name.*\(i4"):
        check_effect(compressed(tmp_path, FOUR, INT8), GraphRecipe(compression=(INT8,)), "test")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_stores_what_it_says(mode: str, tmp_path: Path) -> None:
    arguments = {} if mode.startswith("int8") else {"all_layers": True, "group_size": MODES[mode].group_size or 32}
    scope = IgnoredScope(patterns=(POSITIONS,))
    step = WeightCompression.model_validate({"mode": mode, "ignored_scope": scope} | arguments)
    ov.save_model(compressed(tmp_path, step), tmp_path / "saved.xml")
    model = ov.Core().read_model(tmp_path / "saved.xml")
    check_effect(model, GraphRecipe(compression=(step,)), "test")
    assert {weight.type for weight in weights(model)} == {MODES[mode].stored, "f16"}
    with pytest.raises(ParityError, match=f"mode {mode} left the graph without any"):
        check_effect(half(tiny_graphs.encoder("rewritten"), tmp_path), GraphRecipe(compression=(step,)), "test")
    data = np.random.default_rng(0).standard_normal((1, tiny_graphs.FRAMES, tiny_graphs.WIDTH), np.float32)
    assert np.isfinite(ov.compile_model(model, "CPU")(data)[0]).all(), "OpenVINO runs it"


def test_a_ratio_must_be_a_mixture(tmp_path: Path) -> None:
    mixed = FOUR.model_copy(update={"ratio": 0.7, "backup_mode": "int8_sym"})
    part = GraphRecipe(compression=(mixed,))
    check_effect(compressed(tmp_path, mixed), part, "test")
    everything = FOUR.model_copy(update={"ignored_scope": IgnoredScope(patterns=(POSITIONS,))})
    with pytest.raises(ParityError, match=r"took 0\.9\d+ of the products' weights where ratio is 0\.7"):
        check_effect(compressed(tmp_path, everything), part, "test")


def test_adapters_are_where_the_recipe_asks_for_them(tmp_path: Path) -> None:
    data = tiny_graphs.calibration(tmp_path / "calibration", tiny_graphs.bundle(tmp_path / "source"))
    samples = Samples(data, "encoder")
    plain = FOUR.model_copy(update={"ignored_scope": IgnoredScope(patterns=(POSITIONS,))})
    step = plain.model_copy(update={"lora_correction": True})
    model = compress(half(tiny_graphs.encoder("rewritten"), tmp_path), step, "test", samples)
    check_effect(model, GraphRecipe(compression=(step,)), "test")
    check_effect(compress(model, INT8, "test"), GraphRecipe(compression=(step,)), "nothing is left for another step")
    with pytest.raises(
        ParityError, match=r"6 weights are adapters that the recipe does not ask for, the first .*_lora_"
    ):
        check_effect(model, GraphRecipe(compression=(plain,)), "test")
    less = step.model_copy(update={"ignored_scope": IgnoredScope(patterns=(POSITIONS, ".*linear_q.*"))})
    with pytest.raises(ParityError, match=r"2 weights are adapters that the recipe does not ask for.*linear_q.*_lora_"):
        check_effect(model, GraphRecipe(compression=(less, plain)), "test")
    with pytest.raises(ParityError, match=r"3 weights have no pair of adapters though the recipe asks"):
        check_effect(compressed(tmp_path, plain), GraphRecipe(compression=(step,)), "test")


def test_adapters_do_not_stand_for_weights(tmp_path: Path) -> None:
    """They are u8, as a weight of int8_asym is."""
    data = tiny_graphs.calibration(tmp_path / "calibration", tiny_graphs.bundle(tmp_path / "source"))
    step = FOUR.model_copy(update={"lora_correction": True, "ignored_scope": IgnoredScope(patterns=(POSITIONS,))})
    model = compress(half(tiny_graphs.encoder("rewritten"), tmp_path), step, "test", Samples(data, "encoder"))
    both = GraphRecipe(compression=(step, WeightCompression(mode="int8_asym")))
    with pytest.raises(ParityError, match="int8_asym left the graph without any u8 weight"):
        check_effect(model, both, "test")


def test_quantization_without_quantized_activations_fails(tmp_path: Path) -> None:
    part = GraphRecipe(quantization=Quantization(ignored_scope=IgnoredScope(patterns=(POSITIONS,))))
    with pytest.raises(ParityError, match="without any quantized activation"):
        check_effect(compressed(tmp_path, INT8), part, "test")


def test_a_convolution_in_int8_is_no_weight_in_groups(tmp_path: Path) -> None:
    """NeMo's encoder has convolutions in one dimension, whose weights have three, as weights in groups have."""
    size = tiny_graphs.WIDTH
    data = ops.parameter([1, size, tiny_graphs.FRAMES], np.float32)
    filters = ops.constant(np.random.default_rng(0).standard_normal((size, size, 3), np.float32))
    convolution = ops.convolution(data, filters, [1], [0], [0], [1])
    product = tiny_graphs.product(convolution, np.ones((size, tiny_graphs.FRAMES - 2), np.float32), "linear")
    step = WeightCompression(mode="int8_sym")
    model = compress(half(ov.Model([product], [data]), tmp_path), step, "test")
    assert [each.get_output_shape(0) for each in constants(model) if stored_type(each) == "i8"].count([size, size, 3])
    part = GraphRecipe(compression=(step,), runtime_options={ACTIVATION_GROUP: 128})
    assert group_warnings(model, part, "encoder") == []


def test_runtime_options_must_be_in_the_graph() -> None:
    model, part = tiny_graphs.other("joint"), RECIPES["int4"].encoder
    for value in (None, 128):
        if value is not None:
            model.set_rt_info(str(value), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
        with pytest.raises(ParityError, match="does not carry runtime option DYNAMIC_QUANTIZATION_GROUP_SIZE 64"):
            check_runtime_options(model, part, "test")
