"""The built-in recipes by name; the command line's choices, the documentation's table and the test ids read it."""

from __future__ import annotations

from pathlib import Path

from export.errors import UserError
from quantize.recipe import ACTIVATION_GROUP, GraphRecipe, Recipe, Tolerance
from quantize.recipe_file import SUFFIX, load_recipe
from quantize.steps import IgnoredScope, Quantization, SmoothQuantAlphas, WeightCompression

_F32 = GraphRecipe(precision="f32")
"""Also the preprocessor's in every recipe: half-precision DFT constants move quiet log-mel bins by up to 0.3, which is
enough to change tokens, and save half a megabyte."""

_F16 = GraphRecipe(precision="f16")

POSITIONS = r".*self_attn\.linear_pos.*"
"""The attention's position projection: a matrix in NeMo's encoder, the product itself as a constant in the rewritten
encoder, part of the query's weights in that with a kv cache.

Its input is a constant too; OpenVINO fails to compile such a product when the matrix is in INT8.
"""

_KEEP_POSITIONS = IgnoredScope(patterns=(POSITIONS,), must_match=False)

SENSITIVE = r".*(self_attn\.linear_pos|pre_encode|prompt_kernel).*"
"""What 4 bits would hurt: everything that follows comes out of pre-encode (from raw log-mel values) or goes through the
prompt kernel, and they are 2 % of the weights. One rule, because a checkpoint without a prompt has no kernel."""

ATTENTION_PRODUCTS = r".*self_attn/.*"
"""Scores and context, which multiply two activations: caches of all lengths share one scale there."""

GROUP = {ACTIVATION_GROUP: 128}
"""Activations that share a scale where weights are in INT8; steps are a tenth faster than with 32, the default. Groups
of 4-bit weights must be a multiple, see :func:`quantize.effect.group_warnings`."""

_INT8 = WeightCompression(mode="int8_sym")
_INT8_ENCODER = WeightCompression(mode="int8_sym", ignored_scope=_KEEP_POSITIONS)
_INT8_GRAPH = GraphRecipe(compression=(_INT8,))


_IN_8_BITS = Tolerance(exact_match=0.8, wer_delta=0.3, language_wer_delta=1.0, wer_between=3.0)
_IN_4_BITS = Tolerance(exact_match=0.5, wer_delta=1.0, language_wer_delta=2.0, wer_between=6.0)


def _small(name: str, description: str, tolerance: Tolerance, encoder: GraphRecipe, *, version: int = 1) -> Recipe:
    """INT8 decoder and joint, and an encoder of its own."""
    return Recipe(
        name=name,
        version=version,
        description=description,
        tolerance=tolerance,
        preprocessor=_F32,
        encoder=encoder,
        decoder=_INT8_GRAPH,
        joint=_INT8_GRAPH,
    )


def _four_bits(*, gptq: bool | None = None) -> GraphRecipe:
    """An encoder in 4 bits, what suffers and what groups do not fit in INT8."""
    first = WeightCompression(
        mode="int4_sym",
        group_size=64,
        group_size_fallback_mode="adjust",
        all_layers=True,
        backup_mode="none",
        gptq=gptq,
        ignored_scope=IgnoredScope(patterns=(SENSITIVE,), layers=(-1,)),
    )
    return GraphRecipe(compression=(first, _INT8_ENCODER), runtime_options={ACTIVATION_GROUP: 64})


_BUILT_IN = (
    Recipe(
        name="fp32",
        version=1,
        description="the export as it is",
        tolerance=Tolerance(exact_match=1.0, wer_delta=0.0, wer_between=0.0),
        preprocessor=_F32,
        encoder=_F32,
        decoder=_F32,
        joint=_F32,
    ),
    Recipe(
        name="fp16",
        version=1,
        description="encoder, decoder and joint weights in FP16",
        tolerance=Tolerance(exact_match=1.0, wer_delta=0.1, language_wer_delta=0.3, wer_between=0.5),
        preprocessor=_F32,
        encoder=_F16,
        decoder=_F16,
        joint=_F16,
    ),
    Recipe(
        name="int8",
        version=2,
        description="encoder weights in INT8, symmetric per channel; decoder and joint in FP16; the published recipe",
        tolerance=_IN_8_BITS,
        preprocessor=_F32,
        encoder=GraphRecipe(compression=(_INT8_ENCODER,), runtime_options=GROUP),
        decoder=_F16,
        joint=_F16,
    ),
    _small(
        "int8-full",
        "as int8; embedding, prediction network and joint in INT8 too",
        _IN_8_BITS,
        GraphRecipe(compression=(_INT8_ENCODER,), runtime_options=GROUP),
    ),
    _small(
        "int4",
        "encoder layers but the last in INT4, symmetric, groups of 64; all other weights as int8-full",
        _IN_4_BITS,
        _four_bits(),
        version=2,
    ),
    _small(
        "int4-aware",
        "as int4; each weight rounded with regard to the errors of those before it (GPTQ), on calibration audio",
        _IN_4_BITS,
        _four_bits(gptq=True),
        version=2,
    ),
    _small(
        "w8a8",
        "encoder weights and activations in INT8 by post-training quantization with SmoothQuant; attention products "
        "and pre-encode in FP16",
        Tolerance(exact_match=0.6, wer_delta=0.5, language_wer_delta=1.5, wer_between=4.0),
        GraphRecipe(
            quantization=Quantization(
                preset="mixed",
                model_type="transformer",
                smooth_quant_alphas=SmoothQuantAlphas(matmul=0.5),
                overflow_fix="enable",
                ignored_scope=IgnoredScope(
                    patterns=(POSITIONS, ATTENTION_PRODUCTS, r".*pre_encode.*"), must_match=False
                ),
            )
        ),
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _BUILT_IN}


def check_name(recipe: Recipe, path: str | Path) -> None:
    """Check that a file's recipe does not take a built-in one's name.

    Raises:
        UserError: it does, and says something else.
    """
    if recipe.hash != RECIPES.get(recipe.name, recipe).hash:
        raise UserError(f"{path}: name {recipe.name!r} is a built-in recipe's and this is another; choose a new name")


def get_recipe(name: str, option: str = "--recipe") -> Recipe:
    """A built-in recipe, or one from a TOML file.

    Args:
        name: of a built-in recipe, or the path of a file that ends in ``.toml``.
        option: by which the user named it, for errors.

    Raises:
        UserError: there is none of that name, or the file is no recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if Path(name).suffix == SUFFIX:
        recipe = load_recipe(name)
        check_name(recipe, name)
        return recipe
    raise UserError(
        f"{option} {name}: no such recipe; choose one of {', '.join(RECIPES)}, or give the path of a {SUFFIX} file"
    )
