"""All calls of NNCF: a recipe's arguments in NNCF's types, and NNCF's output kept off the screen."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from export.errors import NemotronOVError, UserError
from export.weight_types import constants, stored_type

if TYPE_CHECKING:
    import openvino as ov

    from quantize.samples import CalibrationData, Inputs
    from quantize.steps import IgnoredScope, Quantization, WeightCompression


AWQ_SCALE = "/awq_mul/scale"
"""How NNCF ends the name of a constant that AWQ multiplies activations by."""

REASON_LENGTH = 300
"""Characters of NNCF's messages that are shown; some list every layer."""


class _NoTorch(MetaPathFinder, Loader):
    """Answers for torch as if it were not installed: it can be asked for, and importing it fails."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        return ModuleSpec(name, self) if name.split(".", maxsplit=1)[0] == "torch" else None

    def create_module(self, spec: ModuleSpec) -> None:
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Keep NNCF from loading torch just because it is installed: seconds and memory for nothing on OpenVINO graphs."""
    if "torch" in sys.modules:
        yield
        return
    finder = _NoTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def _compiled_once() -> Iterator[None]:
    """Have NNCF compile the model that quantizes a weight once for each kind of weight, and not for every weight.

    NNCF keeps such models, and switches that off while it changes a graph: a model's next run overwrites what its last
    one returned, which constants may share. Here each run has a request, and with it memory, of its own.
    """
    from nncf.openvino.optimized_functions import models
    from nncf.quantization.algorithms.weight_compression import openvino_backend

    infer = getattr(models, "_infer_ov_model", None)
    if infer is None or not hasattr(openvino_backend, "disable_results_caching"):
        yield  # another NNCF: the same weights, slower
        return

    def infer_apart(parameters: Any, compiled: Any, inputs: Any) -> Any:
        compiled._infer_request = None
        return infer(parameters, compiled, inputs)

    with (
        patch.object(models, "_infer_ov_model", infer_apart),
        patch.object(openvino_backend, "disable_results_caching", contextlib.nullcontext),
    ):
        yield


@contextlib.contextmanager
def _hessians_at_once() -> Iterator[None]:
    """Have GPTQ multiply a product's inputs with themselves in one matrix product, and not sample by sample.

    A step has 14 rows, so that NNCF spends a third of GPTQ's time on adding matrices of up to 4,096 x 4,096 numbers.
    NNCF takes a sample of many batches too, and the sum is the same but for its rounding.
    """
    from nncf.quantization.algorithms.weight_compression.gptq import GPTQ
    from nncf.tensor import Tensor

    of_each = getattr(GPTQ, "_calculate_hessian", None)
    if of_each is None:
        yield  # another NNCF: the same weights, slower
        return

    def of_all(gptq: Any, node: Any, inputs: Any, is_3d_weight: bool = False) -> Any:
        import numpy as np

        shapes = {each.shape[1:] for each in inputs}
        if not is_3d_weight and len(shapes) == 1 and len(inputs[0].shape) == 3:  # [batch, rows, columns], any batch
            inputs = [Tensor(np.concatenate([each.data for each in inputs]))]
        return of_each(gptq, node, inputs, is_3d_weight)

    with patch.object(GPTQ, "_calculate_hessian", of_all):
        yield


@dataclass(frozen=True)
class Samples:
    """A graph's calibration samples as NNCF wants them: countable, and as often as it asks from the first on."""

    data: CalibrationData
    graph: str

    def __iter__(self) -> Iterator[Inputs]:
        return self.data.samples(self.graph)

    def __len__(self) -> int:
        return self.data.size(self.graph)


def compress(model: ov.Model, compression: WeightCompression, where: str, samples: Samples | None = None) -> ov.Model:
    """``nncf.compress_weights`` with a recipe's arguments, its notices and progress bars kept off the screen.

    Args:
        model: changed in place.
        compression: the arguments.
        where: recipe, file and step, for messages.
        samples: calibration data, where the compression needs them.

    Raises:
        UserError: NNCF fails on the combination of graph, data and arguments.
    """
    _name_apart(model)
    size = "default group_size" if compression.group_size is None else f"group_size {compression.group_size}"
    where = f"{where}: mode {compression.mode}, {size}"
    with _nncf(where) as nncf:
        arguments = compression_arguments(compression)
        if compression.needs_calibration:
            arguments["dataset"] = nncf.Dataset(samples)
        with _compiled_once(), _hessians_at_once():
            model = nncf.compress_weights(model, **arguments)
    if compression.awq:
        _halve_awq_scales(model, where)
    return model


def quantize(model: ov.Model, quantization: Quantization, where: str, samples: Samples) -> ov.Model:
    """``nncf.quantize`` with a recipe's arguments; otherwise as :func:`compress`."""
    _name_apart(model)
    with _nncf(f"{where}: quantization") as nncf:
        return nncf.quantize(model, nncf.Dataset(samples), **quantization_arguments(quantization))


def _name_apart(model: ov.Model) -> None:
    """Give nodes of one name different ones, which NNCF insists on.

    OpenVINO numbers nameless nodes by a counter of the process, so that new ones can meet those read from a file.
    """
    seen: set[str] = set()
    for node in model.get_ops():
        name = node.get_friendly_name()
        if name in seen:
            node.set_friendly_name(f"{name}/{len(seen)}")
        seen.add(node.get_friendly_name())


def _halve_awq_scales(model: ov.Model, where: str) -> None:
    """Store in f16 what AWQ multiplies activations by.

    NNCF adds these factors in the activations' f32, when everything else of the graph is in f16 already.
    """
    import numpy as np
    from openvino import opset13 as ops

    for node in list(constants(model)):
        name = node.get_friendly_name()
        if not name.endswith(AWQ_SCALE) or stored_type(node) != "f32":
            continue
        with np.errstate(over="ignore"):
            half = node.get_data().astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(f"{where}: AWQ's {name} does not fit in f16; calibrate with more audio, or leave awq out")
        wide = ops.convert(ops.constant(half, name=f"{name}_compressed"), "f32", name=name)
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(wide.output(0))


@contextlib.contextmanager
def _nncf(where: str) -> Iterator[Any]:
    """NNCF without torch, silent, whatever it raises as one line: much of what it cannot do it does not check."""
    with _without_torch(), contextlib.redirect_stdout(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        try:
            yield nncf
        except NemotronOVError:  # of the calibration data
            raise
        except Exception as error:
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", REASON_LENGTH, placeholder=" …")
            remedy = "correct the recipe, or name in ignored_scope what NNCF cannot take"
            raise UserError(f"{where}: NNCF refuses it ({reason}); {remedy}") from error


def compression_arguments(compression: WeightCompression) -> dict[str, Any]:
    """Keyword arguments of ``nncf.compress_weights``, model and dataset left out."""
    import nncf

    arguments = compression.model_dump(exclude_none=True, exclude={"ignored_scope"})
    arguments["mode"] = nncf.CompressWeightsMode(compression.mode)
    if compression.backup_mode is not None:
        arguments["backup_mode"] = nncf.BackupMode(compression.backup_mode)
    if compression.sensitivity_metric is not None:
        arguments["sensitivity_metric"] = nncf.SensitivityMetric(compression.sensitivity_metric)
    if (fallback := arguments.pop("group_size_fallback_mode", None)) is not None:
        arguments["advanced_parameters"] = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode(fallback)
        )
    return arguments | _scope(compression.ignored_scope)


def quantization_arguments(quantization: Quantization) -> dict[str, Any]:
    """Keyword arguments of ``nncf.quantize``, model and dataset left out."""
    import nncf

    arguments = quantization.model_dump(exclude_none=True, exclude={"ignored_scope"})
    if quantization.preset is not None:
        arguments["preset"] = nncf.QuantizationPreset(quantization.preset)
    if quantization.model_type is not None:
        arguments["model_type"] = nncf.ModelType(quantization.model_type)
    advanced: dict[str, Any] = {}
    if (alphas := arguments.pop("smooth_quant_alphas", None)) is not None:
        advanced["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(**alphas)
    if (fix := arguments.pop("overflow_fix", None)) is not None:
        advanced["overflow_fix"] = nncf.OverflowFix(fix)
    if advanced:
        arguments["advanced_parameters"] = nncf.AdvancedQuantizationParameters(**advanced)
    return arguments | _scope(quantization.ignored_scope)


def _scope(scope: IgnoredScope) -> dict[str, Any]:
    import nncf

    if scope.empty:
        return {}
    lists = {"names": list(scope.names), "patterns": list(scope.patterns), "types": list(scope.types)}
    return {"ignored_scope": nncf.IgnoredScope(**lists, validate=scope.must_match)}
