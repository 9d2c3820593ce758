from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from export.errors import UserError
from quantize.recipe import GraphRecipe, IgnoredScope, Recipe, Tolerance, WeightCompression
from quantize.recipes import RECIPES, get_recipe


def recipe_with(**changes: object) -> Recipe:
    return Recipe.model_validate(RECIPES["int8"].model_dump() | changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightCompression(mode="int8_sym", ratio=0.5), "takes no ratio; leave them out or choose an int4"),
        (lambda: WeightCompression(mode="int8_sym", ratio=0.0), "takes no ratio"),
        (lambda: WeightCompression(mode="int8_asym", group_size=64, all_layers=True), "group_size, all_layers"),
        (lambda: WeightCompression(mode="int8_sym", backup_mode="none"), "takes no backup_mode"),
        (lambda: WeightCompression(mode="int4_sym", group_size=0), "group_size 0: use a positive number"),
        (lambda: WeightCompression(mode="int4_sym", group_size=-2), "group_size -2"),
        (lambda: WeightCompression(mode="int4_sym", ratio=1.5), "less than or equal to 1"),
        (lambda: WeightCompression(mode="int4_sym", all_layers=True, backup_mode="int8_sym"), "lower ratio"),
        (lambda: WeightCompression.model_validate({"mode": "int5"}), "int8_sym"),
        (lambda: IgnoredScope(patterns=("*linear",)), "no regular expression"),
        (lambda: GraphRecipe(precision="f32", compression=WeightCompression(mode="int8_sym")), "set precision to f16"),
        (lambda: Tolerance(exact_match=1.0, wer_delta=0.5), "set wer_delta to 0"),
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


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RECIPES["int8"].version = 2


def test_hash_follows_the_content_and_not_the_wording() -> None:
    int8 = RECIPES["int8"]
    assert recipe_with().hash == int8.hash
    assert recipe_with(description="other words").hash == int8.hash
    assert recipe_with(version=2).hash != int8.hash
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
    }


def test_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(UserError, match="int9: no such recipe; choose one of fp32, fp16, int8"):
        get_recipe("int9")


def test_recipes_load_without_heavy_libraries() -> None:
    code = (
        "import sys, quantize.recipes, quantize.pipeline, quantize.effect; "
        "print([name for name in ('torch', 'nemo', 'nncf', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
