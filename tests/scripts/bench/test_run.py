"""``bench`` on real folders: what it measures, what it writes, and what happens when a build cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from export.bundle import Bundle, graph_file, write_metadata
from export.checkpoint import Checkpoint
from export.errors import NOT_DECIDED
from scripts.bench import onnx_export, worker
from scripts.bench.markdown import markdown
from tests.helpers.command import run_here
from tests.helpers.tiny_bundle import speech, tiny_bundle
from verify.data.manifest import default_manifest, read_manifest
from verify.runtimes.generation1 import Generation1
from verify.runtimes.transcript import Transcript


def test_folders_side_by_side_with_one_that_cannot_run(
    small_fp32: Bundle, small_nemo_fp32: Bundle, short_manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = tiny_bundle(tmp_path / "broken")
    broken = made.path
    (broken / graph_file("encoder")).write_text('<net name="empty" version="11"></net>')
    write_metadata(broken, made.metadata)  # so that it is as it was written
    out, picture = tmp_path / "out.json", tmp_path / "picture.png"
    arguments = [
        "--manifest",
        short_manifest,
        "--repeats",
        2,
        "--threads",
        1,
        "--precision",
        "f32",
        "--json",
        out,
        "--picture",
        picture,
    ]
    done = run_here(capfd, "bench", small_fp32.path, small_nemo_fp32.path, broken, *arguments)
    assert done.returncode == 1
    assert "broken could not be measured" in " ".join(done.stdout.split())
    report = json.loads(out.read_text())
    assert list(report["failed"]) == ["broken"]
    name = small_fp32.path.name
    as_clients, ours = (report["builds"][f"{name}, {loop}, f32"] for loop in ("generation1", "streaming"))
    published = report["builds"][small_nemo_fp32.path.name]
    assert [(row["label"], row["runtime"], row["precision"]) for row in (as_clients, ours, published)] == [
        (name, "generation1", "f32"),
        (name, "streaming", "f32"),
        (small_nemo_fp32.path.name, "generation1", "f32"),
    ]
    assert "generation1" in done.stdout
    assert ours["folder_mb"] == round(small_fp32.size_bytes / 1e6, 3)
    assert ours["threads_and_properties"]["INFERENCE_PRECISION_HINT"] == "f32"
    for row in (as_clients, ours, published):
        assert len(row["rounds"]) == 2
        for figure in ("pipeline_rtfx", "encoder_step_ms", "peak_rss_mb", "load_s"):
            assert 0 < row[f"{figure}_min"] <= row[figure] <= row[f"{figure}_max"]
        assert sum(part for part in row["seconds"].values() if part) <= row["pipeline_seconds"]
        assert 0 < row["anonymous_mb"] < row["peak_rss_mb_max"]
    assert report["baseline"] == f"{name}, generation1, f32"
    assert set(as_clients["ratios"].values()) == {1.0}
    assert as_clients["files"] == small_fp32.hashes
    assert report["checkpoint"]["sha256"] == small_fp32.metadata.checkpoint["sha256"]
    lines = markdown(report)
    assert f"| `{name}` | streaming | f32 | {ours['encoder_step_ms']:,.0f} |" in "\n".join(lines)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert lines[-1].startswith("broken: could not be measured")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


def test_a_recording_that_cannot_be_used_does_not_end_a_run(
    small_fp32: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also one whose duration the manifest leaves out."""
    manifest, file = tmp_path / "manifest.jsonl", tmp_path / "report.json"
    soundfile.write(tmp_path / "good.wav", speech(1.0), 16000)
    (tmp_path / "bad.wav").write_text("no audio")
    rows: list[dict[str, object]] = [
        {"audio_filepath": name, "target_lang": "en-US"} for name in ("good.wav", "bad.wav")
    ]
    rows.append(rows[1] | {"offset": 5.0, "duration": 2.0})
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["bench", small_fp32.path, "--manifest", manifest, "--repeats", "1", "--threads", "1"]
    done = run_here(capfd, *arguments, "--runtime", "generation1", "--json", file)
    assert done.returncode == NOT_DECIDED, done.stderr
    assert len([line for line in done.error_lines if "bad.wav" in line]) == 2
    report = json.loads(file.read_text())
    bad = str(tmp_path / "bad.wav")
    assert list(report["unusable"]) == [bad, f"{bad} from 5.0 s"]
    assert (report["audio"]["utterances"], report["failed"]) == (1, {})
    assert done.stdout.count("left out:") == 2
    assert all(line.startswith(f"Left out: {bad}: ") for line in markdown(report)[-2:])
    done = run_here(capfd, *arguments, "--batch", "2")
    assert done.returncode == 2, "one utterance is no batch"
    assert "only 1 utterances would be transcribed" in done.error_lines[-1]


def test_onnx_builds_give_the_published_folders_tokens(
    small_nemo_fp32: Bundle, short_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain export runs in the same loop to the same tokens, and INT8 weights are a fraction of its size."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    found: list[list[int]] = []
    transcribe = Generation1.transcribe

    def listening(self: Generation1, audio: object, language: str = "auto") -> Transcript:
        transcript = transcribe(self, audio, language)  # type: ignore[arg-type]
        found.append(transcript.tokens)
        return transcript

    monkeypatch.setattr(Generation1, "transcribe", listening)
    checkpoint = str(small_nemo_fp32.path.with_name("small.nemo"))
    onnx_export.export_encoder(checkpoint, small_nemo_fp32, tmp_path / "fp32")
    onnx_export.quantize_encoder(tmp_path / "fp32", tmp_path / "int8", "int8")
    utterances = read_manifest(short_manifest)

    def measured(engine: str, path: Path) -> worker.Measurement:
        task = {
            "engine": engine,
            "runtime": "generation1",
            "path": path,
            "threads": 1,
            "utterances": utterances,
            "steps": 2,
        }
        return worker.measure(worker.Task.model_validate(task))

    published = measured("openvino", small_nemo_fp32.path)
    wanted, found[:] = list(found), []
    fp32 = measured("onnxruntime", tmp_path / "fp32")
    assert found == wanted
    assert (fp32.tokens, fp32.calls) == (published.tokens, published.calls)
    int8 = measured("onnxruntime", tmp_path / "int8")
    assert int8.encoder_mb
    assert fp32.encoder_mb
    assert int8.encoder_mb < fp32.encoder_mb
    pytest.importorskip("onnx_ir")
    onnx_export.quantize_encoder(tmp_path / "fp32", tmp_path / "int4", "int4")
    graph = onnx.load(tmp_path / "int4" / onnx_export.ENCODER, load_external_data=False).graph
    packed = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert packed
    settings = ({each.name: each.i for each in node.attribute} for node in packed)
    assert all((each["bits"], each["block_size"], each["accuracy_level"]) == (4, 32, 4) for each in settings)
    int4 = measured("onnxruntime", tmp_path / "int4")
    assert int4.encoder_mb
    assert int4.encoder_mb < fp32.encoder_mb
    assert len(int4.utterance_tokens) == len(utterances)


def test_a_batch_shares_its_steps(small_fp32: Bundle) -> None:
    """It is no measure of batches where the streams run one after another in a step for many."""
    utterances = sorted(read_manifest(default_manifest()), key=lambda each: each.duration)[:3]

    def measured(batch: int) -> worker.Measurement:
        task = worker.Task(
            engine="openvino", runtime="streaming", path=small_fp32.path, threads=1, utterances=utterances, batch=batch,
            steps=2,
        )  # fmt: skip
        return worker.measure(task)

    one, three = measured(1), measured(3)
    assert (three.tokens, three.audio_s) == (one.tokens, one.audio_s)
    assert three.calls["encoder"] < one.calls["encoder"] / 2


def test_recordings_together_have_the_tokens_of_one_after_another(small_fp32: Bundle) -> None:
    utterances = sorted(read_manifest(default_manifest()), key=lambda each: each.duration)[:5]
    found = [
        worker.measure(
            worker.Task(
                engine="openvino", runtime=loop, path=small_fp32.path, threads=2, utterances=utterances, steps=2
            )
        )
        for loop in ("streaming", "recordings")
    ]
    one, together = found
    assert (together.tokens, together.calls["encoder"]) == (one.tokens, one.calls["encoder"])
    assert together.audio_s == pytest.approx(one.audio_s)
    assert (together.config["batch"], together.config["requests"], together.config["NUM_STREAMS"]) == (3, 2, "2")
    assert together.seconds["encoder"] is not None
    assert 0.0 < together.seconds["encoder"] < together.pipeline_s, "shares of what both requests took"


def test_recordings_in_longer_steps_are_timed_by_the_chunk_as_streams_are(small_80ms_fp32: Bundle) -> None:
    utterances = sorted(read_manifest(default_manifest()), key=lambda each: each.duration)[:2]
    task = worker.Task(
        engine="openvino", runtime="recordings", path=small_80ms_fp32.path, threads=1, utterances=utterances, steps=2
    )
    one, together = (worker.measure(task.model_copy(update={"runtime": loop})) for loop in ("streaming", "recordings"))
    assert together.config["chunks"] == 14
    assert together.chunk_ms == one.chunk_ms == 80.0
    spent, chunks = together.seconds["encoder"], 14 * together.calls["encoder"]
    assert spent is not None
    assert together.encoder_step_ms * chunks == pytest.approx(1000 * spent)
    assert one.calls["encoder"] <= chunks < one.calls["encoder"] + 14 * len(utterances), "the last step's count whole"


def test_audio_that_cannot_be_used_is_found_first(
    small_fp32: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "bad.wav", np.array([0.1, np.nan], np.float32), 16_000, subtype="FLOAT")
    manifest = tmp_path / "bad.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "bad.wav", "duration": 0.0, "text": "x"}) + "\n")
    done = run_here(capfd, "bench", small_fp32.path, "--manifest", manifest)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bad.wav: holds samples that are not finite" in done.stderr
    assert "round" not in done.stderr


def test_a_batch_of_more_than_all_is_refused(small_fp32: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_here(capfd, "bench", small_fp32.path, "--limit", 4, "--batch", 8)
    assert done.returncode == 2
    assert "--batch 8: only 4 utterances would be transcribed; raise --limit" in done.stderr


def test_every_loop_has_as_many_tokens_as_are_asked_for(small_fp32: Bundle, small_nemo_fp32: Bundle) -> None:
    """Random weights emit by chance; what is recognized would be another number in each."""
    utterances = sorted(read_manifest(default_manifest()), key=lambda each: each.duration)[:3]
    loops = [(small_nemo_fp32, "generation1"), (small_fp32, "generation1"), (small_fp32, "streaming")]
    found = [
        worker.measure(
            worker.Task(
                engine="openvino",
                runtime=loop,
                path=bundle.path,
                threads=1,
                utterances=utterances,
                steps=2,
                tokens_per_second=2.5,
            )
        )
        for bundle, loop in loops
    ]
    frames = found[0].calls["encoder"] * 14
    assert found[0].tokens == found[1].tokens == pytest.approx(frames / 5, abs=1), "one at every fifth frame of 80 ms"
    assert found[0].calls["joint"] == found[1].calls["joint"] == frames + found[0].tokens
    assert found[2].tokens == pytest.approx(2.5 * found[2].audio_s, abs=2)


def test_transformers_builds_give_the_same_tokens_in_both_precisions(demo_checkpoint: Checkpoint) -> None:
    pytest.importorskip("transformers")
    utterances = sorted(read_manifest(default_manifest()), key=lambda each: each.duration)[:1]

    def measured(dtype: str) -> worker.Measurement:
        task = {
            "engine": "transformers", "runtime": "transformers-streaming", "path": demo_checkpoint.path, "threads": 1,
            "utterances": utterances, "steps": 2, "dtype": dtype, "lookahead": 13,
        }  # fmt: skip
        return worker.measure(worker.Task.model_validate(task))

    exact, half = measured("fp32"), measured("bf16")
    assert (exact.precision, half.precision) == ("f32", "bf16")
    assert exact.utterance_tokens == half.utterance_tokens
    assert all(exact.utterance_tokens)
    assert exact.chunk_ms == half.chunk_ms == 1120.0
    assert 0 < exact.encoder_step_ms < 1000 * exact.pipeline_s
