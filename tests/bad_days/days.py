"""The bad days: each is tried so many times, and every try is followed by the checks and a resume."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.digest import ROOT
from tests.bad_days import warm
from tests.bad_days.checks import Figures, Planted, differences, half_written, hashes, scratch, told
from tests.bad_days.warm import outlived, run, start

KILLS_PER_OUTPUT = 6
"""Times that one output's run is killed, at most, before a resume may end."""

LONGEST = 600.0
"""Seconds after which a resume counts as hanging."""


@dataclass
class Scene:
    """What the bad days happen to.

    Attributes:
        work: a folder of the harness's own.
        checkpoint: the smallest of the real class.
        manifest: what is transcribed.
        random: seeded.
    """

    work: Path
    checkpoint: Path
    manifest: Path
    random: random.Random
    number: int = 0
    until: float = math.inf  # of time.monotonic: no try begins later

    def enough(self, figures: Figures, count: int) -> bool:
        """Whether there were so many tries, or no time is left for another."""
        return figures.tried >= count or time.monotonic() > self.until

    def __post_init__(self) -> None:
        """Make the undisturbed outputs."""
        plain = run(self.work / "log-plain", *self.regenerate(self.undisturbed), temporary=self.fresh_tmp())
        self.status, self.seconds = plain.status or 0, plain.seconds
        assert self.status in (0, 3), plain.stderr  # random weights are not judged
        late = self.place() / "out"
        self.exported(late)
        self.late_seconds = run(late.with_name("log"), *self.regenerate(late), temporary=self.fresh_tmp()).seconds
        quantized = run(self.work / "log-int8", *self.quantize(self.small), temporary=self.fresh_tmp())
        self.quantize_seconds = quantized.seconds
        assert quantized.status == 0, quantized.stderr

    @property
    def undisturbed(self) -> Path:
        """Of ``regenerate``."""
        return self.work / "undisturbed" / "out"

    @property
    def small(self) -> Path:
        """Of ``quantize``."""
        return self.work / "undisturbed-int8"

    def regenerate(self, output: Path) -> list[object]:
        """The command: two folders, verified and measured."""
        audio = ["--manifest", self.manifest, "--nemo-limit", "1"]
        return ["regenerate", self.checkpoint, "--output", output, *audio, "--recipe", "fp16"]

    def quantize(self, folder: Path, *options: str) -> list[object]:
        """The command."""
        return ["quantize", self.undisturbed / "fp32", folder, "--recipe", "int8", *options]

    def exported(self, output: Path) -> None:
        """An output in which FP32 stands, as a run that was stopped after the export leaves it."""
        output.mkdir()
        shutil.copytree(self.undisturbed / "fp32", output / "fp32")
        state = json.loads((self.undisturbed / ".regenerate.json").read_text())
        (output / ".regenerate.json").write_text(json.dumps(state | {"finished": False}))

    def place(self) -> Path:
        """A new folder for one output and what lies beside it."""
        self.number += 1
        place = self.work / f"{self.number:04d}"
        place.mkdir(parents=True)
        return place

    def fresh_tmp(self) -> Path:
        """An empty TMPDIR."""
        self.number += 1
        folder = self.work / f"{self.number:04d}-t" / "tmp"
        folder.mkdir(parents=True)
        return folder


def killed_regenerate(scene: Scene, count: int) -> Figures:
    """``kill -9`` of ``regenerate`` or of the stage that works, as a user or the kernel would.

    The export takes most of the time, so five of six outputs begin with it done.
    """
    figures, outputs = Figures("kill -9, regenerate"), 0
    while not scene.enough(figures, count):
        place = scene.place()
        output, planted, tmp = place / "out", Planted(place / "out"), scene.fresh_tmp()
        outputs += 1
        late = outputs % 6 != 0
        if late:
            scene.exported(output)
        tries: list[tuple[str, list[str]]] = []
        while len(tries) < min(KILLS_PER_OUTPUT, count - figures.tried):
            moment = scene.random.uniform(0.0, scene.late_seconds if late else scene.seconds)
            whole = scene.random.random() < 0.5
            command = start(place / "log", *scene.regenerate(output), temporary=tmp)
            if not command.wait_until(moment):
                if tries:
                    tries[-1][1].extend(told(command, scene.status, lines=0))
                break
            stage, where = command.stage()
            victim = command.process if whole else stage
            command.send(signal.SIGKILL, victim)
            command.wait(LONGEST)
            problems = outlived()
            if victim != command.process and command.status != scene.status:  # it may just have ended by itself
                problems += told(command, 1, lines=1)
            planted.inside()
            problems += half_written(output) + planted.lost()
            tries.append(
                (where if victim != command.process or where == "between" else f"{where}, by its parent", problems)
            )
        resumed = run(place / "log", *scene.regenerate(output), temporary=tmp)
        after = told(resumed, scene.status, lines=0) + differences(output, scene.undisturbed) + planted.lost()
        after += half_written(output) + scratch(place, tmp, planted=planted)
        for index, (where, problems) in enumerate(tries):
            figures.count(where, problems + (after if index == len(tries) - 1 else []))
        _forget(place, tmp.parent)
    return figures


def killed_quantize(scene: Scene, count: int) -> Figures:
    """``kill -9`` of ``quantize``, half of the times of one that replaces a folder (``--force``)."""
    figures = Figures("kill -9, quantize")
    while not scene.enough(figures, count):
        place = scene.place()
        output, planted, tmp = place / "out", Planted(place / "out"), scene.fresh_tmp()
        replaced = scene.random.random() < 0.5
        if replaced:
            shutil.copytree(scene.undisturbed / "fp16", output)
        old = hashes(output) if replaced else None
        command = start(place / "log", *scene.quantize(output, *(["--force"] if replaced else [])), temporary=tmp)
        if command.wait_until(scene.random.uniform(0.0, scene.quantize_seconds)):
            where = command.doing()
            command.send(signal.SIGKILL)
            command.wait(LONGEST)
            problems = half_written(output) + planted.lost()
            kept = output if output.exists() else place / ".out.nemotron-ov.old"
            if replaced and (not kept.exists() or hashes(kept) not in (old, hashes(scene.small))):
                problems.append("the folder that was to be replaced is lost")
            resumed = run(place / "log", *scene.quantize(output, "--force"), temporary=tmp)
            problems += told(resumed, 0, lines=0) + planted.lost() + scratch(place, tmp, planted=planted)
            if hashes(output) != hashes(scene.small):
                problems.append("other hashes")
            figures.count(where, problems)
        _forget(place, tmp.parent)
    return figures


def interrupted(scene: Scene, count: int) -> Figures:
    """Ctrl-C at random moments: nothing half-written, no scratch, no traceback, and a resume that ends well."""
    figures = Figures("SIGINT")
    while not scene.enough(figures, count):
        place = scene.place()
        output, planted, tmp = place / "out", Planted(place / "out"), scene.fresh_tmp()
        is_long = scene.random.random() < 0.5
        arguments = scene.regenerate(output) if is_long else scene.quantize(output)
        command = start(place / "log", *arguments, temporary=tmp)
        if command.wait_until(scene.random.uniform(0.0, scene.seconds if is_long else scene.quantize_seconds)):
            where = f"regenerate, {command.stage()[1]}" if is_long else f"quantize, {command.doing()}"
            command.send(signal.SIGINT)
            command.wait(LONGEST)
            problems = outlived()
            ended = command.status == (scene.status if is_long else 0)  # it was over already
            problems += [] if ended else told(command, 130)
            planted.inside()
            problems += half_written(output) + planted.lost() + scratch(place, tmp, planted=planted)
            resumed = run(place / "log", *arguments, *([] if is_long else ["--force"]), temporary=tmp)
            problems += told(resumed, scene.status if is_long else 0, lines=0) + planted.lost()
            problems += differences(output, scene.undisturbed) if is_long else []
            if not is_long and hashes(output) != hashes(scene.small):
                problems.append("other hashes")
            figures.count(where, problems)
        _forget(place, tmp.parent)
    return figures


def two_at_once(scene: Scene, count: int) -> Figures:
    """Two processes on one output: one does it, the other says so or does it again; the result is one of theirs."""
    figures = Figures("two processes on one output")
    for _ in range(count):
        place = scene.place()
        output, planted, tmp = place / "out", Planted(place / "out"), scene.fresh_tmp()
        is_long = scene.random.random() < 0.4
        arguments = scene.regenerate(output) if is_long else scene.quantize(output)
        options = [] if is_long or scene.random.random() < 0.5 else ["--force"]
        if options:
            shutil.copytree(scene.undisturbed / "fp16", output)
        first = start(place / "log-1", *arguments, *options, temporary=tmp)
        span = scene.seconds if is_long else scene.random.choice([0.05, scene.quantize_seconds])
        first.wait_until(scene.random.uniform(0.0, span))
        second = start(place / "log-2", *arguments, *options, temporary=tmp)
        statuses = {first.wait(LONGEST).status, second.wait(LONGEST).status}
        problems = outlived()
        done = scene.status if is_long else 0
        for each in (first, second):
            problems += told(each, done, 2, lines=int(each.status == 2))
        if done not in statuses:
            problems.append("neither did it")
        if is_long:
            problems += differences(output, scene.undisturbed)
        elif hashes(output) != hashes(scene.small):
            problems.append("other hashes")
        problems += planted.lost() + half_written(output) + scratch(place, tmp, planted=planted)
        figures.count(f"{arguments[0]} {' '.join(options)}".strip(), problems)
        _forget(place, tmp.parent)
    return figures


@contextmanager
def _disk(scene: Scene, size: int) -> Iterator[Path]:
    """A disk of so many bytes: a tmpfs, which only root can mount."""
    place = scene.place()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)


def _no_check_of_room() -> None:
    """As where others fill the disk after the check."""
    import scripts.regenerate.plan

    scripts.regenerate.plan.require_room = lambda *_: None  # type: ignore[attr-defined]


def full_disk(scene: Scene, count: int) -> Figures:
    """A disk that is full at every write: sizes from nothing to just too little, spread evenly."""
    figures = Figures("full disk")
    kinds: list[tuple[str, int, int]] = [
        ("quantize", _size(scene.small), count // 2),
        ("regenerate, late", 400_000, count // 4),
    ]
    kinds.append(
        (
            "regenerate",
            _size(scene.undisturbed / "fp32") + _size(scene.undisturbed / "fp16"),
            count - count // 2 - count // 4,
        )
    )
    for kind, most, times in kinds:
        for index in range(times):
            size = int(most * (index + scene.random.random()) / times)
            with _disk(scene, 1 << 30) as place:
                output, planted, tmp = place / "out", Planted(place / "out"), scene.fresh_tmp()
                is_long = kind != "quantize"
                if kind == "regenerate, late":
                    _without_results(scene.undisturbed, output)
                    planted.inside()
                status = os.statvfs(place)
                _resize(place, (status.f_blocks - status.f_bfree) * status.f_frsize + size // 4096 * 4096)
                arguments = scene.regenerate(output) if is_long else scene.quantize(output)
                command = run(place.with_name(f"{place.name}-log"), *arguments, temporary=tmp, before=_no_check_of_room)
                problems = outlived()
                done = scene.status if is_long else 0
                if command.status != done:
                    problems += told(command, 2, lines=1)
                    problems += half_written(output) + planted.lost() + scratch(place, tmp, planted=planted)
                _resize(place, 1 << 30)
                if command.status != done:
                    resumed = run(place.with_name(f"{place.name}-log"), *arguments, temporary=tmp)
                    problems += told(resumed, done, lines=0)
                problems += differences(output, scene.undisturbed) if is_long else []
                if not is_long and (not output.exists() or hashes(output) != hashes(scene.small)):
                    problems.append("other hashes")
                problems += planted.lost()
                figures.count(kind if command.status != done else f"{kind}: was enough", problems)
    return figures


def full_tmpdir(scene: Scene, count: int) -> Figures:
    """A TMPDIR that is full when a compressed checkpoint is unpacked into it."""
    figures = Figures("full TMPDIR")
    packed = scene.work / "packed.nemo"
    packed.write_bytes(gzip.compress(scene.checkpoint.read_bytes(), 1))
    size = packed.stat().st_size
    for index in range(count):
        with _disk(scene, 4096 * (1 + int(size * index / count) // 4096)) as disk:
            place, tmp = scene.place(), disk / "tmp"
            tmp.mkdir()
            output, planted = place / "out", Planted(place / "out")
            arguments = [packed if each == scene.checkpoint else each for each in scene.regenerate(output)]
            command = run(place / "log", *arguments, temporary=tmp, before=_no_check_of_room)
            problems = told(command, 2, lines=1) + half_written(output) + planted.lost()
            figures.count("regenerate", problems + scratch(place, tmp, planted=planted))
    return figures


def read_only(scene: Scene, count: int) -> Figures:
    """An output on a disk that cannot be written: one line and nothing changed."""
    del count
    figures = Figures("read-only output")
    cases: dict[str, Callable[[Path], list[object]]] = {
        "regenerate": lambda place: scene.regenerate(place / "new"),
        "regenerate, repeated": lambda place: scene.regenerate(place / "out"),
        "export": lambda place: ["export", scene.checkpoint, place / "new"],
        "export --force": lambda place: ["export", scene.checkpoint, place / "out/fp32", "--force"],
        "quantize": lambda place: scene.quantize(place / "new"),
        "quantize --force": lambda place: scene.quantize(place / "out/fp16", "--force"),
        "transcribe --output": lambda place: [
            "transcribe", scene.small, scene.manifest.with_name("audio.wav"), "--output", place / "list.jsonl",
        ],
        "verify --report": lambda place: [
            "verify", scene.small, "--reference", place / "out/fp32", "--manifest", scene.manifest,
            "--report", place / "report.json",
        ],
        "verify --cache": lambda place: [
            "verify", scene.small, "--reference", place / "out/fp32", "--manifest", scene.manifest,
            "--cache", place / "cache",
        ],
    }  # fmt: skip
    with _disk(scene, 1 << 30) as place:
        shutil.copytree(scene.undisturbed, place / "out")
        planted, before = Planted(place / "out"), hashes(scene.undisturbed / "fp32")
        planted.inside()
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        for name, arguments in cases.items():
            tmp = scene.fresh_tmp()
            command = run(place.with_name(f"{place.name}-log"), *arguments(place), temporary=tmp)
            problems = told(command, 2, lines=1) + planted.lost() + half_written(place / "out")
            problems += scratch(tmp) + ([] if hashes(place / "out/fp32") == before else ["fp32/ was changed"])
            figures.count(name, problems)
    return figures


def flipped_bits(scene: Scene, count: int) -> Figures:
    """One bit of one file of a folder: ``inspect`` must find it and name the file."""
    figures = Figures("a flipped bit, found by inspect")
    place = scene.place()
    folder = place / "folder"
    shutil.copytree(scene.small, folder)
    files = sorted(folder.iterdir())
    for index in range(max(count, len(files))):
        file = files[index % len(files)]
        content = file.read_bytes()
        bit = scene.random.randrange(8 * len(content))
        injured = bytearray(content)
        injured[bit // 8] ^= 1 << bit % 8
        file.write_bytes(injured)
        command = run(place / "log", "inspect", folder, "--json")
        problems = ["a traceback"] if "Traceback" in command.stderr else []
        if command.status in (0, None) or file.name not in command.stdout + command.stderr:
            problems.append(f"bit {bit} of {file.name} is not found (exit status {command.status})")
        figures.count(file.name, problems)
        file.write_bytes(content)
    return figures


def _without_results(undisturbed: Path, output: Path) -> None:
    """A copy of an output whose folders stand and whose comparisons were not made."""
    shutil.copytree(undisturbed, output)
    for name in ("reports", ".stages"):
        shutil.rmtree(output / name)
    (output / "report.json").unlink()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _forget(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder)


DAYS: dict[str, tuple[Callable[[Scene, int], Figures], float]] = {
    "quantize": (killed_quantize, 1.0),
    "flips": (flipped_bits, 1.0),
    "read-only": (read_only, 1.0),
    "tmpdir": (full_tmpdir, 0.03),
    "disk": (full_disk, 0.3),
    "two": (two_at_once, 0.1),
    "interrupt": (interrupted, 0.2),
    "regenerate": (killed_regenerate, 1.0),
}
"""What happens, and how often for each kill."""


def make_scene(work: Path, seed: int) -> Scene:
    """Checkpoint and manifest."""
    import numpy as np
    import soundfile

    from tests.helpers.tiny_bundle import speechlike

    file = work / "one.nemo"
    if not file.exists():
        # Computes, which the parent of all forks must not. No fork, for libraries' threads hold locks.
        code = "import pathlib, sys; from tests.bad_days import days; days.write_checkpoint(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, file], cwd=ROOT, check=True)
    assert not outlived(0.0), "each child of the harness would count as a stage that outlives its parent"
    soundfile.write(work / "audio.wav", np.clip(speechlike(1.5, seed=3), -1, 1), 16000)
    line = {"audio_filepath": "audio.wav", "duration": 1.5, "text": "a", "target_lang": "en-US"}
    (work / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    return Scene(work, file, work / "manifest.jsonl", random.Random(seed))


def write_checkpoint(file: Path) -> None:
    """One layer."""
    from dataclasses import replace

    from scripts.checkpoints.random import checkpoint as maker

    small = maker.DIMENSIONS["small", "multilingual"]
    maker.DIMENSIONS["small", "multilingual"] = replace(small, layers=1)
    maker.write_random_checkpoint(file, "small")


def bad_days(
    work: Path, count: int, seed: int, names: list[str], say: Callable[[str], None], minutes: float = math.inf
) -> dict[str, Figures]:
    """Have them.

    Args:
        work: an empty folder, or one that an earlier call has used.
        count: kills of each command; other disasters in proportion, at least one of each.
        seed: of moments and places.
        names: which of :data:`DAYS`.
        say: told of every kind when it is over.
        minutes: after which no more is begun; fewer were then tried.
    """
    warm.warm_up()
    scene = make_scene(work, seed)
    scene.until = time.monotonic() + 60 * minutes
    late, quantized = f"without the export {scene.late_seconds:.1f} s", f"quantize {scene.quantize_seconds:.1f} s"
    say(f"undisturbed: regenerate {scene.seconds:.1f} s, {late}, {quantized}")
    found = {}
    for name in names:
        day, share = DAYS[name]
        begun = time.monotonic()
        figures = found[name] = day(scene, max(1, round(share * count)))
        many = f"{figures.tried} tried, {figures.tried - figures.failed} survived, {figures.failed} lost"
        say(f"{figures.title}: {many} ({time.monotonic() - begun:.0f} s)")
        say(f"    {', '.join(f'{where} {times}' for where, times in figures.where.most_common())}")
        for line in figures.lost:
            say(f"    lost: {line}")
    return found
