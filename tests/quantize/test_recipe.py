from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError

from export.errors import UserError
from quantize.recipe import GraphRecipe, Recipe, Tolerance
from quantize.recipes import RECIPES, get_recipe
from quantize.steps import IgnoredScope, Quantization, SmoothQuantAlphas, WeightCompression


def recipe_with(**changes: object) -> Recipe:
    return Recipe.model_validate(RECIPES["int8"].model_dump() | changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightCompression(mode="int8_sym", ratio=0.5), "takes no ratio; leave them out or choose an int4"),
        (lambda: WeightCompression(mode="int8_sym", awq=True), "takes no awq"),
        (lambda: WeightCompression(mode="int8_asym", subset_size=8), "takes no subset_size"),
        (lambda: WeightCompression(mode="int4_sym", ratio=0.0), "greater than 0"),  # NNCF would take it for 1
        (lambda: WeightCompression(mode="int8_asym", group_size=64, all_layers=True), "group_size, all_layers"),
        (lambda: WeightCompression(mode="int8_sym", backup_mode="none"), "takes no backup_mode"),
        (lambda: WeightCompression(mode="int4_sym", group_size=0), "group_size 0: use a positive number"),
        (lambda: WeightCompression(mode="int4_sym", group_size=-2), "group_size -2"),
        (lambda: WeightCompression(mode="int4_sym", ratio=1.5), "less than or equal to 1"),
        (lambda: WeightCompression(mode="mxfp4", group_size=64), "groups of 32 only, not group_size 64; leave"),
        (lambda: WeightCompression(mode="nvfp4", group_size_fallback_mode="adjust"), "groups of 16 only; set"),
        (
            lambda: WeightCompression(mode="int4_sym", group_size=-1, group_size_fallback_mode="adjust"),
            "whole channels",
        ),
        (lambda: WeightCompression(mode="fp8_e4m3", scale_estimation=True), "takes no scale_estimation; leave them"),
        (lambda: WeightCompression(mode="int4_sym", gptq=True, lora_correction=True), "exclude each other; choose one"),
        (lambda: WeightCompression(mode="int4_sym", subset_size=8), "uses none; leave it out, or set awq"),
        (
            lambda: WeightCompression(mode="int4_sym", sensitivity_metric="hessian_input_activation"),
            "a ratio below 1 leaves out; set ratio",
        ),
        (lambda: SmoothQuantAlphas(matmul=1.5), "alpha 1.5: use 0 to 1, or -1"),
        (lambda: Quantization(smooth_quant_alphas=SmoothQuantAlphas(matmul=0.5)), "set model_type to transformer"),
        (
            lambda: GraphRecipe(compression=(WeightCompression(mode="int8_sym"),), quantization=Quantization()),
            "compression and quantization both decide",
        ),
        (lambda: GraphRecipe(precision="f32", quantization=Quantization()), "set precision to f16"),
        (
            lambda: GraphRecipe.model_validate({"runtime_options": {"INFERENCE_PRECISION_HINT": "f32"}}),
            "does not read it from a graph; set it where the graph is compiled",
        ),
        (
            lambda: GraphRecipe(runtime_options={"DYNAMIC_QUANTIZATION_GROUP_SIZE": -1}),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE -1: use the number",
        ),
        (
            lambda: GraphRecipe.model_validate({"runtime_options": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": True}}),
            "True: use the number",
        ),
        (lambda: WeightCompression.model_validate({"mode": "int5"}), "int8_sym"),
        (lambda: IgnoredScope(patterns=("*linear",)), "no regular expression"),
        (
            lambda: GraphRecipe(precision="f32", compression=(WeightCompression(mode="int8_sym"),)),
            "set precision to f16",
        ),
        (lambda: Tolerance(exact_match=1.0, wer_delta=0.5, language_wer_delta=0.4), "set it to that or more"),
        (lambda: Tolerance(exact_match=1.1, wer_delta=0.0), "less than or equal to 1"),
        (lambda: recipe_with(name="Int 8"), "lower-case letters"),
        (lambda: recipe_with(version=0), "greater than or equal to 1"),
        (lambda: recipe_with(vocoder={"precision": "f16"}), "vocoder"),
        (lambda: WeightCompression.model_validate({"mode": "int4_sym", "groupsize": 64}), "groupsize"),
    ],
)
def test_contradictions_fail_when_the_object_is_made(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValidationError, match=message):
        make()


@pytest.mark.parametrize(
    ("table", "field", "values"),
    [
        (Recipe, "version", ("1", True, 1.0)),
        (Recipe, "description", (1,)),
        (Tolerance, "exact_match", ("0.5", True, float("nan"))),
        (Tolerance, "wer_delta", ("1", True, float("inf"), float("nan"))),
        (WeightCompression, "ratio", ("0.5", True, float("nan"))),
        (WeightCompression, "group_size", ("64", True, 64.0)),
        (WeightCompression, "subset_size", ("64", True, 64.0)),
        *((WeightCompression, field, ("yes", 1, 1.0)) for field in ("all_layers", "awq", "scale_estimation", "gptq")),
        (WeightCompression, "lora_correction", ("on", 1)),
        (IgnoredScope, "must_match", ("no", 0)),
        (Quantization, "fast_bias_correction", ("true", 1)),
        (Quantization, "subset_size", ("64", True)),
        (SmoothQuantAlphas, "matmul", ("0.5", True, float("nan"), float("inf"))),
        (SmoothQuantAlphas, "convolution", ("0.5", False)),
    ],
)
def test_nothing_stands_for_a_value_of_another_type(table: type[BaseModel], field: str, values: tuple[object]) -> None:
    for value in values:
        with pytest.raises(ValidationError) as caught:
            table.model_validate({field: value})
        assert (field,) in {error["loc"] for error in caught.value.errors()}, value


def test_whole_numbers_are_numbers() -> None:
    assert Tolerance.model_validate({"exact_match": 0, "wer_delta": 1}) == Tolerance(exact_match=0.0, wer_delta=1.0)
    assert WeightCompression.model_validate({"mode": "nf4", "ratio": 1}).ratio == 1.0
    assert SmoothQuantAlphas.model_validate({"matmul": -1}).matmul == -1.0


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RECIPES["int8"].version = 2


def test_hash_follows_the_content_and_not_the_wording() -> None:
    int8 = RECIPES["int8"]
    assert recipe_with().hash == int8.hash
    assert recipe_with(description="other words").hash == int8.hash
    assert recipe_with(version=3).hash != int8.hash
    assert recipe_with(joint={"precision": "f32"}).hash != int8.hash
    assert recipe_with(tolerance={"exact_match": 0.1, "wer_delta": 9.0}).hash != int8.hash
    assert len({recipe.hash for recipe in RECIPES.values()}) == len(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_metadata_holds_a_recipe_completely(name: str) -> None:
    recipe = get_recipe(name)
    stored = recipe.as_metadata()
    assert stored.pop("hash") == recipe.hash
    assert Recipe.model_validate(stored) == recipe


def test_labels() -> None:
    assert {name: recipe.precision for name, recipe in RECIPES.items()} == {
        "fp32": "FP32",
        "fp16": "FP16",
        "int8": "INT8",
        "int8-full": "INT8",
        "int4": "INT4",
        "int4-aware": "INT4",
        "w8a8": "INT8",
    }


def test_the_published_recipe_has_not_changed() -> None:
    """Folders made before recipes could say more are still finished folders of this recipe."""
    assert RECIPES["int8"].hash == "4698e896a9609a7ab7911d61d4f8aeeec37512dd4868317963f7348c51f1736c"


def test_one_compression_is_as_good_as_a_list_of_one() -> None:
    step = {"mode": "int4_sym", "group_size": 64}
    assert GraphRecipe.model_validate({"compression": step}) == GraphRecipe.model_validate({"compression": [step]})
    assert GraphRecipe.model_validate({"compression": step}).model_dump()["compression"]["mode"] == "int4_sym"
    assert recipe_with(joint={"compression": step}).hash == recipe_with(joint={"compression": [step]}).hash
    assert recipe_with(joint={"compression": step}).hash != recipe_with(joint={"compression": [step, step]}).hash


def test_which_recipes_need_calibration() -> None:
    assert [name for name, recipe in RECIPES.items() if recipe.needs_calibration] == ["int4-aware", "w8a8"]
    for arguments in ({"awq": True}, {"gptq": True}, {"lora_correction": True}):
        assert WeightCompression.model_validate({"mode": "int4_sym"} | arguments).needs_calibration
    mixed = {"mode": "int4_sym", "ratio": 0.5}
    for metric, needed in (("weight_quantization_error", False), ("max_activation_variance", True)):
        assert WeightCompression.model_validate(mixed | {"sensitivity_metric": metric}).needs_calibration == needed
    assert not WeightCompression(mode="int4_sym", awq=False).needs_calibration


def test_runtime_options_can_be_left_out() -> None:
    plain = RECIPES["int4"].without_runtime_options()
    assert not plain.encoder.runtime_options
    assert plain.hash != RECIPES["int4"].hash
    assert "runtime_options" not in plain.as_metadata()["encoder"]


def test_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(
        UserError, match=r"int9: no such recipe; choose one of fp32, fp16, int8, .*path of a \.toml file"
    ):
        get_recipe("int9")


def test_recipes_load_without_heavy_libraries() -> None:
    code = (
        "import sys, quantize.recipes, quantize.pipeline, quantize.effect; "
        "print([name for name in ('torch', 'nemo', 'nncf', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
