"""FP32 bundle in, bundle of a recipe out, one graph in memory at a time."""

from __future__ import annotations

import gc
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from export.bundle import (
    GRAPHS,
    VOCABULARY,
    Bundle,
    Metadata,
    graph_file,
    new_directory,
    refuse_existing,
    write_metadata,
)
from export.constants import Counts, count_constants
from export.errors import ParityError, UserError
from export.progress import task
from quantize.compression import compress
from quantize.effect import check_effect, check_scope

if TYPE_CHECKING:
    import openvino as ov

    from quantize.recipe import GraphRecipe, Recipe, WeightCompression


def quantize_bundle(source: Bundle, directory: Path, recipe: Recipe, *, force: bool = False) -> Bundle:
    """Apply a recipe to an FP32 folder.

    Args:
        source: the FP32 folder; never changed.
        directory: the new folder; appears only when complete.
        recipe: what to do with each graph.
        force: replace an existing folder.

    Raises:
        UserError: the source is not FP32, the recipe does not fit its graphs, or ``directory`` is taken.
        ParityError: a graph does not hold afterwards what the recipe asks for, or its ports changed.
    """
    _check_source(source, directory)
    refuse_existing(directory, force=force)
    constants: dict[str, Counts] = {}
    with new_directory(directory, force=force) as temporary:
        for graph in GRAPHS:
            with task(f"recipe {recipe.name}: {graph}"):
                where = f"recipe {recipe.name}: {source.graph_path(graph)}"
                target = temporary / graph_file(graph)
                constants[graph] = _quantize_graph(source.graph_path(graph), target, recipe.graph(graph), where)
        shutil.copyfile(source.path / VOCABULARY, temporary / VOCABULARY)
        write_metadata(temporary, _metadata(source, recipe, constants))
    return Bundle.open(directory)


def _check_source(source: Bundle, directory: Path) -> None:
    name = source.metadata.recipe.get("name", source.metadata.precision.lower())
    if name != "fp32":
        raise UserError(f"{source.path}: was made by recipe {name}; give the fp32 folder, every recipe starts from it")
    if directory.exists() and directory.samefile(source.path):
        raise UserError(f"{directory}: is the source folder itself; choose another folder")


def _metadata(source: Bundle, recipe: Recipe, constants: dict[str, Counts]) -> Metadata:
    """The source's facts with this recipe's; the graphs' parity against PyTorch stays with the FP32 folder."""
    old = source.metadata
    return old.model_copy(
        update={
            "precision": recipe.precision,
            "recipe": recipe.as_metadata(),
            "constants": constants,
            "tools": old.tools | {name: version(name) for name in ("openvino", "nncf", "nemotron-ov")},
            "parity": {},
            "source": {name: facts["sha256"] for name, facts in old.files.items() if name.endswith((".xml", ".bin"))},
        }
    )


def _quantize_graph(source: Path, target: Path, part: GraphRecipe, where: str) -> Counts:
    """Write one graph, read it back and check it; the memory of all of it is free again at the end."""
    import openvino as ov

    core = ov.Core()
    if part.precision == "f32":
        for suffix in (".xml", ".bin"):
            shutil.copyfile(source.with_suffix(suffix), target.with_suffix(suffix))
    elif part.compression is None:
        _save_half(core, source, target)
    else:
        _save_compressed(core, source, target, part.compression, where)
    gc.collect()
    result = core.read_model(target)
    check_ports(core.read_model(source), result, where)
    check_effect(result, part, where)
    return count_constants(result)


def _save_half(core: ov.Core, source: Path, target: Path) -> None:
    import openvino as ov

    ov.save_model(core.read_model(source), target, compress_to_fp16=True)


def _save_compressed(core: ov.Core, source: Path, target: Path, compression: WeightCompression, where: str) -> None:
    """Compress weights in a half-precision copy of the graph.

    ``save_model`` converts nothing any more once a graph holds compressed weights, so that everything the recipe
    ignores would stay f32.
    """
    import openvino as ov

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        half = Path(folder) / source.name
        _save_half(core, source, half)
        gc.collect()
        model = core.read_model(half)
        check_scope(model, compression.ignored_scope, where)
        ov.save_model(compress(model, compression, where), target, compress_to_fp16=True)
        del model


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
