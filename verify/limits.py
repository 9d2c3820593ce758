"""Whose limits a folder is judged by.

A folder cannot say itself what it may lose: a folder that was edited, or made elsewhere, is judged by this toolkit's
limits, or by those of a recipe that the user names.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantize.recipe import Recipe, Tolerance
from quantize.recipes import RECIPES
from verify.runs import ORACLE_NAMES, Side

NEMO_TOLERANCE = Tolerance(exact_match=0.0, wer_delta=5.0, wer_between=10.0)
"""The clients' loop against NeMo itself: it may cost 5 points, and a tenth of the text may differ.

The loop feeds the first chunk and the chunk borders otherwise than NeMo does, so tokens need not be identical.
"""

NEMO_IDENTITY = Tolerance(exact_match=0.98, wer_delta=0.5, language_wer_delta=1.0, wer_between=0.5)
"""An unquantized folder against NeMo by the streaming runtime: the same tokens, but where rounding decides."""

IDENTICAL = RECIPES["fp32"].tolerance
"""As good as the reference, token for token, near ties apart."""


@dataclass(frozen=True)
class Limits:
    """What may be lost, and who says so."""

    tolerance: Tolerance
    whose: str

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Limits:
        """Those of a recipe that the user names."""
        return cls(recipe.tolerance, f"recipe {recipe.name}")


def limits_for(target: Side, reference: Side) -> Limits:
    """The limits that hold where the user names none.

    Against an oracle in the clients' loop :data:`NEMO_TOLERANCE`, for an unquantized folder in the streaming runtime
    :data:`NEMO_IDENTITY`; else those of the built-in recipe that the folder was made by, or :data:`IDENTICAL`.
    """
    name, made_by = target.recipe.get("name"), target.recipe.get("hash")
    if reference.oracle is not None:
        if target.runtime != "streaming":
            return Limits(NEMO_TOLERANCE, f"ours for the clients' loop against {ORACLE_NAMES[reference.oracle]}")
        if not made_by:
            return Limits(NEMO_IDENTITY, f"ours for an unquantized folder against {ORACLE_NAMES[reference.oracle]}")
    if not made_by:
        return Limits(IDENTICAL, "ours where no recipe is recorded")
    built_in = RECIPES.get(name) if isinstance(name, str) else None
    if built_in is None:
        return Limits(IDENTICAL, f"ours for an unknown recipe, {name}: name yours with --limits")
    if built_in.hash != made_by:
        return Limits(IDENTICAL, f"ours for another recipe {name} than the built-in one: name yours with --limits")
    return Limits(built_in.tolerance, f"the built-in recipe {name}")
