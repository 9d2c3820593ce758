"""What the training writes on a full disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from export.errors import UserError
from scripts.checkpoints.demo.monitor import export
from scripts.checkpoints.demo.trainer import Progress, Trainer

LARGE = torch.zeros(1_000_000)
"""Four megabytes, on a disk of three."""


class Model:
    """Saves itself as NeMo's models do: by PyTorch, in a temporary folder."""

    encoder = SimpleNamespace(set_default_att_context_size=lambda _: None)

    def eval(self) -> None:
        """As the models'."""

    def save_to(self, path: str) -> None:
        """As the models'."""
        with tempfile.TemporaryDirectory() as folder:
            torch.save(LARGE, Path(folder) / "model_weights.ckpt")
            Path(path).touch()


def test_a_full_disk_is_one_line(small_disk: Path) -> None:
    trainer: Any = SimpleNamespace(
        state_path=small_disk / "state.pt",
        parameters=[LARGE],
        average=[],
        optimizer=SimpleNamespace(state_dict=dict),
        progress=Progress(),
        model=Model(),
    )
    match = r"{}: cannot be written \(PyTorch's writer failed, and 3\.\d MB were free"
    with pytest.raises(UserError, match=match.format("state.pt")):
        Trainer.save(trainer)
    with pytest.raises(UserError, match=match.format("demo.nemo")):
        export(trainer, small_disk / "demo.nemo")
    assert not any(small_disk.iterdir())
