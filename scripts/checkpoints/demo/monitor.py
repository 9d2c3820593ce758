"""Progress of the training: log lines, development error rate, saved state, exported checkpoints."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

from export.progress import console
from scripts.checkpoints.demo.model import LEFT_CONTEXT, LOOKAHEADS
from scripts.checkpoints.demo.scoring import decode, development_set, score
from scripts.checkpoints.packing import new_file

if TYPE_CHECKING:
    from scripts.checkpoints.demo.trainer import Trainer

LOG_SECONDS = 30.0
CHECKPOINT_SECONDS = 420.0


class Monitor:
    """Logs twice a minute; every seven minutes saves the state, scores the development set and exports."""

    def __init__(self, trainer: Trainer, output: Path, seed: int) -> None:
        self._trainer = trainer
        self._output = output
        self._utterances = development_set(seed)
        self._sample = len(self._utterances) // 5
        self._last_log = self._last_checkpoint = time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0

    def after_step(self, values: dict[str, float]) -> None:
        """Account for one step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if time.monotonic() - self._last_log > LOG_SECONDS:
            self._log_training()
        if time.monotonic() - self._last_checkpoint > CHECKPOINT_SECONDS:
            self.checkpoint()

    def _log_training(self) -> None:
        progress = self._trainer.progress
        means = ", ".join(f"{name} {value / self._count:.3f}" for name, value in self._sums.items())
        pace = (time.monotonic() - self._last_log) / self._count
        _print(
            f"step {progress.step}, {progress.seconds / 60:.1f} of {self._trainer.minutes:g} min, "
            f"{progress.audio_seconds / 3600:.1f} h of audio, {pace:.2f} s/step, "
            f"rate {self._trainer.rate():.1e}, {means}"
        )
        self._sums, self._count, self._last_log = {}, 0, time.monotonic()

    def checkpoint(self) -> None:
        """Save the state; score the averaged weights and export them."""
        self._trainer.save()
        with averaged_weights(self._trainer):
            for lookahead in (13, 0):
                decoded = decode(self._trainer.model, self._utterances, lookahead, auto=True)
                values = score(self._utterances, decoded)
                _print(f"lookahead {lookahead}, auto: " + ", ".join(f"{k} {v:.1f}" for k, v in values.items()))
                for utterance, (text, tag) in list(zip(self._utterances, decoded, strict=True))[:: self._sample]:
                    _print(f"  {utterance.text} | {text} {tag}")
            export(self._trainer, self._output)
        self._last_log = self._last_checkpoint = time.monotonic()


@contextmanager
def averaged_weights(trainer: Trainer) -> Iterator[None]:
    """The model with its averaged weights for a while."""
    current = [parameter.detach().clone() for parameter in trainer.parameters]
    _assign(trainer.parameters, trainer.average)
    try:
        yield
    finally:
        _assign(trainer.parameters, current)


def _assign(parameters: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def export(trainer: Trainer, output: Path) -> None:
    """Write the model, without the CTC head, to `output` atomically.

    Raises:
        UserError: it cannot be written.
    """
    trainer.model.eval()
    trainer.model.encoder.set_default_att_context_size([LEFT_CONTEXT, LOOKAHEADS[0]])
    with new_file(output) as file, patch.object(tempfile, "tempdir", str(file.parent)):  # NeMo packs a temporary folder
        trainer.model.save_to(str(file))


def _print(line: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {line}", soft_wrap=True, markup=False)
