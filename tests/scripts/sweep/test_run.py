"""``sweep`` on real folders; what runs in processes of its own elsewhere runs in this one, but for one test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from export.bundle import Bundle, graph_file
from export.errors import UserError
from quantize.compression import compress
from quantize.effect import weights
from quantize.groups import find_groups, is_compressed, step_for
from quantize.pipeline import quantize_bundle
from quantize.recipes import RECIPES, get_recipe
from quantize.steps import IgnoredScope
from scripts.bench import rounds
from scripts.bench import worker as bench_worker
from scripts.page import charts
from scripts.processes import ChildError
from scripts.sweep import layers, probe, rank_layers, sweep, trial, worker
from scripts.sweep.options import Options
from scripts.sweep.task import Task
from tests.helpers.command import ROOT, run_here
from tests.helpers.fleurs import RECORDINGS, published_layout
from tests.helpers.pages import Parsed
from tests.helpers.tiny_bundle import tiny_bundle
from verify.data.audio import load_audio
from verify.data.manifest import read_manifest
from verify.runtimes.generation1 import Generation1
from verify.scoring.divergence import (
    diverge,
    encode,
    open_encoder,
    open_transducer,
    read_reference_paths,
    record_reference_paths,
)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every task in this process: the same work without the start of a process; a list of what was done."""
    done: list[str] = []

    def run(task: Task, *, stderr: str = "keep") -> dict[str, Any]:
        done.append(task.kind)
        try:
            return json.loads(json.dumps(worker.work(task)))  # type: ignore[no-any-return]
        except UserError as error:
            raise ChildError(str(error)) from error

    def measure(module: str, arguments: list[str], *, text: str) -> dict[str, Any]:
        done.append("measure")
        task = bench_worker.Task.model_validate_json(text).model_copy(update={"steps": 1})
        return bench_worker.measure(task).model_dump()

    for module in (trial, layers):
        monkeypatch.setattr(module, "run_task", run)
    monkeypatch.setattr(rounds, "run_module", measure)
    return done


def test_sweep_of_good_and_broken_recipes(
    small_fp32: Bundle, short_manifest: Path, tmp_path: Path, here: list[str]
) -> None:
    """A value that NNCF refuses, one that the recipe refuses, a loser; then all of it again for nothing."""
    broken = tmp_path / "broken.toml"
    table = (
        'name = "broken"\nversion = 1\ndescription = "a rule that matches nothing"\n'
        "tolerance = { exact_match = 0.0, wer_delta = 100.0 }\n"
        'preprocessor = { precision = "f32" }\ndecoder = {}\njoint = {}\n'
        '[encoder.compression]\nmode = "int8_sym"\nignored_scope = { patterns = [".*nowhere.*"] }\n'
    )
    broken.write_text(table)
    options = Options(
        small_fp32.path,
        tmp_path / "out",
        ("fp16", "int8", str(broken)),
        ("encoder.group_size=default,64",),
        short_manifest,
        repeats=1,
        threads=1,
    )
    report = sweep(options)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["fp32", "fp16", "int8@encoder.group_size=default"]
    assert "nowhere" in report["failed"]["broken@encoder.group_size=default"]
    assert "int8_sym" in report["failed"]["int8@encoder.group_size=64"]
    assert rows["fp32"]["mb"] > rows["fp16"]["mb"] > rows["int8@encoder.group_size=default"]["mb"]
    assert rows["fp16"]["exact_match"] == 1.0
    assert all(row["encoder_step_ms"] > 0 and row["step_ratio"] > 0 for row in report["rows"])
    assert report == json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    page = Parsed((tmp_path / "out" / "sweep.html").read_text())
    assert "nowhere" in page.text
    assert all(row["name"] in page.text for row in report["rows"])
    differing = [row for name in rows if name != "fp32"
                 for row in json.loads((tmp_path / "out" / rows[name]["report"]).read_text())["rows"]
                 if row["target"]["tokens"] != row["reference"]["tokens"]]  # fmt: skip
    assert {each["data-audio"] for each in page.all("article")} == {row["audio"] for row in differing}
    for row in report["rows"][1:]:
        assert bool(row["front"]) == (row["path"] is not None)
        if row["recipe_file"]:
            assert get_recipe(row["recipe_file"]).encoder == RECIPES["int8"].encoder
    assert any(row["recipe_file"] for row in report["rows"][1:])
    kept = [row["path"] for row in report["rows"][1:] if row["front"]]
    assert sorted(str(path) for path in (tmp_path / "out" / "folders").iterdir()) == sorted(kept)
    for path in kept:
        assert not Bundle.open(path).damaged_files()

    here.clear()
    again = sweep(Options(**vars(options) | {"recipes": ("int8", "fp16"), "grid": (), "keep": "all"}))
    assert {row["name"] for row in again["rows"]} == {"fp32", "fp16", "int8"}
    assert not again["failed"]
    assert set(here) <= {"quantize"}  # folders that had gone; all results are there
    assert not any(row["computed"] for row in again["rows"][1:])
    assert all(Bundle.open(row["path"]) for row in again["rows"])


def test_sweep_of_a_data_set(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the command line: its texts are scored, and another text of the same recordings is compared again."""
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(charts, "can_draw", lambda: False)  # which takes most of the time
    source = tiny_bundle(tmp_path / "fp32").path
    data, out = published_layout(tmp_path / "benchmark"), tmp_path / "out"
    arguments = ["sweep", source, "--output", out, "--data", f"{data}:en_us", "--recipe", "fp16"]
    arguments += ["--repeats", "1", "--threads", "1", "--keep", "all", "--json"]

    def swept() -> tuple[dict[str, Any], list[tuple[str, str]]]:
        here.clear()
        done = run_here(capfd, *arguments)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        compared = json.loads((out / report["rows"][1]["report"]).read_text())["rows"]
        return report, [(row["text"], row["language"]) for row in compared]

    report, spoken = swept()
    assert [row["name"] for row in report["rows"]] == ["fp32", "fp16"]
    assert (report["utterances"], report["text_scored"], report["failed"]) == (3, True, {})
    assert sorted(spoken) == sorted((each.text, "en-US") for each in RECORDINGS["en_us"])
    assert all(row["wer"] > 0 for row in report["rows"]), "noise is no speech"
    table = data / "en_us" / "en_us.trans.txt"
    table.write_text(table.read_text(encoding="utf-8").replace("second", "third"), encoding="utf-8")
    _, spoken = swept()
    assert ("third one", "en-US") in spoken
    assert here == ["verify", "verify"], "a folder and its speed depend on no text"


def test_killed_sweep_goes_on(small_fp32: Bundle, short_manifest: Path, tmp_path: Path) -> None:
    """kill -9 when the first folder is compared: no process outlives it, and what is stored is not computed again."""
    out = tmp_path / "out"
    arguments = ["sweep", small_fp32.path, "--output", out, "--manifest", short_manifest, "--recipe", "fp16"]
    arguments += ["--repeats", "1", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "scripts.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 300
    while len(list(out.glob(".results/verified-*"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "sweep.json").exists()
    before = {file.name: file.stat().st_ino for file in out.glob(".results/*.json")}
    stale = out / "folders" / ".fp16.abcdefgh.nemotron-ov.tmp"
    stale.mkdir()

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == ["fp32", "fp16"]
    after = {file.name: file.stat().st_ino for file in out.glob(".results/*.json")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert not stale.exists()
    assert not any(os.path.exists(f"/proc/{child}") for child in children)


def test_the_reference_path_is_the_clients_loops(small_fp32: Bundle, short_manifest: Path, tmp_path: Path) -> None:
    """The reference paths hold its tokens; FP32 does not diverge from itself, and a disturbed encoder does."""
    utterances = read_manifest(short_manifest)[:1]
    cells = record_reference_paths(small_fp32, utterances, tmp_path / "reference_paths")
    (reference_path,) = read_reference_paths(tmp_path / "reference_paths")
    recognizer = Generation1(small_fp32)
    transcript = recognizer.transcribe(load_audio(utterances[0].audio_filepath, 16000), utterances[0].target_lang)
    assert reference_path.tokens.tolist() == transcript.tokens
    assert len(reference_path.cells) == cells == transcript.timings.joint_calls
    encoded = encode(open_encoder(small_fp32, None), reference_path)
    transducer = open_transducer(small_fp32, None)
    same = diverge([reference_path], [encoded], transducer)
    assert same.kl < 1e-6
    assert (same.agreed_until, same.cells) == (1.0, cells)
    noise = np.random.default_rng(0).normal(0, 1, encoded.shape).astype(np.float32)
    disturbed = diverge([reference_path], [encoded + noise], transducer)
    assert disturbed.kl > 100 * abs(same.kl)
    assert disturbed.agreement < 1.0
    assert disturbed.agreed_until < 1.0


def test_layers_are_ranked_and_a_mixed_recipe_written(
    small_fp32: Bundle, short_manifest: Path, tmp_path: Path, here: list[str]
) -> None:
    out = tmp_path / "out"
    options = Options(small_fp32.path, out, ("int8",), manifest=short_manifest, limit=1, keep_worst=2, threads=1)
    report = rank_layers(options)
    names = [group.name for group in find_groups(small_fp32)]
    kinds = {"feed_forward1", "self_attn", "conv", "feed_forward2"}
    assert {f"layers.0.{kind}" for kind in kinds} | {"pre_encode", "prompt_kernel", "embedding", "joint"} <= set(names)
    assert not report["failed"]
    assert sorted(group["name"] for group in report["groups"]) == sorted(names)
    divergences = [group["kl"] for group in report["groups"]]
    assert divergences == sorted(divergences, reverse=True)
    assert all(group["compressed"] == 1.0 for group in report["groups"])
    assert divergences[0] > 2 * report["f16"]["kl"]
    assert report == json.loads((out / "layers.json").read_text())
    assert len(report["kept"]) == 2

    mixed = get_recipe(report["mixed_recipe"])
    folder = quantize_bundle(small_fp32, tmp_path / "mixed", mixed)
    whole = quantize_bundle(small_fp32, tmp_path / "int8", RECIPES["int8"])
    integers = [each.metadata.constants["encoder"]["i8"]["elements"] for each in (folder, whole)]
    assert integers[0] < integers[1]

    here.clear()
    assert rank_layers(options)["groups"] == report["groups"]
    assert not here


def test_what_a_recipe_leaves_out_of_a_group_is_a_group_of_its_own(small_fp32: Bundle) -> None:
    """Whatever kind of rule leaves it out: it is stored by the second compression already, and nobody can keep it."""
    int4 = RECIPES["int4"]
    first, second = int4.encoder.compression
    feed_forward = "layers.0.feed_forward1"
    products = next(group for group in find_groups(small_fp32) if group.name == feed_forward).operations
    assert len(products) == 2
    weight = next(
        found.name
        for found in weights(ov.Core().read_model(small_fp32.graph_path("encoder")))
        if found.operation == products[1]
    )
    for scope in (
        IgnoredScope(names=products[1:]),
        IgnoredScope(patterns=(re.escape(products[1]),)),
        IgnoredScope(patterns=(re.escape(weight),)),
    ):
        step = first.model_copy(update={"ignored_scope": scope})
        encoder = int4.encoder.model_copy(update={"compression": (step, second)})
        recipe = int4.model_copy(update={"encoder": encoder})
        found = {group.name: group for group in find_groups(small_fp32, recipe)}
        stored, left = found[feed_forward], found[f"{feed_forward}, left out"]
        assert (stored.operations, left.operations) == (products[:1], products[1:])
        assert is_compressed(stored, recipe, step)
        assert not is_compressed(left, recipe, step)
        assert products[1] in step_for(stored, list(found.values()), step).ignored_scope.names
    everything = first.model_copy(update={"ignored_scope": IgnoredScope(types=("MatMul",))})
    encoder = int4.encoder.model_copy(update={"compression": (everything, second)})
    recipe = int4.model_copy(update={"encoder": encoder})
    found = {group.name: group for group in find_groups(small_fp32, recipe)}
    assert found[feed_forward].operations == products
    assert not is_compressed(found[feed_forward], recipe, everything)
    by_name = {group.name: is_compressed(group, int4, first) for group in find_groups(small_fp32, int4)}
    last = max(name for name in by_name if name.startswith("layers.")).split(".")[1]
    assert {name for name, able in by_name.items() if able} == {
        name for name in by_name if name.startswith("layers.") and name.split(".")[1] != last
    }  # pre-encode, prompt kernel, embedding, joint and the last layer are in INT8


def test_a_group_alone_is_compressed_whole(small_fp32: Bundle) -> None:
    """Every product of it and nothing else, though the recipe has a ratio, or would leave the last layer to INT8."""
    core = ov.Core()
    groups = find_groups(small_fp32)
    plain = RECIPES["int4"].encoder.compression[0]
    mixed = plain.model_copy(update={"ratio": 0.8, "sensitivity_metric": "weight_quantization_error"})
    names = ["layers.0.feed_forward1", "layers.0.self_attn", "layers.0.conv", "prompt_kernel", "joint"]
    with probe._half_graphs(small_fp32) as half:
        for step in (mixed, plain.model_copy(update={"all_layers": None})):
            for group in (group for group in groups if group.name in names):
                model = core.read_model(half / graph_file(group.graph))
                compress(model, step_for(group, groups, step), group.name)
                found = [weight for weight in weights(model) if weight.operation_type == "MatMul"]
                own = [weight for weight in found if weight.operation in group.operations]
                assert own, group.name
                assert {weight.type for weight in own} == {"i4"}, group.name
                assert not any(weight.compressed for weight in found if weight not in own), group.name
