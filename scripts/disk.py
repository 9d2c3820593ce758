"""Room on disk: what folders will take at most, against what is free, before anything is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import UserError

if TYPE_CHECKING:
    from quantize.recipe import GraphRecipe, Recipe

SLACK = 32_000_000
"""Bytes for everything but weights: reports, transcripts, the graphs' XML, rounding."""


def checkpoint_weights(checkpoint_bytes: int) -> dict[str, int]:
    """Bytes of the FP32 graphs' weights that a checkpoint of this size leads to, at most, by graph."""
    return {"encoder": int(1.1 * checkpoint_bytes)}  # nearly all of it is the encoder's


def recipe_bytes(recipe: Recipe, fp32: Mapping[str, int]) -> float:
    """Upper estimate of a recipe's folder.

    Args:
        recipe: what is made.
        fp32: bytes of the FP32 weights by graph.
    """
    return SLACK / 4 + sum(_share(recipe.graph(graph)) * size for graph, size in fp32.items())


def require_room(needs: Iterable[tuple[Path, float]], remedy: str) -> None:
    """Compare what is needed with what is free; needs on one file system are added.

    Args:
        needs: places, which need not exist yet, and bytes.
        remedy: what the user can do.

    Raises:
        UserError: too little, naming the place, the need, what is there and the remedy.
    """
    devices: dict[int, tuple[Path, float]] = {}
    for place, need in needs:
        device = existing_parent(place).stat().st_dev
        first, sofar = devices.get(device, (place, 0.0))
        devices[device] = (first, sofar + need)
    for place, need in devices.values():
        free = shutil.disk_usage(existing_parent(place)).free
        if free < need:
            raise UserError(
                f"{place}: up to {need / 1e9:.2f} GB of disk are needed and {free / 1e9:.2f} GB are free; "
                f"free some, {remedy}"
            )


def existing_parent(path: Path) -> Path:
    """The nearest folder above (or at) ``path`` that exists."""
    path = Path(os.path.abspath(path))
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _share(part: GraphRecipe) -> float:
    """Upper estimate of a graph's size as a share of FP32's."""
    bits = 32 if part.precision == "f32" else 16
    if part.kinds:
        backups = [step.backup.bits for step in part.compression if step.backup is not None]
        bits = max([kind.bits for kind in part.kinds] + backups)
    return bits / 32 + (0.05 if bits < 16 else 0.0)
