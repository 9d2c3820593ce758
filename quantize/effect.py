"""Whether a recipe took effect: what the weights of a graph are stored as."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.errors import ParityError, UserError
from export.weight_types import constants, elements, stored_type
from quantize.modes import INTEGER_8
from quantize.recipe import ACTIVATION_GROUP, GraphRecipe
from quantize.steps import IgnoredScope, Quantization, WeightCompression

if TYPE_CHECKING:
    import openvino as ov

SCALAR_ELEMENTS = 16
"""Constants up to this size are scales, axes and limits of formulas; OpenVINO may keep them in f32."""

_HALF_SUFFIX = "_compressed"  # what save_model appends to the name of a constant that it stores in f16
_ADAPTER = re.compile(r"(.+)_lora_[AB]")  # how NNCF names the low-rank matrices that correct a product
_ADAPTER_TYPE = "u8"
_WIDE = frozenset({"f32", "f64"})
_PLAIN = _WIDE | {"f16", "bf16"}
_WEIGHT_INPUT = {"MatMul": (0, 1), "Convolution": (1,), "GroupConvolution": (1,), "Gather": (0,)}
_STORAGE = frozenset({"Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeConvert", "FakeQuantize"})


@dataclass(frozen=True)
class Weight:
    """The constant that an operation reads as its weight, whatever stands between to decompress it."""

    name: str
    operation: str  # name of the operation
    operation_type: str
    type: str
    elements: int

    @property
    def compressed(self) -> bool:
        """Whether it is stored as anything but plain floating point."""
        return self.type not in _PLAIN

    @property
    def corrects(self) -> str | None:
        """Name of the product that it corrects, where it is one of NNCF's low-rank adapters."""
        match = _ADAPTER.fullmatch(self.name)
        return match[1] if match else None


def weights(model: ov.Model) -> list[Weight]:
    """Weights of matrix products, convolutions and embeddings, scalars and tables of integers left out."""
    found = []
    for node in model.get_ops():
        for index in _WEIGHT_INPUT.get(node.get_type_name(), ()):
            constant = _stored(node.input_value(index).get_node())
            if constant is not None and elements(constant) > SCALAR_ELEMENTS and stored_type(constant) not in _INDICES:
                names = (constant.get_friendly_name().removesuffix(_HALF_SUFFIX), node.get_friendly_name())
                found.append(Weight(*names, node.get_type_name(), stored_type(constant), elements(constant)))
    return found


_INDICES = frozenset({"i64", "i32", "boolean"})


def is_ignored(weight: Weight, scope: IgnoredScope) -> bool:
    """Whether a scope excludes a weight: by its own name or by its operation's name or type."""
    return _matches(scope, (weight.name, weight.operation), weight.operation_type)


def check_scope(model: ov.Model, part: WeightCompression | Quantization, where: str) -> None:
    """Check that each rule of a scope that must match excludes a weight, or an operation where those are quantized.

    Raises:
        UserError: a rule matches nothing, so that the recipe does not fit the graph.
    """
    if isinstance(part, WeightCompression):
        what = "weight"
        found = [((weight.name, weight.operation), weight.operation_type) for weight in weights(model)]
    else:
        what = "operation"
        found = [((node.get_friendly_name(), ""), node.get_type_name()) for node in model.get_ops()]
    scope = part.ignored_scope
    if not scope.must_match:
        return
    rules = [("name", IgnoredScope(names=(rule,)), rule) for rule in scope.names]
    rules += [("pattern", IgnoredScope(patterns=(rule,)), rule) for rule in scope.patterns]
    rules += [("type", IgnoredScope(types=(rule,)), rule) for rule in scope.types]
    for kind, single, rule in rules:
        if not any(_matches(single, names, operation) for names, operation in found):
            raise UserError(
                f"{where}: ignored_scope {kind} {rule!r} matches no {what} of this graph; "
                "correct the rule or leave it out"
            )


def group_warnings(model: ov.Model, part: GraphRecipe, graph: str) -> list[str]:
    """Says what was made where NNCF could divide no row by the groups that a compression asks for, and where groups
    of activations keep OpenVINO from computing in INT8.
    """
    found = []
    for step in part.compression:
        if step.mode in INTEGER_8:
            continue  # per channel: three dimensions are those of a one-dimensional convolution
        asked, types = step.group_size, step.kind.stored
        sizes = Counter(
            int(node.get_output_shape(0)[-1]) if len(node.get_output_shape(0)) == _GROUPED else -1
            for node in constants(model)
            if stored_type(node) == types and elements(node) > SCALAR_ELEMENTS
        )
        found += _unfit_activations(sizes, part, graph)
        if asked in (None, -1) or not sizes or asked in sizes:
            continue
        made = [
            f"{count} weights {'as whole channels' if size == -1 else f'in groups of {size}'}"
            for size, count in sorted(sizes.items())
        ]
        found.append(f"{graph}: no row of its weights divides into groups of {asked}; made instead: {', '.join(made)}")
    return found


def _unfit_activations(sizes: Mapping[int, int], part: GraphRecipe, graph: str) -> list[str]:
    """OpenVINO computes in floating point where a scale of activations is shared across two groups of weights."""
    activations = part.runtime_options.get(ACTIVATION_GROUP, 0)
    unfit = {size: count for size, count in sizes.items() if size > 0 and activations and size % activations}
    return [
        f"{graph}: OpenVINO computes {count} products in floating point, because activations share scales in groups of "
        f"{activations}, which do not divide the weights' groups of {size}; set {ACTIVATION_GROUP} to {size} or a part"
        for size, count in sorted(unfit.items())
    ]


_GROUPED = 3
"""Dimensions of a weight that is stored in groups: rows, groups, weights of a group."""


def check_effect(model: ov.Model, part: GraphRecipe, where: str) -> None:
    """Check that a graph holds what its recipe asks for.

    Half precision leaves no larger f32 constant (with quantization: no f32 weight). Every compression stores some
    weights in its type; every matrix product outside all ignored scopes is stored in a type that the recipe allows
    for it, and nothing inside them is compressed. A ratio is a real mixture. Products have low-rank adapters where
    the recipe asks for them and nowhere else. Quantization also has quantized activations.

    Raises:
        ParityError: the recipe did nothing, or not everything, or too much.
    """
    found, adapters = _without_adapters(weights(model))
    if part.precision == "f16":
        _check_half(model, found + adapters, part, where)
    for step in part.compression:
        _check_step(found, step, where)
    if part.quantization is not None and not any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        raise ParityError(f"{where}: quantization left the graph without any quantized activation")
    if part.changes_weights:
        _check_each(found, part, where)
        _check_adapters(found, adapters, part, where)


def check_runtime_options(model: ov.Model, part: GraphRecipe, where: str) -> None:
    """Check that a graph carries its run-time options.

    Raises:
        ParityError: one is missing or has another value.
    """
    for key, value in part.runtime_options.items():
        path = ["runtime_options", key]
        if not model.has_rt_info(path) or model.get_rt_info(path).astype(str) != str(value):
            raise ParityError(f"{where}: the graph does not carry runtime option {key} {value}")


def _check_half(model: ov.Model, found: list[Weight], part: GraphRecipe, where: str) -> None:
    """Quantization adds scales and ranges of activations in f32: there only weights count."""
    if part.quantization is not None:
        wide = [(weight.name, weight.elements) for weight in found if weight.type in _WIDE]
    else:
        plain = [node for node in constants(model) if stored_type(node) in _WIDE]
        wide = [(node.get_friendly_name(), elements(node)) for node in plain if elements(node) > SCALAR_ELEMENTS]
    if wide:
        raise ParityError(
            f"{where}: {len(wide)} constants are still f32, the first {wide[0][0]} of {wide[0][1]} elements; "
            "convert the graph to half precision first"
        )


def _check_step(found: list[Weight], step: WeightCompression, where: str) -> None:
    products = [weight for weight in found if weight.operation_type == "MatMul"]
    eligible = [weight for weight in found if not is_ignored(weight, step.ignored_scope)]
    if not any(weight.type == step.kind.stored for weight in eligible):
        raise ParityError(f"{where}: mode {step.mode} left the graph without any {step.kind.stored} weight")
    if step.ratio not in (None, 1.0):
        total = _elements(products)
        share = _elements(weight for weight in products if weight.type == step.kind.stored) / total
        if share > step.ratio:
            raise ParityError(
                f"{where}: mode {step.mode} took {share:.3f} of the products' weights where ratio is {step.ratio:g}"
            )


def _check_each(found: list[Weight], part: GraphRecipe, where: str) -> None:
    missed, excess, other = [], [], []
    for weight in found:
        allowed = _allowed(weight, part)
        if not weight.compressed:
            if weight.operation_type == "MatMul" and not allowed & _PLAIN:
                missed.append(weight)
        elif allowed <= _PLAIN:
            excess.append(weight)
        elif weight.type not in allowed:
            other.append(weight)
    _refuse(missed, "are not compressed", where)
    _refuse(excess, "are compressed though the recipe ignores them", where)
    _refuse(other, "are stored in a type that the recipe does not name", where)


def _refuse(group: list[Weight], what: str, where: str) -> None:
    if group:
        raise ParityError(
            f"{where}: {len(group)} weights {what}, the first {group[0].name} "
            f"({group[0].type}, {group[0].elements} elements)"
        )


def _without_adapters(found: list[Weight]) -> tuple[list[Weight], list[Weight]]:
    """A graph's own weights, and the low-rank adapters that correct some of them."""
    operations = {weight.operation for weight in found}
    adapters = [weight for weight in found if weight.corrects in operations]
    return [weight for weight in found if weight.corrects not in operations], adapters


def _check_adapters(found: list[Weight], adapters: list[Weight], part: GraphRecipe, where: str) -> None:
    """A pair for each product that a step with ``lora_correction`` stored, none for others."""
    halves = Counter(weight.corrects for weight in adapters)
    uncorrected = {step.kind.stored for step in part.compression if not step.lora_correction}
    products = [weight for weight in found if weight.operation_type == "MatMul" and _is_corrected(weight, part)]
    missed = [weight for weight in products if weight.type not in uncorrected and halves[weight.operation] != 2]
    _refuse(missed, "have no pair of adapters though the recipe asks for lora_correction", where)
    allowed = {weight.operation for weight in products}
    excess = [weight for weight in adapters if weight.corrects not in allowed]
    _refuse(excess, "are adapters that the recipe does not ask for", where)
    wrong = [weight for weight in adapters if weight.type != _ADAPTER_TYPE]
    _refuse(wrong, f"are adapters in another type than {_ADAPTER_TYPE}", where)


def _is_corrected(weight: Weight, part: GraphRecipe) -> bool:
    """Whether a step with ``lora_correction`` may have stored a weight."""
    return any(
        step.lora_correction and weight.type == step.kind.stored and not is_ignored(weight, step.ignored_scope)
        for step in part.compression
    )


def _allowed(weight: Weight, part: GraphRecipe) -> set[str]:
    """Element types that a recipe lets a weight be stored in."""
    if part.quantization is not None:
        return set(_PLAIN) if is_ignored(weight, part.quantization.ignored_scope) else {"i8", "u8"}
    allowed: set[str] = set()
    for step in part.compression:
        if is_ignored(weight, step.ignored_scope):
            continue
        allowed.add(step.kind.stored)
        if _takes_all(weight, step):
            return allowed
        if step.backup is not None:
            allowed.add(step.backup.stored)
            if step.group_size_fallback_mode != "ignore":
                return allowed
    return allowed | _PLAIN


def _takes_all(weight: Weight, step: WeightCompression) -> bool:
    """Whether a step leaves no weight of this kind to its backup or to later steps."""
    if step.mode in INTEGER_8:
        return True
    every_layer = step.all_layers is True and step.ratio in (None, 1.0)
    return weight.operation_type == "MatMul" and every_layer and step.group_size_fallback_mode in (None, "error")


def _matches(scope: IgnoredScope, names: tuple[str, str], operation_type: str) -> bool:
    return (
        any(name in scope.names for name in names)
        or any(re.match(pattern, name) for pattern in scope.patterns for name in names)
        or operation_type in scope.types
    )


def _elements(found: Iterable[Weight]) -> int:
    return sum(weight.elements for weight in found)


def _stored(node: Any) -> Any | None:
    """The constant behind a chain of decompression, or None where the value is computed from inputs."""
    while node.get_type_name() in _STORAGE:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
