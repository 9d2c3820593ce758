"""The folder that recipes, calibration and sweeps start from."""

from __future__ import annotations

from export.bundle import Bundle
from export.errors import UserError


def require_fp32(source: Bundle) -> None:
    """Refuse a folder that a recipe has changed already.

    Raises:
        UserError: it has.
    """
    name = source.metadata.recipe.get("name", source.metadata.precision.lower())
    if name != "fp32":
        raise UserError(f"{source.path}: was made by recipe {name}; give the fp32 folder, every recipe starts from it")
