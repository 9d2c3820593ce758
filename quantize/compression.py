"""The door to NNCF: a recipe's arguments in its own types, and its output kept off the screen."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from export.errors import NemotronOVError

if TYPE_CHECKING:
    import openvino as ov

    from quantize.recipe import WeightCompression


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


def compress(model: ov.Model, compression: WeightCompression, where: str) -> ov.Model:
    """``nncf.compress_weights`` with a recipe's arguments, its notices and progress bars kept off the screen.

    Args:
        model: changed in place.
        compression: the arguments.
        where: recipe and file, for messages.

    Raises:
        NemotronOVError: NNCF rejects the combination of graph and arguments.
    """
    with _without_torch(), contextlib.redirect_stdout(io.StringIO()):
        import nncf
        from nncf.errors import InvalidGroupSizeError

        nncf.set_log_level(logging.ERROR)
        try:
            return nncf.compress_weights(model, **nncf_arguments(compression))
        except (
            nncf.ValidationError,
            nncf.ParameterNotSupportedError,
            nncf.UnsupportedModelError,
            InvalidGroupSizeError,
        ) as error:
            reason = " ".join(str(error).split())
            raise NemotronOVError(f"{where}: NNCF refuses it ({reason}); correct the recipe") from error


def nncf_arguments(compression: WeightCompression) -> dict[str, Any]:
    """Keyword arguments of ``nncf.compress_weights``, the model left out."""
    import nncf

    arguments = compression.model_dump(exclude_none=True, exclude={"mode", "backup_mode", "ignored_scope"})
    arguments["mode"] = nncf.CompressWeightsMode(compression.mode)
    if compression.backup_mode is not None:
        arguments["backup_mode"] = nncf.BackupMode(compression.backup_mode)
    scope = compression.ignored_scope
    if not scope.empty:
        lists = {"names": list(scope.names), "patterns": list(scope.patterns), "types": list(scope.types)}
        arguments["ignored_scope"] = nncf.IgnoredScope(**lists)
    return arguments
