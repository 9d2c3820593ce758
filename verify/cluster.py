"""Shards on the machines of a Ray cluster: what is checked there first, what is sent, what comes back.

Ray distributes the shards, and gives one to another worker when its own is killed. Folders and recordings are not sent:
they lie under the same paths everywhere, and every machine is asked for their hashes.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.bundle import Bundle
from export.digest import code_sha256, file_facts
from export.errors import NemotronOVError, UserError
from export.host import machine, physical_cores
from export.progress import note, task
from export.removal import scratch_folder
from verify.data.identity import audio_sha256
from verify.runs import RUNTIME_CODE
from verify.runtimes.streaming import Recordings
from verify.runtimes.streaming.recordings import MOST_REQUESTS, Shape, shape_for
from verify.runtimes.transcript import Recognizer, Transcript
from verify.shards import Build, Numbered, transcribe_shard

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, which ends with the run."""

AUTO = "auto"
"""The cluster that runs on this machine already."""

SHARD_SECONDS = 300.0
"""Audio of a shard at most, a single longer recording aside: what a killed worker costs."""

RETRIES = 5
"""How often a shard is begun again after its worker was killed."""

CONNECT_SECONDS = 10.0
"""How long a cluster may take to answer; Ray itself would try for minutes."""

_WAIT_SECONDS = 60.0
_OBJECT_STORE_BYTES = 100 << 20  # of a local cluster; transcripts are small
_LONGEST_SOCKET = 107 - len("/session_2026-11-27_13-46-44_910686_1234567/sockets/plasma_store")
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning
}


@dataclass(frozen=True)
class Expected:
    """What a machine must have to give this machine's transcripts."""

    code: str
    versions: Mapping[str, str]
    flags: Sequence[str]
    files: Mapping[Path, str]  # SHA-256 of the folder's

    @classmethod
    def of(cls, bundle: Bundle) -> Expected:
        """What this machine has."""
        return cls(
            code_sha256(*RUNTIME_CODE),
            {name: version(name) for name in ("openvino", "nemotron-ov")},
            machine()["flags"],
            {bundle.path.resolve() / name: sha256 for name, sha256 in bundle.hashes.items()},
        )

    def check(self) -> None:
        """Compare with what this process has.

        Raises:
            UserError: the first difference.
        """
        for name, wanted in self.versions.items():
            if version(name) != wanted:
                raise UserError(f"has {name} {version(name)}, and {wanted} is wanted; install that there")
        if code_sha256(*RUNTIME_CODE) != self.code:
            raise UserError("has other code of nemotron-ov; install the same there")
        flags = machine()["flags"]
        if flags != self.flags:
            other = ", ".join(sorted(set(flags) ^ set(self.flags)))
            raise UserError(
                f"has another processor, which differs in {other}, so that tokens could differ; give the command on a "
                "machine of the same kind"
            )
        for path, sha256 in self.files.items():
            _same(path, sha256, lambda path: str(file_facts(path)["sha256"]))


def check_recordings(audio: Mapping[Path, str]) -> None:
    """Compare recordings with what this process sees of them.

    Args:
        audio: their SHA-256.

    Raises:
        UserError: the first that is missing or another file.
    """
    for path, sha256 in audio.items():
        _same(path, sha256, audio_sha256)


def _same(path: Path, sha256: str, hashed: Callable[[Path], str]) -> None:
    remedy = "share its folder under the same path with all machines"
    try:
        found = hashed(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read there ({error.strerror or error}); {remedy}") from error
    if found != sha256:
        raise UserError(f"{path}: is another file there; {remedy}")


@contextmanager
def connected(address: str | None) -> Iterator[Cluster | None]:
    """A cluster while the body runs; None without an address.

    Args:
        address: :data:`LOCAL`, :data:`AUTO`, a cluster's ``HOST:PORT``, or ``ray://HOST:PORT`` from outside of it.

    Raises:
        UserError: no cluster answers there, or one of other versions.
        ModuleNotFoundError: Ray is not installed.
    """
    if address is None:
        yield None
        return
    require_ray(address)
    import ray

    options: dict[str, Any] = {"address": address}
    with ExitStack() as stack:
        if address == LOCAL:
            options |= {"num_cpus": physical_cores(), "include_dashboard": False}
            options |= {"object_store_memory": _OBJECT_STORE_BYTES}
            folder = stack.enter_context(scratch_folder(Path(tempfile.gettempdir()) / "ray"))
            if len(os.fsencode(folder)) <= _LONGEST_SOCKET:  # else Ray takes /tmp/ray
                options |= {"_temp_dir": str(folder)}
        stack.callback(ray.shutdown)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # what Ray raises where a machine is too busy to start in 30 s, for example
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(
                f"--ray {address}: cannot be used ({reason}); give `{LOCAL}`, or the address of a running cluster"
            ) from error
        yield Cluster()


def require_ray(address: str) -> None:
    """Find out what can be known without joining a cluster.

    Args:
        address: as :func:`connected` takes it.

    Raises:
        UserError: it is no address, or nothing answers there.
        ModuleNotFoundError: Ray is not installed.
    """
    os.environ.update(_ENVIRONMENT)
    import ray  # noqa: F401

    if address in (LOCAL, AUTO):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or int(port) >= 1 << 16:
        raise UserError(f"--ray {address}: is no address; give local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--ray {address}: nothing answers there ({error.strerror or error}); start a cluster with `ray start`, or "
            f"give `{LOCAL}`"
        ) from error


@dataclass(frozen=True)
class _Node:
    id: str
    name: str
    cpus: int


@dataclass(frozen=True)
class _Done:
    """A shard's transcripts."""

    worker: str
    transcripts: Sequence[tuple[int, Transcript]]


class Cluster:
    """The cluster that :func:`connected` reached."""

    def transcribe(
        self, build: Build, utterances: Sequence[Numbered], seconds: Sequence[float]
    ) -> Generator[tuple[int, Transcript]]:
        """Transcripts by number, shard by shard; see :class:`verify.shards.Machines`.

        Each names its worker and has no times of chunks.

        Raises:
            UserError: a machine lacks the folder, a recording, our code or the processor; it is named.
            NemotronOVError: the workers of a shard were killed again and again.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        nodes = self._nodes()
        expected = Expected.of(build.bundle)
        audio = {utterance.audio_filepath: audio_sha256(utterance.audio_filepath) for _, utterance in utterances}
        self._check(nodes, expected, audio)
        cpus = min(build.threads or MOST_REQUESTS, MOST_REQUESTS, *(node.cpus for node in nodes))
        shards = cut_shards(utterances, seconds, sum(node.cpus // cpus for node in nodes))
        note(f"ray: {len(shards)} shards on {len(nodes)} machines, {cpus} CPUs each")
        shape = None
        if build.together:
            lengths, longer = seconds[: len(shards[0])], not build.nemo_start
            shape = shape_for(build.bundle.metadata, lengths, cpus, longer_steps=longer)
        work = ray.remote(_transcribe).options(num_cpus=cpus, max_retries=RETRIES)
        job = ray.put(_Job(os.urandom(8).hex(), replace(build, threads=cpus), shape, expected))
        waiting = {
            work.remote(job, shard, {each.audio_filepath: audio[each.audio_filepath] for _, each in shard}): shard
            for shard in shards
        }
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=_WAIT_SECONDS)
            if not ready:
                free = ray.available_resources().get("CPU", 0.0)
                note(f"ray: {len(waiting)} shards left, {free:g} CPUs free")
                continue
            shard = waiting.pop(ready[0])
            try:
                done = ray.get(ready[0])
            except RayTaskError:  # a bug
                raise
            except RayError as error:
                raise NemotronOVError(
                    f"--ray: the workers that had {shard[0][1].audio_filepath} and {len(shard) - 1} more were killed "
                    f"{RETRIES + 1} times ({type(error).__name__}), likely for lack of memory; with --cache the other "
                    "transcripts are kept"
                ) from error
            if isinstance(done, UserError):
                raise done
            if sorted(number for number, _ in done.transcripts) != sorted(number for number, _ in shard):
                raise AssertionError("a shard's transcripts are of other utterances")
            for number, transcript in done.transcripts:
                timings = replace(transcript.timings, steps=())
                yield number, replace(transcript, worker=done.worker, together=True, timings=timings)

    @staticmethod
    def _nodes() -> list[_Node]:
        import ray

        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not alive:
            raise UserError("--ray: the cluster has no machine with a CPU for us; start some with `ray start`")
        return [
            _Node(
                node["NodeID"],
                f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
                int(node["Resources"]["CPU"]),
            )
            for node in alive
        ]

    @staticmethod
    def _check(nodes: Sequence[_Node], expected: Expected, audio: Mapping[Path, str]) -> None:
        """Ask every machine for what it has, before anything is transcribed."""
        import ray
        from ray.exceptions import RayError, RayTaskError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = ray.put((expected, audio))
        check = ray.remote(_check)
        checks = [
            check.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                there
            )
            for node in nodes
        ]
        with task("ray: checking folders and recordings", total=len(checks)) as progress:
            for node, answer in zip(nodes, checks, strict=True):
                try:
                    problem = ray.get(answer)
                except RayError as error:
                    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                    missing = next((line for line in lines if "No module named" in line), "")
                    if isinstance(error, RayTaskError) and not missing:  # a bug
                        raise
                    if not missing:
                        raise NemotronOVError(
                            f"--ray: machine {node.name}: went while it was asked ({type(error).__name__}); run again"
                        ) from error
                    raise UserError(f"--ray: machine {node.name}: {missing}; install nemotron-ov there") from error
                if problem is not None:
                    raise UserError(f"--ray: machine {node.name}: {problem}")
                progress.advance()


def cut_shards(utterances: Sequence[Numbered], seconds: Sequence[float], slots: int) -> list[list[Numbered]]:
    """Utterances in order, in parts of about equal length.

    Args:
        utterances: what is cut.
        seconds: how long each of them is.
        slots: shards that can run at a time; each gets one at least, where there are so many utterances.
    """
    count = max(math.ceil(sum(seconds) / SHARD_SECONDS), min(slots, len(utterances)))
    shards: list[list[Numbered]] = [[]]
    begun, target = 0.0, sum(seconds) / count
    for index, (utterance, length) in enumerate(zip(utterances, seconds, strict=True)):
        left = len(utterances) - index
        if shards[-1] and (begun + length / 2 >= target * len(shards) or left <= count - len(shards)):
            shards.append([])
        shards[-1].append(utterance)
        begun += length
    return shards


# What follows runs on workers.


@dataclass(frozen=True)
class _Job:
    """What all shards of a build have in common."""

    name: str  # unique
    build: Build
    shape: Shape | None  # None: one after another
    expected: Expected


_OPENED: dict[str, Recognizer | Recordings] = {}
"""What this process has open: the last job's."""


def _check(wanted: tuple[Expected, Mapping[Path, str]]) -> str | None:
    expected, audio = wanted
    try:
        expected.check()
        check_recordings(audio)
    except UserError as error:
        return str(error)
    return None


def _transcribe(job: _Job, shard: Sequence[Numbered], audio: Mapping[Path, str]) -> _Done | UserError:
    """A shard's transcripts, or the text of an error; the files are compared again, for machines that came later."""
    name = socket.gethostname()
    try:
        recognizer = _opened(job)
        check_recordings(audio)
        rate, language = job.build.bundle.metadata.sample_rate, job.build.language
        return _Done(name, list(transcribe_shard(recognizer, shard, sample_rate=rate, language=language)))
    except NemotronOVError as error:
        return UserError(f"--ray: machine {name}: {error}")


def _opened(job: _Job) -> Recognizer | Recordings:
    if job.name not in _OPENED:
        job.expected.check()
        _OPENED.clear()
        gc.collect()  # before the graphs are compiled
        _OPENED[job.name] = job.build.open() if job.shape is None else job.build.open_together([], job.shape)
    return _OPENED[job.name]
