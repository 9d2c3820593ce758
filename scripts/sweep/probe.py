"""Each group of weights compressed alone, everything else in f16, and what that does to FP32's logits."""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import GRAPHS, Bundle, graph_file
from export.errors import NemotronOVError
from export.progress import task as shown
from export.results import write_result
from quantize.compression import Samples, compress
from quantize.effect import check_effect, weights
from quantize.groups import Group, step_for
from quantize.recipe import GraphRecipe
from quantize.samples import CalibrationData
from verify.runtimes.graph import Graph, properties
from verify.scoring.divergence import Transducer, diverge, encode, joint_shapes, read_reference_paths

if TYPE_CHECKING:
    import openvino as ov

    from scripts.sweep.task import Task

BASE = "f16"
"""The build in which nothing is compressed."""


def probe(task: Task) -> list[str]:
    """Write a result file for each group of ``task.wanted`` (:data:`BASE` for none); names of those done.

    A group that cannot be compressed gets a file that says why.
    """
    bundle = Bundle.open(task.source)
    groups = {group.name: group for group in task.groups}
    with _half_graphs(bundle) as half, shown("probing layers", len(task.wanted)) as progress:
        builds = _Builds(task, bundle, half)
        for name, file in task.wanted.items():
            try:
                result = builds.measure(groups.get(name))
                if not math.isfinite(result["kl"]):
                    result = {"failed": f"its logits differ from fp32's by no finite number ({result['kl']})"}
            except NemotronOVError as error:
                result = {"failed": " ".join(str(error).split())}
            except Exception as error:  # OpenVINO's, NNCF's: what one group meets says nothing about the others
                lines = str(error).strip().splitlines() or [""]
                result = {"failed": f"{type(error).__name__}: {lines[-1][:200]}"}
            write_result(Path(file), result)
            gc.collect()
            progress.advance()
    return list(task.wanted)


@contextmanager
def _half_graphs(bundle: Bundle) -> Iterator[Path]:
    """The folder's graphs in f16, from which every probe starts."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        for graph in GRAPHS[1:]:
            model = ov.Core().read_model(bundle.graph_path(graph))
            ov.save_model(model, Path(folder) / graph_file(graph), compress_to_fp16=True)
            del model
            gc.collect()
        yield Path(folder)


def compressed_share(model: ov.Model, group: Group) -> float:
    """The share of a group's weights that are compressed: what its groups or its backup do not fit may be left."""
    own = {weight.name: weight for weight in weights(model) if weight.operation in group.operations}.values()
    return sum(weight.elements for weight in own if weight.compressed) / sum(weight.elements for weight in own)


class _Builds:
    """The f16 build, and one with a group compressed at a time; what does not change is computed once."""

    def __init__(self, task: Task, bundle: Bundle, half: Path) -> None:
        import openvino as ov

        self._task, self._bundle, self._half, self._core = task, bundle, half, ov.Core()
        self._calibration = CalibrationData.open(task.calibration) if task.calibration else None
        self._paths = list(read_reference_paths(task.reference_paths or task.folder))
        encoder = self._compile("encoder", self._read("encoder"))
        self._encoded = [encode(encoder, path) for path in self._paths]
        del encoder
        gc.collect()
        self._decoder, self._joint = (self._compile(graph, self._read(graph)) for graph in ("decoder", "joint"))
        self._transducer = Transducer(self._decoder, self._joint, bundle.metadata.blank_idx)
        self._decoder_outs = [self._transducer.decoder_outs(path.tokens.tolist()) for path in self._paths]

    def measure(self, group: Group | None) -> dict[str, Any]:
        """The divergence with one group compressed, or none; ``compressed`` is the share of its weights that were."""
        encoded, transducer, decoder_outs = self._encoded, self._transducer, self._decoder_outs
        blank = self._bundle.metadata.blank_idx
        share = 0.0
        if group is not None:
            model = self._compressed(group)
            share = compressed_share(model, group)
            changed = self._compile(group.graph, model)
            if group.graph == "encoder":
                encoded = [encode(changed, path) for path in self._paths]
            elif group.graph == "joint":
                transducer = Transducer(self._decoder, changed, blank)
            else:
                transducer = Transducer(changed, self._joint, blank)
                decoder_outs = [transducer.decoder_outs(path.tokens.tolist()) for path in self._paths]
        return vars(diverge(self._paths, encoded, transducer, decoder_outs)) | {"compressed": share}

    def _compressed(self, group: Group) -> ov.Model:
        assert self._task.step is not None  # noqa: S101  # a task of this kind has one
        step = step_for(group, self._task.groups, self._task.step)
        where = f"{group.name} alone: {self._bundle.graph_path(group.graph)}"
        samples = Samples(self._calibration, group.graph) if self._calibration else None
        model = compress(self._read(group.graph), step, where, samples)
        check_effect(model, GraphRecipe(compression=(step,)), where)
        return model

    def _read(self, graph: str) -> ov.Model:
        return self._core.read_model(self._half / graph_file(graph))

    def _compile(self, graph: str, model: ov.Model) -> Graph:
        if graph == "joint":
            model.reshape(joint_shapes(self._bundle))
        compiled = self._core.compile_model(model, "CPU", properties(self._task.threads, None))
        return Graph(compiled, graph, self._bundle.graph_path(graph))
