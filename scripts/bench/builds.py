"""Makes the builds from the checkpoint, each by the project's own code in a process of its own, and keeps them.

Beside every folder lies a file with a key, the hash of all that the folder was made from, the code included, and with
the hashes of the folder's files. A folder whose key and files are as they were is used again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from export.digest import code_sha256, digest, file_facts
from export.errors import UserError
from export.host import installed_version
from export.profiles import Settings
from export.progress import note
from export.removal import clear_leftovers, remove_folder
from export.results import read_result, write_result
from scripts.bench.onnx_export import ONNX
from scripts.bench.plan import KV, Build, Plan, recipe_of
from scripts.claim import claimed_folder
from scripts.disk import checkpoint_weights, recipe_bytes, require_room
from scripts.processes import ChildError, run_module

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint

RANDOM = "random-full.nemo"

FULL_BYTES = 2_600_000_000
"""Size of the random checkpoint of full size."""

VERBS = "scripts.cli"
"""Folders are made as `regenerate` makes them: by the verbs, in processes of their own."""

MAKE_ONNX = "scripts.bench.make_onnx"

_TOOLS = ("nemotron-ov", "openvino", "nncf", "torch", "nemo-toolkit", "transformers", "onnx", "onnxruntime", "onnx-ir")

Paths = dict[str, Path]
Failures = dict[str, str]


@contextmanager
def claimed_work(plan: Plan) -> Iterator[None]:
    """Take the work folder for this run, and clear what an interrupted one left half-written.

    Raises:
        UserError: another run is at work there, it cannot be written, or the disk is too small.
    """
    if not plan.made:
        yield
        return
    work = plan.options.work
    if work.exists() and not work.is_dir():
        raise UserError(f"--work {work}: is a file; choose a folder")
    _check_disk(plan)
    with claimed_folder(work, "bench", "--work"):
        for place in (work, *(folder for folder in work.iterdir() if _OF_A_CHECKPOINT.fullmatch(folder.name))):
            clear_leftovers(place)
        yield


_OF_A_CHECKPOINT = re.compile(r"[0-9a-f]{12}")


def make_builds(plan: Plan) -> tuple[Paths, Failures]:
    """Where every build lies, those that were missing made first; and why some could not be made.

    The path of ``nemo-pytorch-*`` and ``transformers-*`` is the checkpoint's.
    """
    paths: Paths = {build.name: build.folder for build in plan.builds if build.folder is not None}
    failed: Failures = {}
    if not plan.made:
        return paths, failed
    maker = _Maker(plan.options.work, plan.checkpoint or _random_checkpoint(plan.options.work))
    for build in plan.made:
        try:
            paths[build.name] = maker.make(build)
        except ChildError as error:
            failed[build.name] = f"could not be made: {error}"
            note(f"{build.name}: {failed[build.name]}")
    return paths, failed


def _random_checkpoint(work: Path) -> Checkpoint:
    """The random checkpoint of full size, made where it is not there yet."""
    from export.checkpoint import open_checkpoint

    path = work / RANDOM
    if not path.exists():
        try:
            run_module(VERBS, ["checkpoint", "random", path, "--size", "full", "--json"], stderr="show")
        except ChildError as error:
            raise UserError(f"{path}: could not be made ({error}); correct that, or give --checkpoint") from error
    return open_checkpoint(path)


class _Maker:
    """Makes builds of one checkpoint, and whatever they are made from, once each."""

    def __init__(self, work: Path, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._folder = work / checkpoint.sha256[:12]
        self._outcomes: dict[Path, ChildError | None] = {}

    def make(self, build: Build) -> Path:
        """The build's folder, which is whole, undamaged and of today's code.

        Raises:
            ChildError: it, or what it is made from, could not be made.
        """
        if build.engine in ("nemo", "transformers"):
            return self._checkpoint.path
        if build.engine == "onnxruntime":
            return self._onnx(build.recipe)
        fp32 = self._exported(build.encoder or "", build.cache)
        return fp32 if build.recipe == "fp32" else self._quantized(fp32, build)

    def _quantized(self, fp32: Path, build: Build) -> Path:
        """By the recipe; what a published build stands for holds no run-time options, as the published ones do not."""
        recipe, published = recipe_of(build), build.encoder == "nemo"
        target = self._folder / build.shown
        command = ["quantize", fp32, target, "--recipe", recipe.name, "--json", "--force"]
        command += ["--no-runtime-options"] if published else []
        source = fp32
        if recipe.needs_calibration:
            source = self._calibration(fp32)
            command += ["--calibration", source]
        key = _key(_identity(source), recipe.hash, str(published), code_sha256("quantize/**/*.py", but="recipes.py"))
        return self._kept(target, key, lambda: run_module(VERBS, command, stderr="show"))

    def _calibration(self, fp32: Path) -> Path:
        """Samples of the folder's graphs, from the audio that travels with the demo checkpoint."""
        target = fp32.with_name(f"{fp32.name}-calibration")
        key = _key(_identity(fp32), code_sha256("verify/**/*.py"), code_sha256("quantize/samples.py"))
        command = ["calibrate", fp32, target, "--json", "--force"]
        return self._kept(target, key, lambda: run_module(VERBS, command, stderr="show"))

    def _exported(self, encoder: str, cache: str = "channel") -> Path:
        name = "published-fp32" if encoder == "nemo" else f"fp32{KV if cache == 'kv' else ''}"
        target = self._folder / name
        key = _key(digest(self._checkpoint.identity), encoder, cache, code_sha256("export/**/*.py"))
        settings = Settings(encoder=encoder, cache=cache).arguments()
        command = ["export", self._checkpoint.path, target, *settings, "--json", "--force"]
        return self._kept(target, key, lambda: run_module(VERBS, command, stderr="show"))

    def _onnx(self, precision: str) -> Path:
        source = self._exported("nemo") if precision == "fp32" else self._onnx("fp32")
        target = self._folder / f"onnxruntime-{precision}"
        key = _key(_identity(source), precision, code_sha256("scripts/bench/onnx_export.py"))
        command = [precision, source, target, "--checkpoint", self._checkpoint.path]

        def make() -> None:
            remove_folder(target, ONNX, self._folder)
            note(f"making onnxruntime-{precision} …")
            run_module(MAKE_ONNX, command)

        return self._kept(target, key, make)

    def _kept(self, target: Path, key: str, make: Callable[[], object]) -> Path:
        """The folder as an earlier run left it, or made now; what failed once is not tried for another build again."""
        if target not in self._outcomes:
            self._outcomes[target] = None
            try:
                made = read_result(_key_file(target), key)
                if made is None or not made.items() <= _hashes(target).items():
                    make()
                    write_result(_key_file(target), _hashes(target), key)
            except ChildError as error:
                self._outcomes[target] = error
        failure = self._outcomes[target]
        if failure is not None:
            raise failure
        return target


def _key_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.key")


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's files by name; of nothing where there is no folder."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.name: file_facts(file)["sha256"] for file in files if file.is_file()}


def _identity(made: Path) -> str:
    """Of a folder that :meth:`_Maker._kept` gave: what it was made from, and its files."""
    return str(file_facts(_key_file(made))["sha256"])


def _key(*facts: str) -> str:
    """Identity of all that a folder is made from: these facts and the tools' versions."""
    return digest([facts, installed_versions()])


def installed_versions() -> dict[str, str]:
    """Versions of the tools that are installed."""
    return {tool: found for tool in _TOOLS if (found := installed_version(tool)) is not None}


def _check_disk(plan: Plan) -> None:
    """Refuse a disk that cannot hold what might have to be made."""
    weights = checkpoint_weights(plan.checkpoint.weights_bytes if plan.checkpoint else FULL_BYTES)
    sources = len({(build.encoder, build.cache) for build in plan.made if build.encoder}) * sum(weights.values())
    derived = sum(
        recipe_bytes(recipe_of(build), weights)
        for build in plan.made
        if build.encoder and (build.engine, build.recipe) != ("openvino", "fp32")  # which is the source
    )
    work = plan.options.work
    there = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())  # much of it is used again
    require_room([(work, sources + derived - there)], "choose another --work, or fewer --build")
