"""The built-in recipes by name; the command line's choices, the documentation's table and the test ids read it."""

from __future__ import annotations

from export.errors import UserError
from quantize.recipe import GraphRecipe, IgnoredScope, Recipe, Tolerance, WeightCompression

_F32 = GraphRecipe(precision="f32")
"""Also the preprocessor's in every recipe: half-precision DFT constants move quiet log-mel bins by up to 0.3, which is
enough to change tokens, and save half a megabyte."""

_F16 = GraphRecipe(precision="f16")

POSITIONS = r".*self_attn\.linear_pos.*"
"""The attention's position projection: a matrix in NeMo's graph, the product itself as a constant in the fused one.

Its input is a constant too; OpenVINO fails to compile such a product when the matrix is in INT8.
"""

_BUILT_IN = (
    Recipe(
        name="fp32",
        version=1,
        description="the export as it is",
        preprocessor=_F32,
        encoder=_F32,
        decoder=_F32,
        joint=_F32,
        tolerance=Tolerance(exact_match=1.0, wer_delta=0.0),
    ),
    Recipe(
        name="fp16",
        version=1,
        description="half-precision constants in encoder, decoder and joint",
        preprocessor=_F32,
        encoder=_F16,
        decoder=_F16,
        joint=_F16,
        tolerance=Tolerance(exact_match=1.0, wer_delta=0.0),
    ),
    Recipe(
        name="int8",
        version=1,
        description="the published recipe: encoder weights in symmetric INT8 per channel, decoder and joint as fp16",
        preprocessor=_F32,
        encoder=GraphRecipe(
            precision="f16",
            compression=WeightCompression(mode="int8_sym", ignored_scope=IgnoredScope(patterns=(POSITIONS,))),
        ),
        decoder=_F16,
        joint=_F16,
        tolerance=Tolerance(exact_match=0.8, wer_delta=0.3),
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _BUILT_IN}


def get_recipe(name: str) -> Recipe:
    """A built-in recipe.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UserError(f"--recipe {name}: no such recipe; choose one of {', '.join(RECIPES)}") from None
