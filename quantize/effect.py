"""Whether a recipe took effect: what the weights of a graph are stored as."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.constants import constants, elements, stored_type
from export.errors import ParityError, UserError
from quantize.recipe import GraphRecipe, IgnoredScope

if TYPE_CHECKING:
    import openvino as ov

SCALAR_ELEMENTS = 16
"""Constants up to this size are scales, axes and limits of formulas; OpenVINO may keep them in f32."""

_HALF_SUFFIX = "_compressed"  # what save_model appends to the name of a constant that it stores in f16
_INTEGER_WEIGHTS = frozenset({"i8", "u8", "i4", "u4"})
_FLOATS = frozenset({"f32", "f64"})
_WEIGHT_INPUT = {"MatMul": (0, 1), "Convolution": (1,), "GroupConvolution": (1,), "Gather": (0,)}
_STORAGE = frozenset({"Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeConvert"})


@dataclass(frozen=True)
class Weight:
    """The constant that an operation reads as its weight, whatever stands between to decompress it."""

    name: str
    operation: str  # name of the operation
    operation_type: str
    type: str
    elements: int


def weights(model: ov.Model) -> list[Weight]:
    """Weights of matrix products, convolutions and embeddings, scalars left out."""
    found = []
    for node in model.get_ops():
        for index in _WEIGHT_INPUT.get(node.get_type_name(), ()):
            constant = _stored(node.input_value(index).get_node())
            if constant is not None and elements(constant) > SCALAR_ELEMENTS:
                names = (constant.get_friendly_name().removesuffix(_HALF_SUFFIX), node.get_friendly_name())
                found.append(Weight(*names, node.get_type_name(), stored_type(constant), elements(constant)))
    return found


def is_ignored(weight: Weight, scope: IgnoredScope) -> bool:
    """Whether a scope excludes a weight: by its own name or by its operation's name or type."""
    names = (weight.name, weight.operation)
    return (
        any(name in scope.names for name in names)
        or any(re.match(pattern, name) for pattern in scope.patterns for name in names)
        or weight.operation_type in scope.types
    )


def check_scope(model: ov.Model, scope: IgnoredScope, where: str) -> None:
    """Check that every rule of a scope excludes some weight.

    Raises:
        UserError: a rule matches nothing, so that the recipe does not fit the graph.
    """
    found = weights(model)
    rules = [("name", IgnoredScope(names=(rule,)), rule) for rule in scope.names]
    rules += [("pattern", IgnoredScope(patterns=(rule,)), rule) for rule in scope.patterns]
    rules += [("type", IgnoredScope(types=(rule,)), rule) for rule in scope.types]
    for kind, single, rule in rules:
        if not any(is_ignored(weight, single) for weight in found):
            raise UserError(
                f"{where}: ignored_scope {kind} {rule!r} matches no weight of this graph; "
                "correct the rule or leave it out"
            )


def check_effect(model: ov.Model, part: GraphRecipe, where: str) -> None:
    """Check that a graph holds what its recipe asks for.

    Half precision leaves no larger f32 constant. INT8 compresses the weights of every matrix product outside the
    ignored scope and none inside it, and those are in half precision.

    Raises:
        ParityError: the recipe did nothing, or not everything, or too much.
    """
    if part.precision == "f16":
        wide = [node for node in constants(model) if stored_type(node) in _FLOATS and elements(node) > SCALAR_ELEMENTS]
        if wide:
            raise ParityError(
                f"{where}: {len(wide)} constants are still f32, the first {wide[0].get_friendly_name()} of "
                f"{elements(wide[0])} elements; convert the graph to half precision first"
            )
    if part.compression is None:
        return
    found = weights(model)
    scope = part.compression.ignored_scope
    if not any(weight.type in _INTEGER_WEIGHTS for weight in found):
        raise ParityError(f"{where}: mode {part.compression.mode} left the graph without any integer weight")
    missed, excess = [], []
    for weight in found:
        compressed, ignored = weight.type in _INTEGER_WEIGHTS, is_ignored(weight, scope)
        if ignored and compressed:
            excess.append(weight)
        if weight.operation_type == "MatMul" and not ignored and not compressed:
            missed.append(weight)
    for group, what in ((missed, "are not compressed"), (excess, "are compressed though the recipe ignores them")):
        if group:
            raise ParityError(
                f"{where}: {len(group)} weights {what}, the first {group[0].name} "
                f"({group[0].type}, {group[0].elements} elements)"
            )


def _stored(node: Any) -> Any | None:
    """The constant behind a chain of decompression, or None where the value is computed from inputs."""
    while node.get_type_name() in _STORAGE:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
