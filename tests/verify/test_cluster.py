"""Shards on a Ray cluster of several processes: the tokens of one process, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import soundfile

from export.bundle import Bundle
from export.errors import NOT_DECIDED, NemotronOVError, UserError
from tests.helpers.command import ROOT, assert_user_error, run_here, run_process
from tests.helpers.tiny_bundle import speechlike, tiny_bundle
from verify import cluster, shards
from verify.cluster import Cluster, Expected, check_recordings, connected, cut_shards
from verify.data.identity import audio_sha256, utterance_sha256
from verify.data.manifest import Utterance, read_manifest
from verify.pipeline import compare_runs
from verify.report import Elsewhere, Report
from verify.runs import Run, record_bundle
from verify.runtimes.transcript import Transcript
from verify.shards import Build, Numbered

pytestmark = pytest.mark.xdist_group("ray")  # the cluster is started once


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster with processes of its own: a machine whose two CPUs are a worker each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Processes

    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a socket's path is short
    (folder / "ray").mkdir()
    options = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
    processes = Processes()
    try:
        with pytest.MonkeyPatch.context() as patch:  # else it writes its address to /tmp/ray, if that is there
            patch.setenv("RAY_TMPDIR", str(folder))
            processes.add_node(temp_dir=str(folder / "ray"), **options)
        yield processes.address
    finally:
        processes.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    lines = []
    for number in range(24):
        seconds = 0.6 + 0.1 * (number % 7)
        soundfile.write(folder / f"{number}.wav", speechlike(seconds, number), 16_000)
        language = ("en-US", "de-DE")[number % 2]
        lines.append({"audio_filepath": f"{number}.wav", "duration": seconds, "text": "a b", "target_lang": language})
    file = folder / "manifest.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def spoken(manifest: Path) -> list[Utterance]:
    return read_manifest(manifest)


def outputs(run: Run) -> list[tuple[list[int], list[int], str]]:
    return [(each.tokens, each.frames, each.text) for each in run.transcripts]


def of_workers(title: str) -> list[psutil.Process]:
    """Workers of our cluster that do this now."""
    return [each for each in psutil.Process().children(recursive=True) if each.name().startswith(title)]


class KillingOnce(Cluster):
    """Kills a worker in the middle of its shard, after the first shard has come."""

    killed = 0

    def transcribe(
        self, build: Build, utterances: Sequence[Numbered], seconds: Sequence[float]
    ) -> Generator[tuple[int, Transcript]]:
        for found in super().transcribe(build, utterances, seconds):
            deadline = time.monotonic() + 10
            while not self.killed and time.monotonic() < deadline:
                for worker in of_workers("ray::_transcribe"):
                    worker.kill()
                    self.killed += 1
            yield found


def test_workers_that_are_killed_cost_a_shard_and_no_utterance(
    address: str, small_fp32: Bundle, spoken: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SHARD_SECONDS", 1.5)
    monkeypatch.setattr(shards, "TIMED_SECONDS", 2.0)
    utterances = [each.model_copy(update={"target_lang": each.target_lang[:2]}) for each in spoken]
    with connected(address):
        machines = KillingOnce()
        run = record_bundle(small_fp32, utterances, runtime="streaming", cache=tmp_path, machines=machines)
    assert machines.killed
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"], "the same list as of a run here"
    here = record_bundle(small_fp32, utterances, runtime="streaming")
    assert outputs(run) == outputs(here)
    assert any(tokens for tokens, *_ in outputs(here))
    far = [each for each in run.transcripts if each.worker]
    assert 0 < len(far) < len(utterances)
    assert all(each.together and not each.timings.steps for each in far)

    report = compare_runs(run, here, utterances)
    near = [each for each in run.transcripts if not each.worker]
    assert report.speed.together is None
    assert report.speed.latency is not None
    assert report.speed.latency.chunks == sum(len(each.timings.steps) for each in near)
    assert report.speed.audio_seconds == pytest.approx(sum(each.audio_seconds for each in near))
    assert report.speed.wall_seconds == pytest.approx(sum(each.timings.wall for each in near))
    assert isinstance(report.speed.elsewhere, Elsewhere)
    assert list(report.speed.elsewhere.utterances.values()) == [len(far)]
    assert [row.target.seconds is None for row in report.rows] == [each.worker is not None for each in run.transcripts]
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").speed == report.speed


def test_workers_that_are_killed_again_and_again_are_an_error(
    address: str, small_fp32: Bundle, spoken: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SHARD_SECONDS", 1.5)
    monkeypatch.setattr(cluster, "RETRIES", 0)
    utterances = [each.model_copy(update={"target_lang": "de"}) for each in spoken]
    with connected(address), pytest.raises(NemotronOVError, match=r"wav and \d more were killed 1 times \(\w+\)"):
        record_bundle(small_fp32, utterances, runtime="streaming", machines=KillingOnce())


STARTED = """
import sys
from scripts.cli import main
from verify import cluster
cluster.SHARD_SECONDS = 1.0
main(sys.argv[1:])
"""


@pytest.mark.heavy
def test_a_driver_that_is_killed_goes_on_here_or_there(
    address: str, manifest: Path, spoken: list[Utterance], tmp_path: Path
) -> None:
    target, reference = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b")
    (manifest.parent / "bad.wav").write_text("no audio")
    bad = tmp_path / "bad.jsonl"
    lines = [json.dumps(json.loads(each.model_dump_json())) for each in spoken]
    lines.insert(5, json.dumps({"audio_filepath": str(manifest.parent / "bad.wav"), "duration": 1.0, "text": "a"}))
    bad.write_text("\n".join(lines) + "\n")
    cache, report = tmp_path / "cache", tmp_path / "report.json"
    command = ["verify", target.path, "--reference", reference.path, "--manifest", bad]
    command += ["--cache", cache, "--report", report, "--no-page", "--json"]
    arguments = [sys.executable, "-c", STARTED, *map(str, command), "--ray", address]
    with (tmp_path / "stderr").open("wb") as stderr:
        driver = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)
    unfinished: list[str] = []
    while len(unfinished) < len(spoken) - 8:  # those that are timed here come first, then shard after shard
        assert driver.poll() is None, (tmp_path / "stderr").read_text()
        time.sleep(0.002)
        unfinished = [line for each in cache.glob("*.jsonl") for line in each.read_text().splitlines() if line]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    (file,) = cache.glob("*.jsonl")
    names = [json.loads(line)["result"]["utterance"] for line in file.read_text().splitlines() if line]
    assert 0 < len(set(names)) == len(names) <= len(spoken)
    assert set(names) <= {utterance_sha256(each) for each in spoken}

    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    there = run_process(*command, "--ray", address)
    assert there.returncode == NOT_DECIDED, there.stderr
    assert f"{len(names)} transcripts of a run that was stopped are used" in there.stderr
    assert "bad.wav" in there.stderr
    assert json.loads(there.stdout)["unusable"], "and nothing else on stdout"
    rows = Report.load(report).rows
    command[command.index(cache)] = copy
    here = run_process(*command)
    assert here.returncode == NOT_DECIDED, here.stderr
    assert f"{len(names)} transcripts of a run that was stopped are used" in here.stderr
    alone = record_bundle(target, spoken)
    for found in (rows, Report.load(report).rows):
        assert [row.audio_filepath for row in found] == [str(each.audio_filepath) for each in spoken]
        assert [(row.target.tokens, row.target.frames, row.target.text) for row in found] == outputs(alone)


@pytest.mark.heavy
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="another view of the disk needs root")
def test_a_machine_that_lacks_a_recording_or_the_folder_is_named(
    address: str, manifest: Path, spoken: list[Utterance], tmp_path: Path
) -> None:
    """A second machine in a mount namespace of its own, where the recordings' folder is empty."""
    hidden = manifest.parent
    cases = [(tiny_bundle(tmp_path / "a"), spoken[0].audio_filepath), (tiny_bundle(hidden / "b"), hidden / "b")]
    start = (
        f"mount -t tmpfs none {hidden} && exec {sys.executable} -m ray.scripts.scripts start --address={address} "
        "--num-cpus=1 --object-store-memory=80000000 --disable-usage-stats --block"
    )
    with (tmp_path / "log").open("wb") as log:
        command = ["unshare", "--mount", "sh", "-c", start]
        node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        with connected(address) as machines:
            assert machines is not None
            while len(Cluster._nodes()) == 1:
                assert node.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
            for bundle, missing in cases:
                with pytest.raises(UserError) as refused:
                    list(machines.transcribe(Build(bundle, "generation1"), list(enumerate(spoken)), [1.0] * 24))
                line = str(refused.value)
                name = rf"--ray: machine \S+ \({re.escape(address.rpartition(':')[0])}\): "  # before any shard
                assert re.match(rf"{name}{re.escape(str(missing))}\S*: cannot be read there \(No such file", line), line
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # where it has ended by itself
            for each in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
                each.kill()
        node.wait()


def test_a_machine_must_have_what_this_one_has(tmp_path: Path, spoken: list[Utterance]) -> None:
    bundle = tiny_bundle(tmp_path / "folder")
    expected = Expected.of(bundle)
    expected.check()
    recording = spoken[0].audio_filepath
    check_recordings({recording: audio_sha256(recording)})
    with pytest.raises(UserError, match=r"0\.wav: is another file there"):
        check_recordings({recording: audio_sha256(spoken[1].audio_filepath)})
    with pytest.raises(UserError, match="has another processor, which differs in amx_int9"):
        replace(expected, flags=[*expected.flags, "amx_int9"]).check()
    with pytest.raises(UserError, match="has other code"):
        replace(expected, code="0" * 64).check()
    with pytest.raises(UserError, match=r"and 1\.0 is wanted"):
        replace(expected, versions={"openvino": "1.0"}).check()
    bundle.graph_path("joint").with_suffix(".bin").write_bytes(b"other")
    with pytest.raises(UserError, match=r"joint\.bin: is another file there"):
        expected.check()


def test_shards_are_alike_and_hold_all_in_order(spoken: list[Utterance]) -> None:
    numbered, seconds = list(enumerate(spoken)), [each.duration for each in spoken]
    for slots, count in ((1, 1), (5, 5), (24, 24), (99, 24)):
        parts = cut_shards(numbered, seconds, slots)
        assert [each for part in parts for each in part] == numbered
        assert len(parts) == count
        lengths = [sum(seconds[number] for number, _ in part) for part in parts]
        assert max(lengths) <= sum(seconds) / count + max(seconds)
    assert len(cut_shards(numbered, [150.0] * 24, 1)) == 12
    assert len(cut_shards(numbered[:4], [9000.0, 1.0, 1.0, 1.0], 2)[0]) == 1


@pytest.mark.parametrize(
    ("where", "says"), [("nonsense", "is no address"), ("h:99999", "is no address"), ("127.0.0.1:1", "nothing answers")]
)
def test_an_address_where_nothing_is(
    where: str, says: str, tmp_path: Path, manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    target, reference = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", seed=2)
    done = run_here(capfd, "verify", target.path, "--reference", reference.path, "--manifest", manifest, "--ray", where)
    assert_user_error(done, f"--ray {where}", says)


def test_without_ray_the_extra_is_named_before_anything_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    target, reference = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", seed=2)
    for arguments in (
        ["verify", target.path, "--reference", reference.path],
        ["sweep", target.path, "--output", tmp_path / "out"],
        ["regenerate", "demo", "--output", tmp_path / "out"],
    ):
        done = run_here(capfd, *arguments, "--ray", "local")
        assert_user_error(done, "ray is not installed; pip install 'nemotron-ov[ray]'")
    assert not (tmp_path / "out").exists()
