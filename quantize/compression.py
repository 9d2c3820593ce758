"""The door to NNCF: a recipe's arguments in its own types, and its output kept off the screen."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from export.errors import NemotronOVError

if TYPE_CHECKING:
    import openvino as ov

    from quantize.calibration import CalibrationData, Inputs
    from quantize.recipe import IgnoredScope, Quantization, WeightCompression


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
        where: recipe and file, for messages.
        samples: calibration data, where the compression needs them.

    Raises:
        NemotronOVError: NNCF rejects the combination of graph and arguments.
    """
    _name_apart(model)
    with _nncf(where) as nncf:
        arguments = compression_arguments(compression)
        if compression.needs_calibration:
            arguments["dataset"] = nncf.Dataset(samples)
        return nncf.compress_weights(model, **arguments)


def quantize(model: ov.Model, quantization: Quantization, where: str, samples: Samples) -> ov.Model:
    """``nncf.quantize`` with a recipe's arguments; otherwise as :func:`compress`."""
    _name_apart(model)
    with _nncf(where) as nncf:
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


@contextlib.contextmanager
def _nncf(where: str) -> Iterator[Any]:
    """NNCF without torch, silent, its refusals as one line."""
    with _without_torch(), contextlib.redirect_stdout(io.StringIO()):
        import nncf
        from nncf.errors import InvalidGroupSizeError

        nncf.set_log_level(logging.ERROR)
        try:
            yield nncf
        except (
            nncf.ValidationError,
            nncf.ParameterNotSupportedError,
            nncf.UnsupportedModelError,
            nncf.InternalError,
            InvalidGroupSizeError,
        ) as error:
            reason = " ".join(str(error).split())
            raise NemotronOVError(f"{where}: NNCF refuses it ({reason}); correct the recipe") from error


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
