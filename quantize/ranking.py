"""A stored ranking of groups of weights (``layers.json``), and the mixed recipe that is chosen from it.

A ranking says what compressing each group alone costs. Choosing needs no model: how many groups a recipe keeps in
higher precision can be decided again and again from one ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, Field, field_validator, model_validator

from export.errors import UserError
from export.json_files import read_json_as
from quantize.groups import Group, without
from quantize.modes import Mode
from quantize.recipe import Recipe

HALF_BITS = 16

TINY = 1e-30
"""Nats: what divergences are divided by where all are 0."""


class Ranked(BaseModel):
    """A group and what compressing it alone costs."""

    name: str
    graph: Literal["encoder", "decoder", "joint"]
    elements: Annotated[int, Field(ge=0)]
    kl: Annotated[float, Field(ge=-1.0, allow_inf_nan=False)]  # nats a cell; rounding may make it less than 0
    keepable: bool  # whether the recipe stores it by its first compression, so that it can be kept higher
    more_mb: Annotated[float, Field(le=1e6)]  # what keeping it higher adds to the folder, 10⁶ bytes

    @model_validator(mode="after")
    def _consistent(self) -> Ranked:
        if self.keepable and self.more_mb <= 0:
            raise ValueError(f"{self.name}: keeping it higher takes no room")
        return self


class Ranking(BaseModel):
    """What is read of ``layers.json``; groups are sorted by their divergence, the largest first.

    Attributes:
        recipe: whose first compression was ranked.
        groups: those that could be compressed alone.
        failed: why others could not, by name.
        checkpoint: that was ranked; nothing in files of before.
    """

    recipe: Annotated[Recipe, Field(validation_alias=AliasChoices("recipe_table", "recipe"))]
    groups: list[Ranked]
    failed: dict[str, str] = Field(default_factory=dict)
    checkpoint: dict[str, Any] = Field(default_factory=dict)

    @field_validator("recipe")
    @classmethod
    def _compresses(cls, recipe: Recipe) -> Recipe:
        if not recipe.encoder.compression:
            raise ValueError("it compresses no weights of the encoder")
        return recipe

    @field_validator("groups")
    @classmethod
    def _worst_first(cls, groups: list[Ranked]) -> list[Ranked]:
        if len({group.name for group in groups}) < len(groups):
            raise ValueError("a group stands there twice")
        return sorted(groups, key=lambda row: (-row.kl, row.name))

    def kept(
        self, *, keep_worst: int | None = None, kl_budget: float | None = None, extra_mb: float | None = None
    ) -> list[str]:
        """Names of the groups that stay in higher precision.

        Args:
            keep_worst: the so many worst.
            kl_budget: the worst, until the divergences of the rest add up to no more than this.
            extra_mb: those whose divergences add up to most, of all that fit in so many 10⁶ bytes more.

        Raises:
            UserError: ``extra_mb`` is less than what the smallest mixed recipe adds, 0.
        """
        rows = [row for row in self.groups if row.keepable]
        if keep_worst is not None:
            return [row.name for row in rows[:keep_worst]]
        kept: list[str] = []
        if kl_budget is not None:
            left = sum(row.kl for row in rows)
            for row in rows:
                if left <= kl_budget:
                    break
                kept.append(row.name)
                left -= row.kl
        elif extra_mb is not None:
            if extra_mb < 0:
                raise UserError(f"{extra_mb:g} MB more: the smallest mixed recipe adds 0 MB; give 0 or more")
            kept = [row.name for row in _worth_most(rows, extra_mb)]
        return kept

    def mixed(self, kept: Sequence[str], name: str | None = None) -> Recipe:
        """The recipe that keeps these groups in its second compression, or in f16 where there is none.

        Raises:
            UserError: its first compression would have no weight of the encoder left.
        """
        first = self.recipe.encoder.compression[0]
        stored = [row.name for row in self.groups if row.keepable and row.graph == "encoder"]
        if stored and set(stored) <= set(kept) and not self.failed:  # what failed is stored by the first one, too
            raise UserError(
                f"all groups that recipe {self.recipe.name} stores in {first.mode} would be kept higher; keep fewer"
            )
        groups = [Group(row.name, row.graph, (), row.elements) for row in self.groups if row.name in kept]
        second = self.recipe.encoder.compression[1:]
        higher = f"in {second[0].mode}" if second else "in f16"
        names = ", ".join(group.name for group in groups) or "none"
        return without(
            self.recipe,
            groups,
            name=name or f"{self.recipe.name}-kept-{len(groups)}",
            description=f"{self.recipe.name}, {len(groups)} groups that lose most {higher}: {names}",
        )


def _worth_most(rows: Sequence[Ranked], room: float) -> list[Ranked]:
    """The rows that fit in ``room`` (10⁶ bytes, 0 or more) and whose divergences add up to most, in their order.

    One after another by divergence a byte would leave room empty where groups are few and large.
    """
    if not rows:
        return []
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    worth = np.array([row.kl for row in rows])
    found = milp(
        -worth / max(worth.max(), TINY),
        integrality=1,
        bounds=Bounds(0, 1),
        constraints=LinearConstraint([[row.more_mb for row in rows]], ub=room),
        options={"mip_rel_gap": 0.0},
    )
    return [row for row, taken in zip(rows, found.x, strict=True) if taken > 0.5]


def more_mb(recipe: Recipe, group: Group) -> float:
    """What storing a group as the recipe's second compression does, or in f16, adds to a folder; scales not counted."""
    first, *rest = recipe.graph(group.graph).compression or recipe.encoder.compression
    bits = _bits(rest[0].kind if rest else None) - _bits(first.kind)
    return group.elements * bits / 8 / 1e6


def _bits(kind: Mode | None) -> int:
    return kind.bits if kind else HALF_BITS


def read_ranking(path: Path) -> Ranking:
    """Read ``layers.json``.

    Raises:
        UserError: it is missing, or no ranking of this version.
    """
    return read_json_as(Ranking, path, "give a layers.json as `nemotron-ov rank` writes it")
