"""Recipes × grid: which fields take which values, and the recipes that come of it."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from export.bundle import GRAPHS
from export.errors import UserError
from export.progress import note
from quantize.recipe import GraphRecipe, Recipe
from quantize.steps import IgnoredScope, Quantization, SmoothQuantAlphas, WeightCompression

DEFAULT = "default"
"""The value that leaves a field out."""

Path = tuple[str | int, ...]
"""Keys and indices from a recipe's table to a field."""

_TABLES: dict[str, type[BaseModel]] = {"ignored_scope": IgnoredScope, "smooth_quant_alphas": SmoothQuantAlphas}


@dataclass(frozen=True)
class Axis:
    """One ``--grid``: a key and the values that it takes."""

    key: str  # graph.field
    values: tuple[Any, ...]  # None leaves the field out


@dataclass(frozen=True)
class Variant:
    """One row of a sweep: a recipe, or why there is none."""

    name: str  # int4@encoder.group_size=64
    recipe: Recipe | None
    refused: str = ""


def parse_axis(text: str) -> Axis:
    """``encoder.group_size=32,64,128``: TOML values, or words without quotes.

    Raises:
        UserError: no key, no value, or a value given twice.
    """
    key, equals, right = (part.strip() for part in text.partition("="))
    if not equals or not re.fullmatch(r"\w+(\.\w+)+", key):
        raise UserError(f"--grid {text}: is not GRAPH.FIELD=VALUE,VALUE; write it as encoder.group_size=32,64,128")
    values = tuple(_values(right))
    if not values or "" in values:
        raise UserError(f"--grid {text}: has an empty value; separate values with single commas")
    if len({repr(value) for value in values}) < len(values):
        raise UserError(f"--grid {text}: gives a value twice; give each once")
    return Axis(key, tuple(None if value == DEFAULT else value for value in values))


def expand(recipes: Sequence[Recipe], axes: Sequence[Axis]) -> list[Variant]:
    """Every recipe with every combination of the values of the keys that it has.

    Raises:
        UserError: a key is given twice, no recipe has it, or two recipes would have the same name.
    """
    for index, axis in enumerate(axes):
        if any(other.key == axis.key for other in axes[:index]):
            raise UserError(f"--grid {axis.key}: is given twice; give all its values at once")
        if not any(_find(recipe, axis.key) for recipe in recipes):
            known = sorted({key for recipe in recipes for key in keys(recipe, axis.key.split(".")[0])})
            raise UserError(
                f"--grid {axis.key}: no recipe of this sweep has such a field; choose among {', '.join(known)}"
            )
    variants: list[Variant] = []
    for recipe in recipes:
        own = [axis for axis in axes if _find(recipe, axis.key)]
        for axis in axes:
            if axis not in own:
                note(f"recipe {recipe.name} has no {axis.key}: it is taken without")
        for values in itertools.product(*(axis.values for axis in own)):
            given = {axis.key: value for axis, value in zip(own, values, strict=True)}
            variants += [_variant(recipe, given)]
    named: dict[str, Variant] = {}
    for variant in variants:
        if variant.recipe is None:
            continue
        other = named.setdefault(variant.recipe.name, variant)
        if other is not variant:
            raise UserError(
                f"--grid: {other.name} and {variant.name} would both be recipe {variant.recipe.name}; leave one out"
            )
    return variants


def keys(recipe: Recipe, graph: str) -> list[str]:
    """Keys of a recipe's fields, as short as they are understood; those of every graph where there is no ``graph``."""
    graphs = [graph] if graph in GRAPHS else list(GRAPHS)
    found: list[str] = []
    for name in graphs:
        part = recipe.graph(name)
        fields = [field for field in GraphRecipe.model_fields if field not in ("compression", "quantization")]
        if part.compression:
            fields += WeightCompression.model_fields
        if part.quantization is not None:
            fields += Quantization.model_fields
        for field in fields:
            inner = _TABLES[field].model_fields if field in _TABLES else ()
            found += [f"{name}.{field}.{item}" for item in inner] or [f"{name}.{field}"]
    return found


def _find(recipe: Recipe, key: str) -> Path | None:
    """Where a key's field lies in the recipe's table; None where the recipe has no such field."""
    graph, *rest = key.split(".")
    if graph not in GRAPHS:
        return None
    part = recipe.graph(graph)
    kind, step = "", 0
    if rest[0] in ("compression", "quantization"):
        kind = rest.pop(0)
        step = int(rest.pop(0)) if kind == "compression" and rest and rest[0].isdecimal() else 0
    found: Path | None = None
    if not kind and (_is_field(GraphRecipe, rest) or (rest[:1] == ["runtime_options"] and len(rest) == 2)):
        found = (graph, *rest)
    elif kind != "quantization" and step < len(part.compression) and _is_field(WeightCompression, rest):
        found = (graph, "compression", step, *rest)
    elif kind != "compression" and part.quantization is not None and _is_field(Quantization, rest):
        found = (graph, "quantization", *rest)
    return found


def _is_field(model: type[BaseModel], keys: Sequence[str]) -> bool:
    if not keys or keys[0] not in model.model_fields:
        return False
    inner = _TABLES.get(keys[0])
    return len(keys) == 1 or (len(keys) == 2 and inner is not None and keys[1] in inner.model_fields)


def _variant(recipe: Recipe, values: Mapping[str, Any]) -> Variant:
    if not values:
        return Variant(recipe.name, recipe)
    values_text = ",".join(f"{key}={_written(value)}" for key, value in values.items())
    name = f"{recipe.name}@{values_text}"
    table = _steps_as_list(recipe)
    for key, value in values.items():
        _set(table, _find(recipe, key) or (), value)
    table |= {"name": slug(name), "description": f"{recipe.description}; {values_text}"}
    try:
        return Variant(name, Recipe.model_validate(table))
    except ValidationError as error:
        return Variant(name, None, refusal(error))


def slug(name: str) -> str:
    """A name that a recipe may have."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<![a-z0-9])-(?=\d)", "minus-", name.lower())).strip("-")


def refusal(error: ValidationError) -> str:
    """The first rule that a recipe breaks."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg'].removeprefix('Value error, ')}"


def _steps_as_list(recipe: Recipe) -> dict[str, Any]:
    table = deepcopy(recipe.as_table())
    for graph in GRAPHS:
        steps = table.get(graph, {}).get("compression")
        if isinstance(steps, dict):
            table[graph]["compression"] = [steps]
    return table


def _set(table: Any, path: Path, value: Any) -> None:
    *way, last = path
    for key in way:
        table = table[key] if isinstance(key, int) else table.setdefault(key, {})
    if value is None:
        table.pop(last, None)
    else:
        table[last] = value


def _values(text: str) -> list[Any]:
    """A TOML array's items, or, where it is none, words between commas."""
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
        return values
    except tomllib.TOMLDecodeError:
        return [_word(part.strip()) for part in text.split(",")]


def _word(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _written(value: Any) -> str:
    if value is None:
        return DEFAULT
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
