"""Packages import downwards only, come from this checkout, and stay light where finished folders are concerned."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.errors import NOT_DECIDED
from quantize.pipeline import quantize_bundle
from quantize.recipes import get_recipe

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("export", "quantize", "verify", "scripts")


def imported_packages(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names & set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_downwards_only(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :])
    files = list((ROOT / package).rglob("*.py"))
    assert files
    assert {str(file): found for file in files if (found := imported_packages(file) & above)} == {}


@functools.cache
def module_imports() -> dict[str, set[str]]:
    """Every module of the packages and the modules that it imports, inside functions and for types too."""
    files = {file for package in ORDER for file in (ROOT / package).rglob("*.py")}
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found[name] = {
            target
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
            for target in [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in names else node.module]
            if target in names and target != name
        }
    return found


def test_only_the_streaming_runtime_has_a_circle() -> None:
    imports = module_imports()
    assert imports["verify.pipeline"]

    def reached(name: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(imports[name])
        while waiting:
            if (each := waiting.pop()) not in seen:
                seen.add(each)
                waiting += imports[each]
        return seen

    circle = {name for name in imports if name in reached(name)}
    types_only = ("greedy", "recognizer", "recording", "stream")
    assert circle == {f"verify.runtimes.streaming.{name}" for name in types_only}


BETWEEN_ROOMS = {
    "export.checkpoint": {"export.graphs"},  # what the weights lack is computed there, for NeMo too
    "export.graphs": {"export.checkpoint"},  # no circle of modules; see above
    "verify.data": set(),
    "verify.runtimes": {"verify.data"},
    "verify.references": {"verify.runtimes"},
    "verify.scoring": {"verify.data", "verify.runtimes"},
    "scripts.bench": set(),
    "scripts.compatibility": set(),
    "scripts.page": set(),
    "scripts.publish": set(),
    "scripts.regenerate": set(),
    "scripts.sweep": {"scripts.bench", "scripts.page"},
    "scripts.transcribe": set(),
    "scripts.checkpoints": set(),
}
"""Rooms inside the packages, and the rooms beside them that each may import."""


@pytest.mark.parametrize("room", BETWEEN_ROOMS)
def test_rooms_import_only_the_rooms_below_them(room: str) -> None:
    imports = {name: targets for name, targets in module_imports().items() if name.startswith(f"{room}.")}
    assert imports
    found = {".".join(target.split(".")[:2]) for targets in imports.values() for target in targets}
    package = room.split(".", maxsplit=1)[0]
    beside = {each for each in found if each in {*BETWEEN_ROOMS, "scripts.cli"} and each.startswith(package)} - {room}
    assert beside == BETWEEN_ROOMS[room]


def test_every_room_is_listed() -> None:
    rooms = {
        f"{package}.{folder.parent.name}" for package in ORDER for folder in (ROOT / package).glob("*/__init__.py")
    }
    assert rooms - {"scripts.cli", "export.demo"} == set(BETWEEN_ROOMS)  # one imports all, one is data


def test_the_streaming_runtime_does_not_import_the_clients_loop() -> None:
    imports = module_imports()
    streaming = [name for name in imports if name.startswith("verify.runtimes.streaming")]
    assert streaming
    assert not any("verify.runtimes.generation1" in imports[name] for name in streaming)


@pytest.mark.parametrize("package", ORDER)
def test_name_imports_from_this_checkout(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file
    assert Path(file).resolve().parent == ROOT / package


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipes"],
        ["recipes", "--json"],
        *[
            [*verb.split(), "--help"]
            for verb in (
                "regenerate", "export", "quantize", "verify", "transcribe", "inspect", "recipes",
                "bench", "calibrate", "flaws", "sweep", "rank", "tables", "page", "checkpoint", "checkpoint random",
            )
        ],
    ],
    ids=" ".join,
)  # fmt: skip
def test_light_verbs_load_nothing_heavy(arguments: list[str]) -> None:
    done = run_and_list_modules(arguments)
    assert done.returncode == 0, done.stderr
    assert not heavy_modules(done) & {"torch", "nemo", "openvino", "nncf", "scipy", "transformers"}


def test_finished_folders_need_neither_torch_nor_nemo(small_fp32: Bundle, tmp_path: Path) -> None:
    """In processes where they are not installed and nobody asks for them, so that they load nothing where they are.

    NNCF would, but for what :mod:`quantize.compression` answers it.
    """
    half = quantize_bundle(small_fp32, tmp_path / "fp16", get_recipe("fp16"))
    for arguments in (
        ["inspect", half.path],
        ["transcribe", half.path, first_audio()],
        ["verify", half.path, "--reference", small_fp32.path, "--limit", "1"],
        ["quantize", small_fp32.path, tmp_path / "int8", "--recipe", "int8"],
    ):
        done = run_and_list_modules([str(argument) for argument in arguments], without=ORACLES)
        assert done.returncode == (NOT_DECIDED if arguments[0] == "verify" else 0), (arguments, done.stderr)
        assert not asked_modules(done), arguments
        assert not heavy_modules(done) & set(ORACLES), arguments
        if arguments[0] == "transcribe":
            assert "scipy" not in heavy_modules(done), "60 MB"


ORACLES = ("torch", "nemo", "lightning", "transformers")


def run_and_list_modules(arguments: list[str], without: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a verb in a fresh process that says on its last two lines of stderr what it asked for in vain and loaded.

    A finder refuses what it is to be without: as if that were not installed.
    """
    code = (
        "import atexit, sys\n"
        f"without, asked = {tuple(without)!r}, []\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in without:\n"
        "            asked.append(name)\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "def tell():\n"
        "    print('\\nASKED', *asked, file=sys.stderr)\n"
        "    print('MODULES', *sorted({n.split('.')[0] for n, m in sys.modules.items() if m}), file=sys.stderr)\n"
        "atexit.register(tell)\n"
        "from scripts.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def asked_modules(done: subprocess.CompletedProcess[str]) -> list[str]:
    line = done.stderr.strip().splitlines()[-2]
    assert line.startswith("ASKED"), done.stderr
    return line.split()[1:]


def heavy_modules(done: subprocess.CompletedProcess[str]) -> set[str]:
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("MODULES"), done.stderr
    return set(last.split()[1:])


def first_audio() -> Path:
    from verify.data.manifest import default_manifest, read_manifest

    return read_manifest(default_manifest())[0].audio_filepath
