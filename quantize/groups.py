"""Groups of weights that a mixed recipe treats alike: a conformer layer's modules, and what lies around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.bundle import GRAPHS, Bundle
from export.errors import UserError
from quantize.effect import is_ignored, weights
from quantize.modes import INTEGER_8
from quantize.recipe import GraphRecipe, Recipe
from quantize.recipes import POSITIONS
from quantize.steps import IgnoredScope, WeightCompression

if TYPE_CHECKING:
    from quantize.effect import Weight

_LAYER = re.compile(r".*encoder\.layers\.(\d+)\.")
_MODULE = re.compile(r".*?encoder\.(?:(layers\.\d+)\.)?(\w+)")


@dataclass(frozen=True)
class Group:
    """Some weights of one graph.

    Attributes:
        name: ``layers.3.feed_forward1``, ``pre_encode``, ``prompt_kernel``, ``embedding`` or ``joint``.
        graph: where they are.
        operations: names of the operations that read them.
        elements: how many weights.
        left_out: whether the first compression of the recipe that they were found for leaves them out.
    """

    name: str
    graph: str
    operations: tuple[str, ...]
    elements: int
    left_out: bool = False

    @property
    def layer(self) -> str:
        """The conformer layer (``layers.3``), or the group itself outside of those."""
        return ".".join(self.name.split(".")[:2])

    @property
    def pattern(self) -> str:
        """A rule of an ignored scope that holds all of it and nothing else of its graph."""
        return module_pattern(self.name)


def module_pattern(name: str) -> str:
    """The rule for a group or a whole conformer layer of the encoder."""
    prefix = r".*encoder\." if name.startswith("layers.") else ".*"
    return prefix + re.escape(name) + r"\..*"


def with_layers(part: GraphRecipe, names: Iterable[str], where: str) -> GraphRecipe:
    """A graph's part with the layers of its ignored scopes as patterns, which is how NNCF knows them.

    Args:
        part: of the recipe.
        names: of the graph's operations, which say how many layers there are; asked for only where a scope has layers.
        where: recipe and file, for messages.

    Raises:
        UserError: the graph has no such layer.
    """
    scopes = [step.ignored_scope for step in part.compression]
    scopes += [part.quantization.ignored_scope] if part.quantization else []
    if not any(scope.layers for scope in scopes):
        return part
    numbers = [int(found[1]) for name in names if (found := _LAYER.match(name))]
    count = max(numbers, default=-1) + 1

    def pattern(layer: int) -> str:
        if not -count <= layer < count:
            raise UserError(
                f"{where}: ignored_scope layer {layer}: the graph has {count} conformer layers; correct it or leave it "
                "out"
            )
        return module_pattern(f"layers.{layer % count}")

    def resolved(scope: IgnoredScope) -> IgnoredScope:
        patterns = (*scope.patterns, *map(pattern, scope.layers))
        return scope.model_copy(update={"patterns": patterns, "layers": ()})

    if part.quantization:
        scope = resolved(part.quantization.ignored_scope)
        return part.model_copy(update={"quantization": part.quantization.model_copy(update={"ignored_scope": scope})})
    compression = [step.model_copy(update={"ignored_scope": resolved(step.ignored_scope)}) for step in part.compression]
    return part.model_copy(update={"compression": tuple(compression)})


def for_groups(recipe: Recipe, groups: Iterable[Group]) -> Recipe:
    """A recipe with the layers of its encoder's ignored scopes as patterns, see :func:`with_layers`."""
    names = [name for group in groups if group.graph == "encoder" for name in group.operations]
    return recipe.model_copy(update={"encoder": with_layers(recipe.encoder, names, f"recipe {recipe.name}")})


def find_groups(bundle: Bundle, recipe: Recipe | None = None) -> list[Group]:
    """Groups of all that weight compression takes, in the network's order; positions stay as they are.

    Args:
        bundle: the folder.
        recipe: what its first compression leaves out of a group is a group of its own, named ``NAME, left out`` where
            that is a part.

    Raises:
        UserError: the recipe names a layer that the encoder does not have.
    """
    import openvino as ov

    core = ov.Core()
    found: list[Group] = []
    for graph in GRAPHS[1:]:
        members: dict[str, list[Weight]] = {}
        for weight in weights(core.read_model(bundle.graph_path(graph))):
            if not is_ignored(weight, IgnoredScope(patterns=(POSITIONS,))):
                members.setdefault(_group_name(graph, weight), []).append(weight)
        scope = _first_scope(recipe, graph, [weight.operation for group in members.values() for weight in group])
        for name, group in members.items():
            left_out = [weight for weight in group if is_ignored(weight, scope)]
            stored = [weight for weight in group if weight not in left_out]
            if stored:
                found.append(_group(name, graph, stored))
            if left_out:
                found.append(_group(f"{name}, left out" if stored else name, graph, left_out, left_out=True))
    return sorted(found, key=_order)


def _first_scope(recipe: Recipe | None, graph: str, names: Sequence[str]) -> IgnoredScope:
    """What a recipe's first compression of a graph leaves out."""
    if recipe is None or not recipe.graph(graph).compression:
        return IgnoredScope()
    return with_layers(recipe.graph(graph), names, f"recipe {recipe.name}").compression[0].ignored_scope


def _group(name: str, graph: str, members: Sequence[Weight], *, left_out: bool = False) -> Group:
    operations = tuple(sorted({weight.operation for weight in members}))
    elements = sum(weight.elements for weight in {weight.name: weight for weight in members}.values())
    return Group(name, graph, operations, elements, left_out)


def _group_name(graph: str, weight: Weight) -> str:
    if graph != "encoder":
        return {"decoder": "embedding"}.get(graph, graph)
    module = _MODULE.match(weight.operation)
    if module is None:
        return "prompt_kernel" if "prompt_kernel" in weight.operation else weight.operation
    layer, kind = module.groups()
    return f"{layer}.{kind}" if layer else kind


def _order(group: Group) -> tuple[int, int, str]:
    number = re.match(r"layers\.(\d+)", group.name)
    place = ("pre_encode", "layers", "prompt_kernel", "embedding", "joint")
    kind = "layers" if number else group.name
    return (place.index(kind) if kind in place else len(place), int(number[1]) if number else 0, group.name)


def whole(step: WeightCompression) -> WeightCompression:
    """A compression of every product that it is given: it chooses none by a ratio, and leaves none to its backup."""
    if step.mode in INTEGER_8:
        return step
    plain = step.model_copy(update={"ratio": None, "sensitivity_metric": None, "all_layers": True})
    return plain if plain.needs_calibration else plain.model_copy(update={"subset_size": None})


def step_for(group: Group, groups: Sequence[Group], step: WeightCompression) -> WeightCompression:
    """A recipe's compression of one group alone, all of it."""
    others = {name for other in groups if other.graph == group.graph for name in other.operations}
    names = sorted(others - set(group.operations))
    encoder = group.graph == "encoder"
    scope = IgnoredScope(names=tuple(names), patterns=(POSITIONS,) * encoder, must_match=not encoder)
    return whole(step).model_copy(update={"ignored_scope": scope})


def is_compressed(group: Group, recipe: Recipe, step: WeightCompression) -> bool:
    """Whether a recipe, for which the group was found, stores it as ``step``, its first compression of the encoder."""
    first = next(iter(recipe.graph(group.graph).compression), None)
    return first is not None and first.mode == step.mode and not group.left_out


def without(recipe: Recipe, groups: Iterable[Group], *, name: str, description: str) -> Recipe:
    """A recipe whose first compression leaves some groups to the second, or in f16 where there is none."""
    kept = list(groups)
    changes: dict[str, object] = {"name": name, "version": 1, "description": description}
    for graph, part in recipe.graphs.items():
        patterns = tuple(group.pattern for group in kept if group.graph == graph)
        if patterns and graph == "encoder":
            first, *rest = part.compression
            scope = first.ignored_scope.model_copy(update={"patterns": (*first.ignored_scope.patterns, *patterns)})
            first = first.model_copy(update={"ignored_scope": scope})
            changes[graph] = part.model_copy(update={"compression": (first, *rest)})
        elif patterns:  # one group is all of the graph
            changes[graph] = part.model_copy(update={"compression": part.compression[1:]})
    return Recipe.model_validate(recipe.model_copy(update=changes).as_table())
