"""FP32 bundle in, bundle of a recipe out, one graph in memory at a time."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import BUNDLE, VOCABULARY, Bundle, Metadata, graph_file, write_metadata
from export.contract import longer_step_problems
from export.errors import ParityError, UserError
from export.folders import new_directory, refuse_existing
from export.graphs.saving import save_graph
from export.progress import note, task
from export.weight_types import Counts, count_constants
from quantize.compression import Samples, compress, quantize
from quantize.effect import check_effect, check_runtime_options, check_scope, group_warnings
from quantize.groups import with_layers
from quantize.recipe import GraphRecipe
from quantize.source import require_fp32

if TYPE_CHECKING:
    import openvino as ov

    from quantize.recipe import Recipe
    from quantize.samples import CalibrationData


READING_REMEDY = "export the folder again"
WRITING_REMEDY = "make room there, or choose another folder"


def quantize_bundle(
    source: Bundle,
    directory: Path,
    recipe: Recipe,
    *,
    calibration: CalibrationData | None = None,
    runtime_options: bool = True,
    force: bool = False,
) -> Bundle:
    """Apply a recipe to an FP32 folder.

    Args:
        source: the FP32 folder; never changed.
        directory: the new folder; appears only when complete.
        recipe: what to do with each graph.
        calibration: real inputs of the graphs; read only where the recipe needs them.
        runtime_options: write the recipe's run-time options into the graphs.
        force: replace an existing folder.

    Raises:
        UserError: the source is not FP32 or damaged, the recipe does not fit its graphs, calibration data are missing
            or of another folder, ``directory`` is taken or holds the source, or there is no room.
        ParityError: a graph does not hold afterwards what the recipe asks for, or its ports changed.
    """
    _check_source(source, directory)
    _check_calibration(source, recipe, calibration)
    refuse_existing(directory, kind=BUNDLE, force=force)
    recipe = recipe if runtime_options else recipe.without_runtime_options()
    constants: dict[str, Counts] = {}
    warnings: list[str] = []
    with (
        _failures(directory, "written", WRITING_REMEDY),
        new_directory(directory, kind=BUNDLE, force=force) as temporary,
        _undamaged(source),
    ):
        for graph, part in recipe.graphs.items():
            with task(f"recipe {recipe.name}: {graph}"):
                where = f"recipe {recipe.name}: {source.graph_path(graph)}"
                samples = Samples(calibration, graph) if calibration else None
                target = temporary / graph_file(graph)
                constants[graph], found = _quantize_graph(source.graph_path(graph), target, part, where, samples)
                warnings += found
        shutil.copyfile(source.path / VOCABULARY, temporary / VOCABULARY)
        metadata = _metadata(source, recipe, constants, warnings, calibration)
        write_metadata(temporary, metadata.model_copy(update={"longer_steps": _longer_steps(temporary, metadata)}))
    for warning in warnings:
        note(f"warning: recipe {recipe.name}: {warning}")
    return Bundle.open(directory)


@contextmanager
def _undamaged(source: Bundle) -> Iterator[None]:
    """Compare a folder's hashes while the body runs: damaged weights quantize without an error.

    Raises:
        UserError: it is damaged, whatever else that led to.
    """
    with ThreadPoolExecutor(1) as threads:
        checked = threads.submit(source.check_hashes)
        try:
            yield
        except Exception:
            checked.result()
            raise
        checked.result()


def _longer_steps(folder: Path, metadata: Metadata) -> bool:
    """Whether the encoder still takes steps of several chunks; NNCF's scales of activations may fit one chunk only."""
    import openvino as ov

    if not metadata.longer_steps:
        return False
    return not longer_step_problems(_read(ov.Core(), folder / graph_file("encoder")), metadata)


def _check_source(source: Bundle, directory: Path) -> None:
    require_fp32(source)
    if directory.exists() and directory.samefile(source.path):
        raise UserError(f"{directory}: is the source folder itself; choose another folder")
    if directory.exists() and any(directory.samefile(parent) for parent in source.path.resolve().parents):
        raise UserError(f"{directory}: holds the source folder {source.path}; choose another folder")


def _check_calibration(source: Bundle, recipe: Recipe, calibration: CalibrationData | None) -> None:
    needing = [graph for graph, part in recipe.graphs.items() if part.needs_calibration]
    if not needing:
        return
    if calibration is None:
        raise UserError(
            f"recipe {recipe.name}: needs calibration data; add --calibration DIR, made by "
            f"`nemotron-ov calibrate {source.path} DIR`"
        )
    calibration.check_fits(source)
    for graph in needing:
        if calibration.size(graph) == 0:
            raise UserError(f"{calibration.path}: holds no samples of the {graph}, which recipe {recipe.name} needs")


def _metadata(
    source: Bundle,
    recipe: Recipe,
    constants: dict[str, Counts],
    warnings: list[str],
    calibration: CalibrationData | None,
) -> Metadata:
    """The source's facts with this recipe's; the graphs' parity against PyTorch stays with the FP32 folder."""
    old = source.metadata
    used: dict[str, Any] = {}
    if calibration and recipe.needs_calibration:
        used = {"calibration_sha256": calibration.sha256, "calibration_audio_sha256": calibration.audio_sha256}
    return old.model_copy(
        update={
            "precision": recipe.precision,
            "recipe": recipe.as_metadata() | used,
            "constants": constants,
            "warnings": [*old.warnings, *warnings],
            "tools": old.tools | {name: version(name) for name in ("openvino", "nncf", "nemotron-ov")},
            "parity": {},
            "source": {name: facts["sha256"] for name, facts in old.files.items() if name.endswith((".xml", ".bin"))},
        }
    )


def _quantize_graph(
    source: Path, target: Path, part: GraphRecipe, where: str, samples: Samples | None
) -> tuple[Counts, list[str]]:
    """Write one graph, read it back and check it; the memory of all of it is free again at the end.

    Returns:
        Its constants by type, and what a reader must know.
    """
    import openvino as ov

    core = ov.Core()
    part = with_layers(part, _operation_names(core, source), where)
    if part == GraphRecipe(precision="f32"):
        for suffix in (".xml", ".bin"):
            shutil.copyfile(source.with_suffix(suffix), target.with_suffix(suffix))
    else:
        _save(core, source, target, part, where, samples)
    gc.collect()
    result = _read(core, target)
    check_ports(_read_source(core, source), result, where)
    check_effect(result, part, where)
    check_runtime_options(result, part, where)
    return count_constants(result), group_warnings(result, part, source.stem)


def _save(core: ov.Core, source: Path, target: Path, part: GraphRecipe, where: str, samples: Samples | None) -> None:
    """Write a graph by its recipe, weights changed in a half-precision copy.

    ``save_model`` converts nothing any more once a graph holds compressed weights, so that everything the recipe
    ignores would stay f32.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        model = _read_source(core, source)
        if part.changes_weights:
            half = Path(folder) / source.name
            save_graph(model, half, half=True)
            del model
            gc.collect()
            model = _with_changed_weights(_read(core, half), part, where, samples)
        for key, value in part.runtime_options.items():
            model.set_rt_info(str(value), ["runtime_options", key])
        save_graph(model, target, half=part.precision == "f16")
        del model


def _with_changed_weights(model: ov.Model, part: GraphRecipe, where: str, samples: Samples | None) -> ov.Model:
    for number, step in enumerate(part.compression, start=1):
        check_scope(model, step, where)
        model = compress(model, step, f"{where}: step {number} of {len(part.compression)}", samples)
    if part.quantization is not None and samples is not None:
        check_scope(model, part.quantization, where)
        model = quantize(model, part.quantization, where, samples)
    return model


def _operation_names(core: ov.Core, source: Path) -> Iterator[str]:
    """Names of a graph's operations; the graph is read when the first name is asked for."""
    for operation in _read_source(core, source).get_ops():
        yield operation.get_friendly_name()


def _read_source(core: ov.Core, file: Path) -> ov.Model:
    with _failures(file, "read", READING_REMEDY):
        return _read(core, file)


def _read(core: ov.Core, file: Path) -> ov.Model:
    """Read a graph.

    Raises:
        OSError: its files are not whole.
    """
    try:
        return core.read_model(file)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


@contextmanager
def _failures(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Failures of files as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be {what} ({error.strerror or error}); {remedy}") from error


def check_ports(before: ov.Model, after: ov.Model, where: str) -> None:
    """Check that names, shapes and types of inputs and outputs are what they were.

    Raises:
        ParityError: the first port that differs.
    """
    for old, new in zip(_ports(before), _ports(after), strict=True):
        if old != new:
            raise ParityError(f"{where}: port {old} became {new}; clients could not bind it")


def _ports(model: ov.Model) -> list[tuple[list[str], str, str]]:
    ports = [*model.inputs, *model.outputs]
    return [
        (sorted(port.get_names()), str(port.get_partial_shape()), port.get_element_type().get_type_name())
        for port in ports
    ]
