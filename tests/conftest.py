"""Folders that many tests read: made once a test run, shared by its workers."""

from __future__ import annotations

import gc
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from export.bundle import Bundle
from export.checkpoint import Checkpoint, open_checkpoint
from scripts.checkpoints.random.checkpoint import write_random_checkpoint

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

_REPORTED = ("openvino", "nncf", "nemo-toolkit", "torch", "numpy", "sentencepiece")


def pytest_report_header() -> list[str]:
    """Versions that results depend on."""

    def one(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} absent"

    return [f"python {platform.python_version()}, " + ", ".join(one(name) for name in _REPORTED)]


_MODULES = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep what was imported out of garbage collection.

    Export and quantization collect garbage after each graph. With NeMo imported a collection looks at 740,000 objects,
    which takes 0.4 s.
    """
    count = len(sys.modules)
    if count > item.config.stash.get(_MODULES, 0) + 100:
        item.config.stash[_MODULES] = count
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(shared: Path) -> Iterator[None]:
    """No test reads or fills the user's cache; the workers of a test run share theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEMOTRON_OV_CACHE", str(shared / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker compiles a graph once: OpenVINO's cache knows it by every byte of the graph and its weights.

    A cache for each worker: a process that reads a blob while another still writes it takes the blob for damaged
    and removes it, and the writer fails ("cannot set permissions").
    """
    import openvino as ov

    make = ov.Core
    compiled = str(tmp_path_factory.getbasetemp() / "compiled")

    def caching_core() -> Any:
        core = make()
        core.set_property({"CACHE_DIR": compiled})
        return core

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ov, "Core", caching_core)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this test run see."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


def _once(shared: Path, name: str, make: Callable[[Path], object]) -> Path:
    """Make ``shared/name`` in whichever worker comes first; the others wait for it."""
    path, failure = shared / name, shared / f"{name}.failed"
    with FileLock(f"{path}.lock"):
        if failure.exists():
            pytest.fail(f"{name} could not be made: {failure.read_text()}")
        if not path.exists():
            try:
                make(path)
            except BaseException as error:
                failure.write_text(repr(error))
                raise
    return path


def _export(checkpoint: Checkpoint, path: Path, **options: Any) -> None:
    """In this process: a process of its own would spend longer on importing NeMo than on the export."""
    from export.pipeline import export_checkpoint

    export_checkpoint(checkpoint, path, **options)


@pytest.fixture(scope="session")
def demo_checkpoint() -> Checkpoint:
    """The embedded checkpoint."""
    return open_checkpoint("demo")


@pytest.fixture(scope="session")
def demo_fp32(shared: Path, demo_checkpoint: Checkpoint) -> Bundle:
    """The demo checkpoint, exported with default options."""
    return Bundle.open(_once(shared, "demo-fp32", lambda path: _export(demo_checkpoint, path)))


@pytest.fixture(scope="session")
def demo_fp16(shared: Path, demo_fp32: Bundle) -> Bundle:
    """``demo_fp32`` by recipe fp16."""
    return _quantized(shared, demo_fp32, "fp16")


@pytest.fixture(scope="session")
def demo_int8(shared: Path, demo_fp32: Bundle) -> Bundle:
    """``demo_fp32`` by recipe int8."""
    return _quantized(shared, demo_fp32, "int8")


@pytest.fixture(scope="session")
def demo_latin_fp32(shared: Path, demo_checkpoint: Checkpoint) -> Bundle:
    """The demo checkpoint without its kana; parity against PyTorch was checked on the way."""
    return Bundle.open(_once(shared, "demo-latin-fp32", lambda path: _export(demo_checkpoint, path, scripts=["latin"])))


def _quantized(shared: Path, source: Bundle, recipe: str) -> Bundle:
    from quantize.pipeline import quantize_bundle
    from quantize.recipes import get_recipe

    return Bundle.open(_once(shared, f"demo-{recipe}", lambda path: quantize_bundle(source, path, get_recipe(recipe))))


@pytest.fixture(scope="session")
def small_checkpoint(shared: Path) -> Checkpoint:
    """Half a million random parameters of the real class."""
    return open_checkpoint(_once(shared, "small.nemo", lambda path: write_random_checkpoint(path, "small")))


@pytest.fixture(scope="session")
def small_english_checkpoint(shared: Path) -> Checkpoint:
    """The small random sibling without language prompt."""
    return open_checkpoint(
        _once(shared, "small-en.nemo", lambda path: write_random_checkpoint(path, "small", variant="english"))
    )


@pytest.fixture(scope="session")
def small_english_fp32(shared: Path, small_english_checkpoint: Checkpoint) -> Bundle:
    """``small_english_checkpoint``, exported with default options."""
    return Bundle.open(_once(shared, "small-en-fp32", lambda path: _export(small_english_checkpoint, path)))


@pytest.fixture(scope="session")
def small_nemo(small_checkpoint: Checkpoint) -> EncDecRNNTBPEModel:
    """``small_checkpoint`` as NeMo restores it, once a worker; tests leave its weights as they are."""
    from export.checkpoint.nemo import load_model

    return load_model(small_checkpoint)


@pytest.fixture(scope="session")
def small_export(shared: Path, small_checkpoint: Checkpoint) -> Callable[..., Bundle]:
    """Exports ``small_checkpoint`` with options of ``export_checkpoint``: each combination once a test run."""

    def export(**options: Any) -> Bundle:
        name = "-".join(["small-fp32", *(f"{key}={options[key]}" for key in sorted(options))])
        return Bundle.open(_once(shared, name, lambda path: _export(small_checkpoint, path, **options)))

    return export


@pytest.fixture(scope="session")
def small_fp32(small_export: Callable[..., Bundle]) -> Bundle:
    """``small_checkpoint``, exported with default options."""
    return small_export()


@pytest.fixture(scope="session")
def small_r13_fp32(small_export: Callable[..., Bundle]) -> Bundle:
    """``small_checkpoint`` with the largest lookahead."""
    return small_export(lookahead=13)


@pytest.fixture(scope="session")
def small_kv_fp32(small_export: Callable[..., Bundle]) -> Bundle:
    """``small_checkpoint`` with a cache of keys and values."""
    return small_export(cache="kv")


@pytest.fixture(scope="session")
def small_80ms_fp32(small_export: Callable[..., Bundle]) -> Bundle:
    """``small_checkpoint`` in the shortest steps, with fewer mel frames than a step carries."""
    return small_export(chunk_ms=80)


@pytest.fixture(scope="session")
def small_nemo_fp32(small_export: Callable[..., Bundle]) -> Bundle:
    """``small_checkpoint`` with NeMo's own encoder modules, the published graph."""
    return small_export(encoder="nemo")


@pytest.fixture
def short_manifest(tmp_path: Path) -> Path:
    """Two short utterances of the demo set."""
    from verify.data.manifest import default_manifest, read_manifest

    chosen = sorted(read_manifest(default_manifest()), key=lambda utterance: utterance.duration)[:2]
    file = tmp_path / "short.jsonl"
    lines = [
        json.dumps(
            {
                "audio_filepath": str(utterance.audio_filepath),
                "duration": utterance.duration,
                "text": utterance.text,
                "target_lang": utterance.target_lang,
            }
        )
        for utterance in chosen
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs"]
    if mount is None or subprocess.run([mount, *options, place], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)  # lazily: PyTorch's writer holds open what it could not write
