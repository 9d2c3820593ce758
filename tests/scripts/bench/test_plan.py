"""The parts of ``bench`` that need no measurement: what is chosen, how figures become ratios, how children end."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from rich.console import Console

from export.bundle import Bundle
from export.contract import Port
from export.digest import code_sha256
from export.errors import UserError
from quantize.recipes import RECIPES
from scripts.bench import builds, worker
from scripts.bench.encoders import mel_windows, time_steps
from scripts.bench.markdown import _line, markdown
from scripts.bench.plan import BASELINE, Options, make_plan
from scripts.bench.report import as_nemo, baseline_of, make_report, ratios, render, warnings
from scripts.bench.rounds import time_left
from scripts.processes import ChildError, run_module
from tests.helpers.command import ROOT, assert_user_error, run_here
from tests.helpers.tiny_bundle import speech, tiny_bundle
from verify.data.sets import DataSet


@pytest.fixture
def folder(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "here" / "int8")


def test_default_builds_are_the_published_ones_and_every_data_free_recipe() -> None:
    names = list(dict.fromkeys(build.shown for build in make_plan(Options()).builds))
    data_free = [name for name, recipe in RECIPES.items() if not recipe.needs_calibration]
    ours = [each for name in data_free for each in ((name,) if name in ("fp32", "fp16") else (name, f"{name}-kv"))]
    assert names == ["published-fp32", "published-fp16", "published-int8", *ours]


def test_published_builds_keep_the_published_loop() -> None:
    plan = make_plan(Options(builds=("published-int8", "int8", "onnxruntime-int8"), batch=4))
    assert [(build.name, build.shown, build.runtime, build.precision, build.batch) for build in plan.builds] == [
        ("published-int8", "published-int8", "generation1", "default", 1),
        ("int8, generation1, default", "int8", "generation1", "default", 1),
        ("int8, streaming, default", "int8", "streaming", "default", 4),
        ("onnxruntime-int8", "onnxruntime-int8", "generation1", "f32", 1),
    ]
    both = make_plan(
        Options(builds=("published-int8", "int8"), runtimes=("generation1",), precisions=("default", "f32"))
    )
    assert [(build.shown, build.runtime, build.precision, build.batch) for build in both.builds] == [
        (name, "generation1", precision, 1) for name in ("published-int8", "int8") for precision in ("default", "f32")
    ]


def test_a_minute_of_audio_is_transcribed_by_default() -> None:
    """The fewest utterances, from all over the manifest, that last a minute."""
    chosen = make_plan(Options(builds=("int8",))).utterances
    assert 60.0 <= sum(each.duration for each in chosen) < 75.0
    assert len({each.target_lang for each in chosen}) == 5
    assert len(make_plan(Options(builds=("int8",), limit=3)).utterances) == 3


def test_a_data_set_is_transcribed(folder: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings without a text: nothing is scored."""
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", speech(1.0), 16000)
    (chosen,) = make_plan(Options(folders=(folder.path,), data=DataSet(f"{tmp_path / 'audio'}:de-DE"))).utterances
    assert (chosen.audio_filepath.name, chosen.target_lang) == ("a.wav", "de-DE")


def test_shares_and_names_in_tables() -> None:
    """Less than all never reads as all, and a folder may be called what Markdown takes for a column."""
    assert [as_nemo({"same_tokens": share}) for share in (1.0, 164 / 165, None)] == ["100.0 %", "99.4 %", "–"]
    assert _line(("`a|b`", "c\nd")) == "| `a\\|b` | c d |"


def test_folders_of_one_name_are_told_apart(folder: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "there" / "int8")
    plan = make_plan(Options(folders=(folder.path, other.path), builds=("int8",), runtimes=("generation1",)))
    assert [build.name for build in plan.builds] == ["here/int8", "there/int8", "int8"]


def test_a_folder_that_cannot_stream_gets_the_loop_that_it_can(folder: Bundle) -> None:
    assert not folder.metadata.lead_mel_frames
    assert make_plan(Options(folders=(folder.path,))).builds[0].runtime == "generation1"
    for loop in ("streaming", "recordings"):
        with pytest.raises(UserError, match=f"{loop} loop; leave out --runtime, or use --runtime generation1"):
            make_plan(Options(folders=(folder.path,), runtimes=(loop,)))


def test_bad_input(folder: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each before anything is written or measured."""
    manifest, file = tmp_path / "broken.jsonl", tmp_path / "a-file"
    manifest.write_text('{"audio_filepath": ')
    file.touch()
    before = sorted(tmp_path.rglob("*"))
    work = ["--work", tmp_path / "work"]
    for arguments, mention in (
        ([tmp_path / "absent"], tmp_path / "absent"),
        ([folder.path, folder.path], "twice"),
        (["--build", "int9"], "published-fp32"),
        (["--build", "int8", "--json", file / "x.json"], file / "x.json"),
        (["--build", "int8", "--json", tmp_path], "is a folder"),
        (["--build", "int8", "--picture", tmp_path / "x.gif"], ".png"),
        (["--manifest", manifest], f"{manifest}, line 1"),
        (["--size", "full", "--checkpoint", "demo"], "give one of the two"),
        ([folder.path, "--checkpoint", "demo"], "--build"),
        (["--checkpoint", tmp_path / "absent.nemo"], tmp_path / "absent.nemo"),
        (["--build", "int8", "--work", file], file),
        (["--build", "published-int8", "--batch", 4], "--batch 4: is of the streaming loop, and the builds run in gen"),
        ([folder.path, "--batch", 2], "measure a build in the streaming loop"),
        (["--build", "int8", "--runtime", "recordings", "--batch", 2], "the builds run in recordings"),
    ):
        assert_user_error(run_here(capfd, "bench", *work, *arguments), mention)
    assert sorted(tmp_path.rglob("*")) == before


def test_too_small_a_disk_is_found_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    done = run_here(capfd, "bench", "--build", "int8", "--work", tmp_path / "work")
    assert_user_error(done, "GB")
    assert not (tmp_path / "work").exists()


def test_ratios_say_how_many_times_faster_and_what_share() -> None:
    baseline = {"encoder_step_ms": 200, "chunk_ms": 1120, "batch": 1, "pipeline_rtfx": 4.0}
    baseline |= {"peak_rss_mb": 6000.0, "folder_mb": 2500.0}
    build = {"encoder_step_ms": 50, "chunk_ms": 560, "batch": 1, "pipeline_rtfx": 10.0}
    build |= {"peak_rss_mb": 1500.0, "folder_mb": 500.0}
    assert ratios(build, baseline) == {"encoder_step": 2.0, "pipeline": 2.5, "peak_rss": 0.25, "folder": 0.2}
    assert ratios(build | {"batch": 4}, baseline)["encoder_step"] == 8.0
    assert set(ratios(baseline, baseline).values()) == {1.0}


def test_ratios_are_against_what_clients_run() -> None:
    """Whichever precision was given first."""
    pinned, default, other = (
        {"label": label, "asked_precision": precision}
        for label, precision in ((BASELINE, "f32"), (BASELINE, "default"), ("int8", "default"))
    )
    assert baseline_of({"o": other, "p": pinned, "d": default}) == "d"
    assert baseline_of({"o": other, "p": pinned}) == "p"
    assert baseline_of({"o": other}) == "o"
    assert baseline_of({}) is None


def measured_report(*failed: str) -> dict[str, Any]:
    """Of two builds at 30 ms a step, the second in a step of 4 streams; some failed."""
    plan = make_plan(Options(builds=(BASELINE, "int8"), runtimes=("streaming",), batch=4, limit=4))
    figures = {"load_s": 1.0, "pipeline_s": 2.0, "audio_s": 10.0, "encoder_step_ms": 30.0, "chunk_ms": 1120.0}
    one = worker.Measurement.model_validate(figures | {"peak_rss_mb": 100.0, "folder_mb": 5.0})
    names = [build.name for build in plan.builds]
    return make_report(
        plan,
        {name: Path(name) for name in names},
        {name: [one] for name in names if name not in failed},
        dict.fromkeys(failed, "could not be made"),
        0.0,
    )


def printed(report: dict[str, Any]) -> str:
    """What people see."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(*render(report))
    return captured.get()


def test_tables_say_what_a_chunk_of_a_stream_takes() -> None:
    report = measured_report()
    shown = printed(report)
    assert "chunk ms" in shown
    assert re.findall(r"([0-9.]+) \([0-9.]+–[0-9.]+\) +5 ", shown) == ["30", "7.5"]
    assert [line.split(" | ")[3] for line in markdown(report) if line.startswith("| `")] == ["30", "8"]


def test_tables_name_what_ratios_are_against() -> None:
    """Also where the baseline could not be measured."""
    for report, name in ((measured_report(), f"{BASELINE} (generation1, f32)"), (measured_report(BASELINE), "int8 (")):
        assert f"as fast as {name}" in printed(report)
        assert [line for line in markdown(report) if f"as fast as {name}" in line]
    nothing = markdown(measured_report(BASELINE, "int8"))
    assert nothing[-1] == "int8: could not be made"


def test_a_busy_machine_and_mixed_checkpoints_are_said() -> None:
    quiet = {"cores": 2, "load_average_before": 0.2, "other_cores": 0.05}
    one = {"others": [], "random": False}
    assert warnings({"machine": quiet, "checkpoint": one}) == []
    (busy,) = warnings({"machine": quiet | {"other_cores": 0.9}, "checkpoint": one})
    assert "0.9 cores" in busy
    (mixed,) = warnings({"machine": quiet, "checkpoint": one | {"others": [{"sha256": "x"}]}})
    assert "different checkpoints" in mixed


def test_time_left_counts_what_was_measured_and_guesses_the_rest() -> None:
    assert time_left({"a": [10.0], "b": []}, ["a", "b"], 2) == ", about 30 s left"
    assert time_left({"a": [100.0], "b": [50.0]}, ["a"], 3) == ", about 3 min left"
    assert not time_left({"a": [10.0, 9.0]}, ["a"], 2)


def test_windows_carry_what_the_step_before_saw() -> None:
    mel = np.arange(20, dtype=np.float32).reshape(1, 1, 20) + 1
    first, second = mel_windows(mel, 3, 8)
    assert first[0, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert second[0, 0].tolist() == [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    (short,) = mel_windows(mel[:, :, :5], 3, 8)
    assert short[0, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]


class CountingEncoder:
    """Adds one to its cache at each step, and takes as many seconds as the cache holds."""

    input_names = frozenset({"mel", "mel_length", "cache_len"})

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self.arrays: dict[str, Any] = {}

    def input(self, name: str, shape: Sequence[int]) -> Any:
        return self.arrays.setdefault(name, np.zeros(tuple(shape), np.float32))

    def output(self, name: str) -> Any:
        return self.arrays[name.removesuffix("_out")] + 1

    def run(self) -> None:
        self.seconds += float(self.arrays["cache_len"][0])


def test_timed_steps_run_on_the_caches_of_those_before() -> None:
    ports = [Port("mel", (1, 1, 4), "f32"), *(Port(name, (1,), "i32") for name in ("mel_length", "cache_len"))]
    encoder: Any = CountingEncoder()
    windows = [np.zeros((1, 1, 4), np.float32)]
    assert time_steps(encoder, ports, windows, 0, warm_up=3, steps=4) == [3.0, 4.0, 5.0, 6.0]
    assert encoder.arrays["mel_length"][0] == 4


def test_a_child_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ChildError) as failed:
        run_module("scripts.bench.worker", [], text="{}")
    assert "\n" not in str(failed.value)
    path = str(tmp_path / "absent")
    task = {"engine": "openvino", "runtime": "generation1", "path": path, "threads": 1, "utterances": []}
    with pytest.raises(ChildError, match="no such folder"):
        run_module("scripts.bench.worker", [], text=json.dumps(task))


def test_a_child_whose_mapped_file_is_made_shorter_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(bytes(8192))
    (tmp_path / "shortened.py").write_text(
        "import mmap, os, pathlib\n"
        "path = pathlib.Path(__file__).with_name('weights')\n"
        "with path.open('rb') as file:\n"
        "    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "os.truncate(path, 0)\n"
        "mapped[0]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        ChildError, match=r"^ended by SIGBUS, likely because a file that it had mapped was made shorter"
    ):
        run_module("shortened", [])


def test_absent_onnxruntime_names_the_remedy(folder: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    task = worker.Task(engine="onnxruntime", runtime="generation1", path=folder.path, threads=1, utterances=[])
    monkeypatch.setattr(sys, "stdin", type("Input", (), {"read": staticmethod(task.model_dump_json)}))
    with pytest.raises(SystemExit, match=r"onnxruntime is not installed; pip install 'nemotron-ov\[bench\]'"):
        worker.main()


def test_an_interrupt_leaves_no_child(tmp_path: Path) -> None:
    """The child waits for its input here, which an interrupt of its parent must end."""
    began = tmp_path / "began"
    (tmp_path / "sleeper.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(began)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores them
        "from scripts.processes import run_module; run_module('sleeper', [])"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (began.exists() and began.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = psutil.Process(int(began.read_text()))
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_key_knows_the_code_and_the_inputs() -> None:
    code = code_sha256("export/**/*.py")
    assert builds._key("a", code) == builds._key("a", code) != builds._key("b", code)
    assert code_sha256("quantize/**/*.py") != code_sha256("quantize/**/*.py", but="recipes.py") != code
    assert len(code) == 64


def test_a_kept_build_is_used_again_while_its_files_are_as_they_were(tmp_path: Path) -> None:
    """A damaged one would be measured: ONNX Runtime's and calibration sets carry no hashes of their own."""
    target, made = tmp_path / "onnxruntime-fp32", list[str]()
    demo = make_plan(Options(builds=("int8",), limit=1)).checkpoint
    assert demo is not None

    def keep(key: str) -> int:
        def make() -> None:
            made.append(key)
            target.mkdir(exist_ok=True)
            (target / "encoder.onnx").write_bytes(b"weights")

        assert builds._Maker(tmp_path, demo)._kept(target, key, make) == target
        return len(made)

    assert (keep("a"), keep("a"), keep("b"), keep("b")) == (1, 1, 2, 2)
    (target / "notes.txt").write_text("mine")
    assert keep("b") == 2
    (target / "encoder.onnx").write_bytes(b"weighty")
    assert (keep("b"), keep("b")) == (3, 3)
    (target / "encoder.onnx").unlink()
    assert keep("b") == 4


def test_only_our_own_leftovers_are_cleared_in_a_work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else ends in .tmp there is somebody's."""
    work = tmp_path / "work"
    ours = [work / ".x.abcdefgh.nemotron-ov.tmp", work / ("0" * 12) / ".int8.abcdefgh.nemotron-ov.tmp"]
    theirs = [work / ".notes.tmp", work / "mine" / ".thesis.tmp", work / "mine" / ".y.abcdefgh.nemotron-ov.tmp"]
    for folder in (*ours, *theirs):
        folder.mkdir(parents=True)
    monkeypatch.setattr(builds, "_check_disk", lambda _: None)
    plan = make_plan(Options(builds=("int8",), work=work, limit=1))
    with builds.claimed_work(plan):
        assert not any(folder.exists() for folder in ours)
    assert all(folder.exists() for folder in theirs)
