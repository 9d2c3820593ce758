"""Train the demo checkpoint: resumable, planned on the clock, on two CPU cores.

Run it as ``python -m scripts.checkpoints.demo.train`` or call :func:`train_demo_checkpoint`. One process makes
the training audio, shard after shard, while two others, with a thread each, train on the shards that exist; they
share their gradients after every step, which suits a busy machine better than two threads in one process.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from export.errors import UserError
from export.json_files import read_json_as
from export.progress import console
from scripts.checkpoints.demo.features import CURRICULUM_SHARDS, shard_path, write_shards
from scripts.checkpoints.demo.model import train_tokenizer
from scripts.checkpoints.demo.speech import require_synthesizer

DEFAULT_MINUTES = 90.0
DEFAULT_SHARDS = 8
DEFAULT_WORKERS = 2
SHARD_BYTES = 250_000_000
CURRICULUM_STEPS = 2500  # after which the shards of short sentences are left out


class _Settings(BaseModel):
    """What a work folder was begun with."""

    seed: int


def train_demo_checkpoint(
    output: Path,
    work_dir: Path,
    seed: int = 1,
    minutes: float = DEFAULT_MINUTES,
    *,
    shards: int = DEFAULT_SHARDS,
    workers: int = DEFAULT_WORKERS,
) -> Path:
    """Train the demo checkpoint and write it to `output`.

    Args:
        output: the ``.nemo`` file; replaced atomically, from the first minutes on and again every few minutes.
        work_dir: training audio and state. A run that was cut off goes on from there when called again.
        seed: of sentences, voices, initial weights and order; one work folder belongs to one seed.
        minutes: clock time in all, the time before an interruption included.
        shards: portions of 1,500 recordings to synthesize.
        workers: training processes of one thread each.

    Raises:
        UserError: bad values, no synthesizer, no room, or a work folder in use or of another seed.
    """
    _check(output, minutes, shards, workers)
    require_synthesizer()
    work_dir.mkdir(parents=True, exist_ok=True)
    with _locked(work_dir):
        _claim(work_dir, seed, shards)
        if not (work_dir / "tokenizer" / "vocab.txt").exists():
            console.print("training the tokenizer", soft_wrap=True)
            train_tokenizer(work_dir / "tokenizer", seed)
        producer = start_producer(work_dir, shards, seed)
        try:
            wait_for_shard(work_dir, 0, producer)
            _train(output, work_dir, seed, minutes, workers, producer)
        finally:
            producer.terminate()
            producer.join()
    return output


def _check(output: Path, minutes: float, shards: int, workers: int) -> None:
    """Refuse values that cannot work, before anything is written."""
    if output.suffix != ".nemo":
        raise UserError(f"{output}: a checkpoint's name must end in .nemo: choose another one")
    if output.is_dir():
        raise UserError(f"{output}: is a folder: choose a file name")
    for name, value in (("minutes", minutes), ("shards", shards), ("workers", workers)):
        if value <= 0:
            raise UserError(f"{name} {value:g}: must be more than zero")


@contextmanager
def _locked(work_dir: Path) -> Iterator[None]:
    """Hold the work folder against a second run."""
    with (work_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{work_dir}: another training uses this folder: wait for it or choose another one"
            ) from None
        yield


def _claim(work_dir: Path, seed: int, shards: int) -> None:
    """Remember the seed of a work folder, and see that the shards fit on the disk."""
    settings = work_dir / "settings.json"
    if settings.exists():
        known = read_json_as(_Settings, settings, "choose another folder").seed
        if known != seed:
            raise UserError(f"{work_dir}: belongs to seed {known}, not {seed}: choose another folder or that seed")
    missing = sum(not shard_path(work_dir / "shards", number).exists() for number in range(shards))
    free = shutil.disk_usage(work_dir).free
    if missing * SHARD_BYTES > free:
        raise UserError(
            f"{work_dir}: {missing} shards need {missing * SHARD_BYTES / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free: free some room or ask for fewer shards"
        )
    settings.write_text(_Settings(seed=seed).model_dump_json() + "\n", encoding="utf-8")


def start_producer(work_dir: Path, shards: int, seed: int) -> BaseProcess:
    """Start the process that makes the shards; it ends with this one."""
    arguments = (work_dir / "shards", shards, work_dir / "tokenizer" / "tokenizer.model", seed, os.getpid())
    process = multiprocessing.get_context("spawn").Process(target=write_shards, args=arguments, daemon=True)
    process.start()
    return process


def wait_for_shard(work_dir: Path, number: int, producer: BaseProcess) -> None:
    """Wait until shard `number` exists."""
    while not shard_path(work_dir / "shards", number).exists():
        check_producer(producer)
        time.sleep(0.5)


def check_producer(producer: BaseProcess) -> None:
    """Stop the training if its source of audio has failed; the reason is on stderr."""
    if producer.exitcode not in (None, 0):
        raise RuntimeError(f"the process that makes training audio ended with status {producer.exitcode}")


def first_shard(step: int, available: int) -> int:
    """The curriculum: the shards of short sentences are dropped when there is enough else."""
    return CURRICULUM_SHARDS if step > CURRICULUM_STEPS and available > CURRICULUM_SHARDS + 3 else 0


def _train(output: Path, work_dir: Path, seed: int, minutes: float, workers: int, producer: BaseProcess) -> None:
    """Run all workers, the first one in this process."""
    store = work_dir / f"rendezvous-{os.getpid()}"
    context = multiprocessing.get_context("spawn")
    helpers = [
        context.Process(target=run_worker, args=(rank, workers, store, output, work_dir, seed, minutes), daemon=True)
        for rank in range(1, workers)
    ]
    for helper in helpers:
        helper.start()
    try:
        run_worker(0, workers, store, output, work_dir, seed, minutes, producer)
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()
        store.unlink(missing_ok=True)


def run_worker(
    rank: int,
    workers: int,
    store: Path,
    output: Path,
    work_dir: Path,
    seed: int,
    minutes: float,
    producer: BaseProcess | None = None,
) -> None:
    """One of `workers` processes, which share gradients through `store`; the first one reports and saves."""
    import torch

    from scripts.checkpoints.demo.batches import Corpus
    from scripts.checkpoints.demo.monitor import Monitor
    from scripts.checkpoints.demo.trainer import Trainer

    torch.set_num_threads(1)
    if workers > 1:
        torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=workers)
    trainer = Trainer(work_dir, seed, minutes, rank, workers)
    monitor = Monitor(trainer, output, seed) if rank == 0 else None
    corpus = Corpus(work_dir / "shards")
    corpus.refresh()
    trainer.prepare(next(corpus.epoch(trainer.rng)), corpus.frequencies(trainer.blank))
    while not trainer.finished:
        available = corpus.refresh()
        if producer is not None:
            check_producer(producer)
        for batch in corpus.epoch(trainer.rng, first_shard(trainer.progress.step, available)):
            values = trainer.step(batch)
            if monitor is not None:
                monitor.after_step(values)
            if trainer.finished:
                break
    if monitor is not None:
        monitor.checkpoint()


def main(
    output: Annotated[Path, typer.Argument(help="The .nemo file to write.")],
    work_dir: Annotated[Path, typer.Option(help="Training audio and state; a run that was cut off goes on from it.")],
    seed: Annotated[int, typer.Option(help="One work folder belongs to one seed.")] = 1,
    minutes: Annotated[float, typer.Option(help="Clock time in all.")] = DEFAULT_MINUTES,
    shards: Annotated[int, typer.Option(help="Portions of 1,500 recordings to synthesize.")] = DEFAULT_SHARDS,
    workers: Annotated[int, typer.Option(help="Training processes of one thread each.")] = DEFAULT_WORKERS,
) -> None:
    """Train the demo checkpoint on synthetic speech in five languages."""
    try:
        if output.exists() and not work_dir.exists():  # an interrupted run has left both
            raise UserError(f"{output}: already exists; move it away, or choose another file")
        train_demo_checkpoint(output, work_dir, seed, minutes, shards=shards, workers=workers)
    except UserError as error:
        console.print(f"error: {error}", soft_wrap=True)
        raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    typer.run(main)
