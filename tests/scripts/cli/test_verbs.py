"""The verbs on good input: what they print, to people and to scripts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import soundfile
from openvino import opset13

from export.bundle import Bundle, graph_file, write_metadata
from export.checkpoint import Checkpoint
from export.errors import NOT_DECIDED
from quantize.recipes import RECIPES
from tests.helpers.command import ROOT, assert_user_error, run_here, run_process
from verify.data.manifest import default_manifest, read_manifest


def one_object(stdout: str) -> dict[str, Any]:
    """The only thing on stdout."""
    found = json.loads(stdout)
    assert isinstance(found, dict)
    assert stdout.count("\n") == 1
    return found


def test_recipes(capfd: pytest.CaptureFixture[str]) -> None:
    listed = one_object(run_here(capfd, "recipes", "--json").stdout)["recipes"]
    assert [recipe["name"] for recipe in listed] == list(RECIPES)
    table = run_here(capfd, "recipes")
    assert table.returncode == 0
    assert all(name in table.stdout for name in RECIPES)


def test_export_prints_only_its_object(
    small_checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """NeMo, torch and OpenVINO are chatty; none of it may reach stdout: ``regenerate`` reads it, import and all."""
    done = run_here(capfd, "export", small_checkpoint.path, tmp_path / "out", "--lookahead", "13", "--json")
    assert done.returncode == 0, done.stderr
    result = one_object(done.stdout)
    assert result["att_context_size"] == [56, 13]
    assert Bundle.open(tmp_path / "out").size_bytes == result["bytes"]


def test_streaming_runtime_gives_nemos_tokens(
    small_checkpoint: Checkpoint, small_r13_fp32: Bundle, small_nemo_fp32: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    def verified(folder: Path, runtime: str) -> dict[str, Any]:
        arguments = ["--limit", "6", "--ignore-text", "--runtime", runtime, "--json"]
        return one_object(run_here(capfd, "verify", folder, "--reference", small_checkpoint.path, *arguments).stdout)

    streaming = verified(small_r13_fp32.path, "streaming")
    assert (streaming["exact_match"], streaming["passed"]) == (1.0, None), "six utterances decide no more"
    plain = verified(small_nemo_fp32.path, "generation1")
    assert plain["exact_match"] < 1.0, "the clients' loop begins otherwise than NeMo, which its own graph does not mend"


def test_transcribe_with_either_runtime(small_fp32: Bundle, short_manifest: Path) -> None:
    audio = [utterance.audio_filepath for utterance in read_manifest(short_manifest)]
    for runtime in ("generation1", "streaming"):
        done = run_process("transcribe", small_fp32.path, *audio, "--runtime", runtime, "--json")
        assert done.returncode == 0, done.stderr
        assert len(one_object(done.stdout)["transcripts"]) == len(audio)


def test_transcribe_compares_sizes_and_on_request_hashes(
    small_fp32: Bundle, short_manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(small_fp32.path, folder)
    audio, weights = read_manifest(short_manifest)[0].audio_filepath, folder / "nemotron_joint.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run_here(capfd, "transcribe", folder, audio).returncode == 0
    assert_user_error(run_here(capfd, "transcribe", folder, audio, "--check"), "nemotron_joint.bin", "regenerate")
    weights.write_bytes(content[:-1])
    assert_user_error(run_here(capfd, "transcribe", folder, audio), "nemotron_joint.bin", "regenerate")


def test_transcribe_flushes_unless_told_otherwise(
    demo_fp32: Bundle, short_manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A recording that ends with its last sound keeps its last word only with the silence that follows a flush."""
    samples, rate = soundfile.read(read_manifest(short_manifest)[0].audio_filepath)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, samples[: loud[-1] + 1], rate)
    results = [
        one_object(run_here(capfd, "transcribe", demo_fp32.path, cut, *arguments, "--json").stdout)
        for arguments in ([], ["--no-flush"])
    ]
    assert [result["runtime"] for result in results] == ["streaming", "streaming"]
    flushed, bare = (result["transcripts"][0]["tokens"] for result in results)
    assert flushed[: len(bare)] == bare
    assert len(flushed) > len(bare)


def test_quantize_prints_only_its_object(small_fp32: Bundle, tmp_path: Path) -> None:
    done = run_process("quantize", small_fp32.path, tmp_path / "out", "--recipe", "int8", "--json")
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["recipe"] == "int8"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_inspect(small_fp32: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_here(capfd, "inspect", small_fp32.path, "--json")
    assert done.returncode == 0
    assert one_object(done.stdout)["metadata"]["att_context_size"] == [56, 0]
    assert "rewritten" in run_here(capfd, "inspect", small_fp32.path).stdout

    damaged = tmp_path / "damaged"
    shutil.copytree(small_fp32.path, damaged)
    with (damaged / "nemotron_joint.bin").open("ab") as file:
        file.write(b"\0")
    done = run_here(capfd, "inspect", damaged, "--json")
    assert done.returncode == 1
    assert "nemotron_joint.bin" in one_object(done.stdout)["problems"][0]


def test_transcribe(demo_int8: Bundle, short_manifest: Path, capfd: pytest.CaptureFixture[str]) -> None:
    audio = [utterance.audio_filepath for utterance in read_manifest(short_manifest)]
    result = one_object(run_here(capfd, "transcribe", demo_int8.path, *audio, "--json").stdout)
    assert [row["audio"] for row in result["transcripts"]] == [str(path) for path in audio]
    assert all(row["text"] for row in result["transcripts"])
    assert result["speed"]["together"]["rtfx"] > 0
    assert result["peak_rss_mb"] > 0
    texts = run_here(capfd, "transcribe", demo_int8.path, *audio).stdout
    assert all(row["text"] in texts for row in result["transcripts"])


@pytest.mark.xdist_group("demo runs")  # both folders are transcribed once for all tests of the whole set
def test_verify_json_has_what_scripts_read(
    demo_fp32: Bundle, demo_fp16: Bundle, shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    arguments = ["verify", demo_fp16.path, "--reference", demo_fp32.path]
    done = run_here(capfd, *arguments, "--cache", shared / "runs", "--report", report, "--json")
    assert done.returncode == 0, done.stderr
    result = one_object(done.stdout)
    assert result.keys() >= {"exact_match", "wer", "wer_delta", "utterances", "passed"}
    count = len(read_manifest(default_manifest()))
    assert (result["exact_match"], result["utterances"], result["passed"]) == (1.0, count, True)
    assert len(json.loads(report.read_text())["rows"]) == count
    little = run_here(capfd, *arguments, "--limit", "1")
    assert little.returncode == NOT_DECIDED
    assert "NOT DECIDED; exact_match 1.0000 may be below the limit 1: 59 different sentences" in little.stdout


def test_limits_are_those_of_the_recipe_that_is_named(
    demo_fp32: Bundle, demo_fp16: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["verify", demo_fp16.path, "--reference", demo_fp32.path, "--limit", "2", "--limits"]
    result = one_object(run_here(capfd, *arguments, "int4", "--json").stdout)
    assert (result["limits_of"], result["limits"]["exact_match"]) == ("recipe int4", 0.5)
    assert_user_error(run_here(capfd, *arguments, "nosuch"), "--limits nosuch: no such recipe; choose one of fp32")


def test_limit_spreads_over_the_manifest(
    demo_fp32: Bundle, demo_fp16: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run_here(capfd, "verify", demo_fp16.path, "--reference", demo_fp32.path, "--limit", "5", "--json")
    result = one_object(done.stdout)
    assert result["utterances"] == 5
    assert len(result["per_language"]) >= 3


def test_int8_with_broken_scales_fails(
    demo_fp32: Bundle, demo_int8: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(demo_int8.path, broken)
    assert break_scales(broken) > 0
    done = run_here(capfd, "verify", broken, "--reference", demo_fp32.path, "--limit", "8", "--json")
    result = one_object(done.stdout)
    assert done.returncode == 1
    assert not result["passed"]
    assert result["reasons"]


def break_scales(folder: Path) -> int:
    """Make every third per-channel scale of the encoder's INT8 weights four times too large; how many constants."""
    path = folder / graph_file("encoder")
    model = ov.Core().read_model(path)
    broken = 0
    for node in model.get_ops():
        weights = [source.get_node() for source in (value.get_source_output() for value in node.inputs())]
        if node.get_type_name() != "Multiply" or not any(is_int8(weight) for weight in weights):
            continue
        scale = next(weight for weight in weights if weight.get_type_name() == "Constant")
        data = scale.get_data().copy()
        data.reshape(-1)[::3] *= 4
        index = weights.index(scale)
        node.input(index).replace_source_output(opset13.constant(data).output(0))
        broken += 1
    model.validate_nodes_and_infer_types()
    ov.save_model(model, path.with_name("broken.xml"), compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        path.with_name("broken.xml").with_suffix(suffix).replace(path.with_suffix(suffix))
    write_metadata(folder, Bundle.open(folder).metadata)
    return broken


def is_int8(node: Any) -> bool:
    """Whether a node is an INT8 constant converted to float."""
    return node.get_type_name() == "Convert" and node.input(0).get_element_type().to_dtype() in (np.int8, np.uint8)


def test_interrupt_exits_with_130(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", "export", str(small_checkpoint.path), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A test run in the background of a script inherits an ignored interrupt, which Python would keep ignoring.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads here
    )
    assert process.stderr
    while "restoring" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert not out
    assert not any(tmp_path.iterdir())


def test_the_version_alone(capfd: pytest.CaptureFixture[str]) -> None:
    done = run_here(capfd, "--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, version("nemotron-ov"), "")
