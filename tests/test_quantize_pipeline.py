from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from export.bundle import GRAPHS, Bundle, graph_file
from export.constants import Counts
from export.errors import NemotronOVError, ParityError, UserError
from quantize import compression, pipeline
from quantize.pipeline import quantize_bundle
from quantize.recipe import GraphRecipe, IgnoredScope, Recipe, WeightCompression
from quantize.recipes import RECIPES
from tests import tiny_graphs


def contents(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


def run(path: Path, data: np.ndarray) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    result: np.ndarray = ov.compile_model(path, "CPU", options)(data)[0]
    return result


@pytest.fixture(params=["fused", "nemo"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return tiny_graphs.bundle(tmp_path / "source", request.param)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_bundle(source: Bundle, tmp_path: Path, name: str) -> None:
    before = contents(source.path)
    made = quantize_bundle(source, tmp_path / name, RECIPES[name])
    assert contents(source.path) == before
    assert made.metadata.precision == RECIPES[name].precision
    assert made.metadata.recipe["hash"] == RECIPES[name].hash
    assert made.metadata.recipe["tolerance"]["exact_match"] == RECIPES[name].tolerance.exact_match
    assert made.damaged_files() == []
    assert made.vocabulary == source.vocabulary
    assert set(made.metadata.constants) == set(GRAPHS)
    assert {"openvino", "nncf"} <= set(made.metadata.tools)
    data = np.random.default_rng(0).standard_normal((1, tiny_graphs.FRAMES, tiny_graphs.WIDTH), np.float32)
    wanted, got = (run(bundle.graph_path("encoder"), data) for bundle in (source, made))
    limit = {"fp32": 0.0, "fp16": 1e-2, "int8": 5e-2}[name]
    assert np.abs(wanted - got).max() <= limit * np.abs(wanted).max()


def test_types_and_sizes_of_each_recipe(source: Bundle, tmp_path: Path) -> None:
    made = {name: quantize_bundle(source, tmp_path / name, recipe) for name, recipe in RECIPES.items()}
    floats = {name: set(bundle.metadata.constants["encoder"]) - {"i64"} for name, bundle in made.items()}
    assert floats == {"fp32": {"f32"}, "fp16": {"f16"}, "int8": {"f16", "i8"}}
    assert set(made["int8"].metadata.constants["joint"]) == {"f16"}
    sizes = [made[name].graph_path("encoder").with_suffix(".bin").stat().st_size for name in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.51 * sizes[0]


def test_two_runs_give_equal_weights(source: Bundle, tmp_path: Path) -> None:
    first, second = (quantize_bundle(source, tmp_path / name, RECIPES["int8"]) for name in ("one", "two"))
    for graph in GRAPHS:
        name = graph_file(graph).replace(".xml", ".bin")
        assert first.metadata.files[name] == second.metadata.files[name]


def test_only_fp32_folders_are_accepted(source: Bundle, tmp_path: Path) -> None:
    half = quantize_bundle(source, tmp_path / "fp16", RECIPES["fp16"])
    with pytest.raises(UserError, match="was made by recipe fp16; give the fp32 folder"):
        quantize_bundle(half, tmp_path / "int8", RECIPES["int8"])


def test_existing_folder_and_source_are_refused(source: Bundle, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(UserError, match="--force"):
        quantize_bundle(source, tmp_path / "taken", RECIPES["fp16"])
    with pytest.raises(UserError, match="is the source folder itself"):
        quantize_bundle(source, source.path, RECIPES["fp16"], force=True)
    assert quantize_bundle(source, tmp_path / "taken", RECIPES["fp16"], force=True).metadata.precision == "FP16"


def scoped(pattern: str) -> Recipe:
    scope = IgnoredScope(patterns=(pattern,))
    part = GraphRecipe(compression=WeightCompression(mode="int8_sym", ignored_scope=scope))
    return RECIPES["int8"].model_copy(update={"encoder": part, "name": "scoped"})


def test_failure_leaves_nothing_behind(source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(source.path)
    with pytest.raises(UserError, match=r"recipe scoped: .*nemotron_encoder\.xml: ignored_scope pattern"):
        quantize_bundle(source, tmp_path / "out", scoped(".*no_such_layer.*"))

    def nothing(model: ov.Model, *_: object) -> ov.Model:
        return model

    monkeypatch.setattr(pipeline, "compress", nothing)
    with pytest.raises(ParityError, match=r"recipe int8: .*nemotron_encoder\.xml: mode int8_sym left the graph"):
        quantize_bundle(source, tmp_path / "out", RECIPES["int8"])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert contents(source.path) == before


def test_changed_port_fails() -> None:
    with pytest.raises(ParityError, match="clients could not bind it"):
        pipeline.check_ports(tiny_graphs.other("joint"), tiny_graphs.other("decoder"), "test")
    with pytest.raises(ParityError, match="clients could not bind it"):
        pipeline.check_ports(tiny_graphs.encoder("nemo"), tiny_graphs.other("mel"), "test")


def test_nncf_refusal_names_recipe_and_file(tmp_path: Path) -> None:
    part = WeightCompression(mode="int4_sym", group_size=7, all_layers=True)
    with pytest.raises(NemotronOVError, match="recipe x: encoder: NNCF refuses it"):
        compression.compress(tiny_graphs.encoder("fused"), part, "recipe x: encoder")


def test_stdout_stays_clean(source: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quantize_bundle(source, tmp_path / "int8", RECIPES["int8"])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "recipe int8: encoder" in captured.err
    assert "nncf" not in captured.err.lower()


@pytest.mark.parametrize("folder", ["demo_fp16", "demo_int8"])
def test_demo_bundles_hold_what_their_recipe_says(
    folder: str, demo_fp32: Bundle, request: pytest.FixtureRequest
) -> None:
    made: Bundle = request.getfixturevalue(folder)
    constants: dict[str, Counts] = json.loads((made.path / "metadata.json").read_text())["constants"]
    for graph in ("encoder", "decoder", "joint"):
        assert constants[graph].get("f32", {"elements": 0})["elements"] < 32, "nothing but scalars in f32"
    assert "f16" not in constants["preprocessor"], "quiet mel bins need all of the DFT's digits"
    assert ("i8" in constants["encoder"]) == (made.metadata.precision == "INT8")
    assert all("i8" not in constants[graph] for graph in GRAPHS if graph != "encoder")
    smaller = made.graph_path("encoder").with_suffix(".bin").stat().st_size
    larger = demo_fp32.graph_path("encoder").with_suffix(".bin").stat().st_size
    assert smaller < {"FP16": 0.51, "INT8": 0.3}[made.metadata.precision] * larger


def test_quantizing_loads_no_torch_and_leaves_it_usable(tmp_path: Path) -> None:
    source = tiny_graphs.bundle(tmp_path / "source")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from export.bundle import Bundle\nfrom quantize.pipeline import quantize_bundle\n"
        "from quantize.recipes import RECIPES\n"
        "source, folder = Bundle.open(sys.argv[1]), Path(sys.argv[2])\n"
        "quantize_bundle(source, folder / 'before', RECIPES['int8'])\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'torch']\n"
        "import torch\n"
        "quantize_bundle(source, folder / 'after', RECIPES['int8'])\n"
    )
    command = [sys.executable, "-c", code, str(source.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (Bundle.open(tmp_path / name).metadata.files for name in ("before", "after"))
    assert before["nemotron_encoder.bin"] == after["nemotron_encoder.bin"]
