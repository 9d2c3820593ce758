from __future__ import annotations

import hashlib
import json
import math
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from export.bundle import GRAPHS, VOCABULARY, Bundle, graph_file
from export.contract import contract_problems
from export.errors import ParityError, UserError
from export.weight_types import Counts, count_constants
from quantize import compression, pipeline
from quantize.effect import weights
from quantize.grid import expand, parse_axis
from quantize.groups import with_layers
from quantize.pipeline import quantize_bundle
from quantize.recipe import ACTIVATION_GROUP, GraphRecipe, Recipe
from quantize.recipes import POSITIONS, RECIPES
from quantize.samples import CalibrationData
from quantize.steps import IgnoredScope, WeightCompression
from tests.helpers import tiny_graphs
from verify.collect import collect, default_utterances


def contents(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


def run(path: Path, data: np.ndarray) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    result: np.ndarray = ov.compile_model(path, "CPU", options)(data)[0]
    return result


@pytest.fixture(params=["rewritten", "nemo"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return tiny_graphs.bundle(tmp_path / "source", request.param)


def test_groups_that_divide_no_row_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tiny_graphs.bundle(tmp_path / "source", "rewritten")
    for size, warned in ((32, False), (48, True)):
        (variant,) = expand([RECIPES["int4"]], [parse_axis(f"encoder.group_size={size}")])
        assert variant.recipe is not None
        made = quantize_bundle(source, tmp_path / str(size), variant.recipe)
        added = made.metadata.warnings[len(source.metadata.warnings) :]
        note = "no row of its weights divides into groups of 48; made instead: "
        assert [note in each for each in added if "floating point" not in each] == [True] * warned
    assert "warning: recipe int4" in capfd.readouterr().err


def test_activation_groups_that_do_not_divide_the_weights_are_said(tmp_path: Path) -> None:
    source = tiny_graphs.bundle(tmp_path / "source", "rewritten")
    for activations, warned in ((64, True), (32, False), (16, False)):
        axes = ["encoder.group_size=32", f"encoder.runtime_options.{ACTIVATION_GROUP}={activations}"]
        (variant,) = expand([RECIPES["int4"]], [parse_axis(axis) for axis in axes])
        assert variant.recipe is not None
        made = quantize_bundle(source, tmp_path / str(activations), variant.recipe)
        note = [each for each in made.metadata.warnings if "products in floating point" in each]
        assert len(note) == warned, note
        assert all(f"set {ACTIVATION_GROUP} to 32" in each for each in note)


def test_layers_of_an_ignored_scope_are_counted_in_the_graph(tmp_path: Path) -> None:
    source = tiny_graphs.bundle(tmp_path / "source", "rewritten")
    last, missing = (
        variant.recipe for variant in expand([RECIPES["int8"]], [parse_axis("encoder.ignored_scope.layers=[-1],[5]")])
    )
    assert last is not None
    assert missing is not None
    made = quantize_bundle(source, tmp_path / "last", last)
    products = [weight for weight in weights(ov.Core().read_model(made.graph_path("encoder"))) if weight.elements > 16]
    stored = {weight.operation.split(".feed")[0].split(".self")[0]: weight.type for weight in products}
    assert stored["__module.encoder.layers.1"] == "f16", stored
    assert "i8" in stored.values()
    with pytest.raises(UserError, match=r"encoder\.xml: ignored_scope layer 5: the graph has 2 conformer layers"):
        quantize_bundle(source, tmp_path / "none", missing)
    names = [f"__module.encoder.layers.{layer}.conv/MatMul" for layer in (0, 11, 2)]
    scope = with_layers(last.encoder, names, "x").compression[0].ignored_scope
    assert [re.match(scope.patterns[-1], name) is not None for name in names] == [False, True, False]
    assert not scope.layers


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_bundle(source: Bundle, tmp_path: Path, name: str) -> None:
    before = contents(source.path)
    calibration = tiny_graphs.calibration(tmp_path / "calibration", source)
    made = quantize_bundle(source, tmp_path / name, RECIPES[name], calibration=calibration)
    assert contents(source.path) == before
    assert made.metadata.precision == RECIPES[name].precision
    assert made.metadata.recipe["hash"] == RECIPES[name].hash
    assert made.metadata.recipe["tolerance"]["exact_match"] == RECIPES[name].tolerance.exact_match
    assert made.damaged_files() == []
    assert made.vocabulary == source.vocabulary
    assert set(made.metadata.constants) == set(GRAPHS)
    assert {"openvino", "nncf"} <= set(made.metadata.tools)
    data = next(calibration.samples("encoder"))["mel"]  # in the range that quantization saw
    wanted, got = (run(bundle.graph_path("encoder"), data) for bundle in (source, made))
    limit = {"fp32": 0.0, "fp16": 1e-2, "int8": 5e-2, "int8-full": 5e-2, "w8a8": 0.1}.get(name, 0.4)
    assert np.abs(wanted - got).max() <= limit * np.abs(wanted).max()


def test_types_and_sizes_of_each_recipe(source: Bundle, tmp_path: Path) -> None:
    names = ("fp32", "fp16", "int8", "int4")
    made = {name: quantize_bundle(source, tmp_path / name, RECIPES[name]) for name in names}
    floats = {name: set(bundle.metadata.constants["encoder"]) - {"i64"} for name, bundle in made.items()}
    assert floats == {"fp32": {"f32"}, "fp16": {"f16"}, "int8": {"f16", "i8"}, "int4": {"f16", "i8", "i4"}}
    assert set(made["int8"].metadata.constants["joint"]) == {"f16"}
    assert "i8" in made["int4"].metadata.constants["joint"]
    assert made["int4"].metadata.constants["decoder"]["i8"]["count"] == 1, (
        "the embedding; an LSTM operation is left alone"
    )
    sizes = [made[name].graph_path("encoder").with_suffix(".bin").stat().st_size for name in names]
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
    tiny_graphs.bundle(tmp_path / "taken")
    with pytest.raises(UserError, match="--force"):
        quantize_bundle(source, tmp_path / "taken", RECIPES["fp16"])
    with pytest.raises(UserError, match="is the source folder itself"):
        quantize_bundle(source, source.path, RECIPES["fp16"], force=True)
    assert quantize_bundle(source, tmp_path / "taken", RECIPES["fp16"], force=True).metadata.precision == "FP16"


def test_a_folder_that_holds_the_source_is_refused(source: Bundle, tmp_path: Path) -> None:
    before = contents(source.path)
    (tmp_path / "link").symlink_to(source.path.parent)
    for directory in (source.path.parent, tmp_path / "link", tmp_path.parent):
        with pytest.raises(UserError, match=f"^{directory}: holds the source folder {source.path}; choose another"):
            quantize_bundle(source, directory, RECIPES["fp16"], force=True)
    with pytest.raises(UserError, match="link/source: is the source folder itself"):
        quantize_bundle(source, tmp_path / "link" / "source", RECIPES["fp16"], force=True)
    assert contents(source.path) == before


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "flipped", "missing"])
@pytest.mark.parametrize("name", ["nemotron_encoder.xml", "nemotron_encoder.bin", "nemotron_joint.bin", VOCABULARY])
def test_a_damaged_source_is_refused(tmp_path: Path, name: str, damage: object) -> None:
    source = tiny_graphs.bundle(tmp_path / "source")
    assert callable(damage)
    damage(source.path / name)
    with pytest.raises(UserError, match=f"source: {name} differ from what was written; regenerate the folder"):
        quantize_bundle(source, tmp_path / "out", RECIPES["int8"])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["nemotron_encoder.xml", "nemotron_encoder.bin"])
def test_a_damaged_source_that_recorded_no_hashes_is_one_line(tmp_path: Path, name: str) -> None:
    source = tiny_graphs.bundle(tmp_path / "source")
    truncate(source.path / name)
    unrecorded = replace(source, metadata=source.metadata.model_copy(update={"files": {}}))
    with pytest.raises(
        UserError, match=r"nemotron_encoder\.xml: cannot be read \(.*\); export the folder again"
    ) as caught:
        quantize_bundle(unrecorded, tmp_path / "out", RECIPES["int8"])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Files end at ``limit`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
def test_no_room_is_one_line(source: Bundle, tmp_path: Path, name: str) -> None:
    with (
        small_files(3000),
        pytest.raises(UserError, match=r"out: cannot be written \(.*\); make room there, or choose another") as caught,
    ):
        quantize_bundle(source, tmp_path / "out", RECIPES[name])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def scoped(pattern: str) -> Recipe:
    scope = IgnoredScope(patterns=(pattern,))
    part = GraphRecipe(compression=(WeightCompression(mode="int8_sym", ignored_scope=scope),))
    return RECIPES["int8"].model_copy(update={"encoder": part, "name": "scoped"})


def test_failure_leaves_nothing_behind(source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(source.path)
    with pytest.raises(UserError, match=r"recipe scoped: .*nemotron_encoder\.xml: ignored_scope pattern"):
        quantize_bundle(source, tmp_path / "out", scoped(".*no_such_layer.*"))

    def nothing(model: ov.Model, *_: object) -> ov.Model:
        return model

    monkeypatch.setattr(pipeline, "compress", nothing)
    with pytest.raises(
        ParityError, match=r"recipe int8: .*nemotron_encoder\.xml: mode int8_sym left the graph without any i8"
    ):
        quantize_bundle(source, tmp_path / "out", RECIPES["int8"])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert contents(source.path) == before


def compiled_group(bundle: Bundle) -> int:
    """What the CPU plugin takes from the graph, without a word from the client."""
    compiled = ov.Core().compile_model(bundle.graph_path("encoder"), "CPU")
    return int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE"))


def test_runtime_options_reach_clients_that_set_nothing(source: Bundle, tmp_path: Path) -> None:
    recipe = RECIPES["int8-full"]
    made = quantize_bundle(source, tmp_path / "with", recipe)
    assert compiled_group(made) == 128
    assert made.metadata.recipe["encoder"]["runtime_options"] == {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}
    plain = quantize_bundle(source, tmp_path / "without", recipe, runtime_options=False)
    assert compiled_group(plain) == compiled_group(source) != 128
    assert "runtime_options" not in plain.metadata.recipe["encoder"]
    assert plain.metadata.recipe["hash"] == recipe.without_runtime_options().hash != recipe.hash


def test_runtime_options_of_a_plain_graph(source: Bundle, tmp_path: Path) -> None:
    part = GraphRecipe(precision="f32", runtime_options={"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64})
    made = quantize_bundle(source, tmp_path / "out", RECIPES["fp32"].model_copy(update={"encoder": part}))
    assert compiled_group(made) == 64
    assert "f16" not in made.metadata.constants["encoder"]


def test_calibration_is_asked_for_and_recorded(source: Bundle, tmp_path: Path) -> None:
    calibration = tiny_graphs.calibration(tmp_path / "calibration", source)
    with pytest.raises(UserError, match=r"recipe w8a8: needs calibration data; add --calibration DIR, made by"):
        quantize_bundle(source, tmp_path / "out", RECIPES["w8a8"])
    made = quantize_bundle(source, tmp_path / "out", RECIPES["w8a8"], calibration=calibration)
    assert made.metadata.recipe["calibration_sha256"] == calibration.sha256
    kinds = {node.get_type_name() for node in ov.Core().read_model(made.graph_path("encoder")).get_ops()}
    assert "FakeQuantize" in kinds
    unread = quantize_bundle(source, tmp_path / "int8", RECIPES["int8"], calibration=calibration)
    assert "calibration_sha256" not in unread.metadata.recipe


def test_calibration_of_another_folder_or_graph_is_refused(source: Bundle, tmp_path: Path) -> None:
    calibration = tiny_graphs.calibration(tmp_path / "calibration", source)
    quantization = RECIPES["w8a8"].encoder
    joint = RECIPES["w8a8"].model_copy(update={"joint": quantization, "encoder": GraphRecipe()})
    with pytest.raises(UserError, match="holds no samples of the joint, which recipe w8a8 needs"):
        quantize_bundle(source, tmp_path / "out", joint, calibration=calibration)
    facts = calibration.index.source | {"checkpoint": "another"}
    stranger = replace(calibration, index=calibration.index.model_copy(update={"source": facts}))
    with pytest.raises(UserError, match="was collected from a folder whose checkpoint is another"):
        quantize_bundle(source, tmp_path / "out", RECIPES["w8a8"], calibration=stranger)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [{"awq": True}, {"gptq": True}, {"ratio": 0.5, "scale_estimation": True}])
def test_data_aware_compressions_see_the_data(source: Bundle, tmp_path: Path, arguments: dict[str, object]) -> None:
    scope = IgnoredScope(patterns=(POSITIONS,))
    base = {"mode": "int4_sym", "group_size": 32, "all_layers": True, "ignored_scope": scope}
    step = WeightCompression.model_validate(base | arguments | {"backup_mode": "int8_sym"})
    recipe = RECIPES["fp16"].model_copy(update={"encoder": GraphRecipe(compression=(step,))})
    calibration = tiny_graphs.calibration(tmp_path / "calibration", source)
    made = quantize_bundle(source, tmp_path / "out", recipe, calibration=calibration)
    assert made.metadata.constants["encoder"]["i4"]["count"] >= 1


def test_changed_port_fails() -> None:
    with pytest.raises(ParityError, match="clients could not bind it"):
        pipeline.check_ports(tiny_graphs.other("joint"), tiny_graphs.other("decoder"), "test")
    with pytest.raises(ParityError, match="clients could not bind it"):
        pipeline.check_ports(tiny_graphs.encoder("nemo"), tiny_graphs.other("mel"), "test")


def test_nncf_refusal_names_the_step(tmp_path: Path) -> None:
    source = tiny_graphs.bundle(tmp_path / "source")
    steps = (
        WeightCompression(mode="int8_sym", ignored_scope=IgnoredScope(patterns=(".*linear_q.*",))),
        WeightCompression(mode="int4_sym", group_size=7, all_layers=True),
    )
    recipe = RECIPES["fp16"].model_copy(update={"name": "x", "encoder": GraphRecipe(compression=steps)})
    with pytest.raises(
        UserError,
        match=r"^recipe x: .*nemotron_encoder\.xml: step 2 of 2: mode int4_sym, group_size 7: NNCF refuses it "
        r"\(InvalidGroupSizeError: .*\); correct the recipe",
    ) as caught:
        quantize_bundle(source, tmp_path / "out", recipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [KeyError("embed"), AssertionError(), RuntimeError("one\ntwo"), IndexError("x " * 999)]
)
def test_whatever_nncf_raises_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(nncf, "compress_weights", fail)
    with pytest.raises(UserError, match=f"here: mode nf4, default group_size: .*{type(error).__name__}") as caught:
        compression.compress(tiny_graphs.encoder("rewritten"), WeightCompression(mode="nf4"), "here")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_calibration_errors_are_not_blamed_on_nncf(tmp_path: Path) -> None:
    data = tiny_graphs.calibration(tmp_path / "calibration", tiny_graphs.bundle(tmp_path / "source"))
    (data.path / "encoder-000.npz").unlink()
    step = WeightCompression(mode="int4_sym", group_size=32, all_layers=True, scale_estimation=True)
    with pytest.raises(UserError, match=r"encoder-000\.npz: cannot be read .*; collect the set again$"):
        compression.compress(tiny_graphs.encoder("rewritten"), step, "here", compression.Samples(data, "encoder"))


@pytest.fixture(scope="module")
def small_calibration(small_fp32: Bundle, tmp_path_factory: pytest.TempPathFactory) -> CalibrationData:
    """Two encoder steps of the small random checkpoint."""
    shortest = sorted(default_utterances(), key=lambda utterance: utterance.duration)[:2]
    return collect(small_fp32, shortest, tmp_path_factory.mktemp("small") / "calibration", samples=2)


FEED_FORWARD = r"(?!.*layers\.1\.feed_forward)"
"""Ignores all but the four feed-forward products of the last layer."""


@pytest.mark.parametrize(
    "options",
    [("awq",), ("gptq",), ("scale_estimation",), ("lora_correction",), ("awq", "lora_correction", "scale_estimation")],
    ids="+".join,
)
def test_data_aware_options_on_a_traced_graph(
    options: tuple[str, ...], small_fp32: Bundle, small_calibration: CalibrationData, tmp_path: Path
) -> None:
    scope = IgnoredScope(patterns=(FEED_FORWARD,))
    base = {"mode": "int4_sym", "group_size": 32, "all_layers": True, "ignored_scope": scope}
    step = WeightCompression.model_validate(base | dict.fromkeys(options, True))
    recipe = RECIPES["fp16"].model_copy(update={"encoder": GraphRecipe(compression=(step,))})
    made = quantize_bundle(small_fp32, tmp_path / "out", recipe, calibration=small_calibration)
    constants = made.metadata.constants["encoder"]
    assert constants["i4"]["count"] == 4
    assert constants.get("f32", {"elements": 0})["elements"] < 32, "nothing but scalars in f32"
    names = [node.get_friendly_name() for node in ov.Core().read_model(made.graph_path("encoder")).get_ops()]
    assert sum(name.endswith(compression.AWQ_SCALE) for name in names) == (2 if "awq" in options else 0)
    assert sum(name.endswith("_lora_A") for name in names) == (4 if "lora_correction" in options else 0)
    sample = next(small_calibration.samples("encoder"))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    wanted, got = (
        ov.Core().compile_model(bundle.graph_path("encoder"), "CPU", settings)(sample)["encoded"]
        for bundle in (small_fp32, made)
    )
    assert np.sqrt(np.mean((wanted - got) ** 2)) < 0.05 * np.sqrt(np.mean(wanted**2))


def test_an_embedding_that_lora_correction_cannot_take(small_fp32: Bundle, small_calibration: CalibrationData) -> None:
    step = WeightCompression(mode="int4_sym", group_size=32, all_layers=True, lora_correction=True)
    model = ov.Core().read_model(small_fp32.graph_path("decoder"))
    with pytest.raises(UserError, match=r"here: mode int4_sym, group_size 32: NNCF refuses it \(KeyError: .*Gather"):
        compression.compress(model, step, "here", compression.Samples(small_calibration, "decoder"))


def test_calibration_audio_is_recorded(tmp_path: Path) -> None:
    """So that an evaluation can tell whether a folder has seen its audio."""
    source = tiny_graphs.bundle(tmp_path / "source")
    data = tiny_graphs.calibration(tmp_path / "calibration", source)
    audio = [
        {"name": name, "language": "en-US", "sha256": digit * 64} for name, digit in (("1.wav", "b"), ("2.wav", "a"))
    ]
    other = replace(data, index=data.index.model_copy(update={"audio": audio}))
    made = quantize_bundle(source, tmp_path / "out", RECIPES["w8a8"], calibration=other)
    assert Bundle.open(made.path).metadata.recipe["calibration_audio_sha256"] == ["a" * 64, "b" * 64]
    unread = quantize_bundle(source, tmp_path / "int8", RECIPES["int8"], calibration=other)
    assert "calibration_audio_sha256" not in unread.metadata.recipe


def test_factors_of_awq_are_stored_in_half(tmp_path: Path) -> None:
    def model(*factors: float) -> ov.Model:
        data = ops.parameter([1, 2], np.float32)
        return ov.Model(
            [ops.multiply(data, ops.constant(np.array(factors, np.float32), name="x/awq_mul/scale"))], [data]
        )

    fitting = model(0.3, 2.0)
    compression._halve_awq_scales(fitting, "here")
    assert set(count_constants(fitting)) == {"f16"}
    assert ov.compile_model(fitting, "CPU")(np.ones((1, 2), np.float32))[0].tolist() == [[np.float16(0.3), 2.0]]
    with pytest.raises(UserError, match=r"here: AWQ's x/awq_mul/scale does not fit in f16; calibrate with more audio"):
        compression._halve_awq_scales(model(0.3, 1e6), "here")


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


@pytest.mark.parametrize("mode", ["int8_sym", "int4_sym", "int4_asym"])
def test_a_model_that_quantizes_weights_is_compiled_once(small_fp32: Bundle, mode: str) -> None:
    """And no weight is overwritten by the next one that it quantizes."""
    from nncf.openvino.optimized_functions import models

    groups = {} if mode == "int8_sym" else {"group_size": 16, "all_layers": True}
    part = WeightCompression.model_validate({"mode": mode} | groups)
    made: list[list[bytes]] = []
    compiled: list[int] = []
    for context in (compression._compiled_once, nullcontext):
        with (
            patch.object(compression, "_compiled_once", context),
            patch.object(models, "_compile_ov_model", side_effect=models._compile_ov_model) as calls,
        ):
            model = compression.compress(ov.Core().read_model(small_fp32.graph_path("encoder")), part, "test")
        made.append([each.data.tobytes() for each in model.get_ops() if each.get_type_name() == "Constant"])
        compiled.append(calls.call_count)
    assert made[0] == made[1]
    assert 0 < compiled[0] < compiled[1] / 3


def test_gptq_multiplies_the_inputs_of_all_samples_at_once(
    small_fp32: Bundle, small_calibration: CalibrationData
) -> None:
    """And finds the same weights, but for rounding."""
    from nncf.quantization.algorithms.weight_compression import gptq

    options = {"mode": "int4_sym", "group_size": 16, "gptq": True, "ignored_scope": {"patterns": [FEED_FORWARD]}}
    part = WeightCompression.model_validate(options)
    samples = compression.Samples(small_calibration, "encoder")
    made: list[np.ndarray] = []
    multiplied: list[int] = []
    for context in (compression._hessians_at_once, nullcontext):
        with (
            patch.object(compression, "_hessians_at_once", context),
            patch.object(gptq, "math", Mock(wraps=math)) as calls,  # a square root a matrix product
        ):
            model = compression.compress(ov.Core().read_model(small_fp32.graph_path("encoder")), part, "test", samples)
        constants = [each for each in model.get_ops() if each.get_type_name() == "Constant"]
        packed = [each.data.ravel() for each in constants if each.get_element_type() == ov.Type.i4]
        made.append(np.concatenate(packed))
        multiplied.append(calls.sqrt.call_count)
    assert multiplied == [4, 8], "products, and products x samples"
    assert np.mean(made[0] == made[1]) > 0.999


def test_nodes_that_share_a_name_are_told_apart() -> None:
    """A nameless new node can be numbered like one that was read from a file."""
    model = tiny_graphs.encoder("rewritten")
    nodes = [node for node in model.get_ops() if node.get_type_name() == "Constant"][:2]
    for node in nodes:
        node.set_friendly_name("Constant_1")
    compression.compress(model, WeightCompression(mode="int8_sym"), "test")
    names = [node.get_friendly_name() for node in model.get_ops()]
    assert len(names) == len(set(names))


def test_longer_steps_are_promised_where_they_work(
    small_fp32: Bundle, small_calibration: CalibrationData, tmp_path: Path
) -> None:
    """NNCF gives activations before a convolution a scale for each frame of one chunk."""
    int8, w8a8 = (
        quantize_bundle(small_fp32, tmp_path / name, RECIPES[name], calibration=small_calibration)
        for name in ("int8", "w8a8")
    )
    assert (int8.metadata.longer_steps, w8a8.metadata.longer_steps) == (True, False)
    assert contract_problems(int8) == contract_problems(w8a8) == []
    claims = Bundle(w8a8.path, w8a8.metadata.model_copy(update={"longer_steps": True}))
    (problem,) = [each for each in contract_problems(claims) if "longer_steps" in each]
    assert "it takes no step of two chunks (" in problem
