"""The only door to NeMo: restoring a model, quietly."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoint.archive import WEIGHTS, check_weights, unpack
from export.errors import UserError
from export.removal import scratch_folder

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    from export.checkpoint import Checkpoint


_TRAINING = ("train_ds", "validation_ds", "test_ds", "optim")
"""Sections that only training reads."""


def quiet() -> None:
    """Keep NeMo's and its dependencies' notices off the user's screen; errors still show."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "0")
    warnings.filterwarnings("ignore")
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(nemo_logging.ERROR)
    for name in ("nemo_logger", "nv_one_logger", "pytorch_lightning", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


def load_model(checkpoint: Checkpoint) -> EncDecRNNTBPEModel:
    """Restore a checkpoint on the CPU, in evaluation mode, without gradients.

    NeMo gets the configuration that was checked and the members that it names, and nothing else of the archive.

    Raises:
        UserError: the archive cannot be restored (damaged weights, more than tensors in them, another architecture).
    """
    quiet()
    _check_room(checkpoint)
    with scratch_folder(Path(tempfile.gettempdir()) / "nemotron-ov") as folder:  # clears a killed run's
        try:
            unpack(checkpoint.path, {WEIGHTS, *checkpoint.tokenizer.values()}, folder)
            check_weights(checkpoint.path, folder / WEIGHTS)
            model = _restore(checkpoint, folder)
        except (UserError, ModuleNotFoundError, MemoryError):
            raise
        except Exception as error:  # NeMo and torch raise what they like over a file that is not theirs
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                _check_room(checkpoint, unpacked=True)
            if "allocate memory" in str(error):
                raise
            raise UserError(
                f"{checkpoint.path}: NeMo cannot restore it ({_reason(error)}); give a checkpoint as NeMo wrote it, or "
                "download it again"
            ) from error
    pieces = tuple(model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size))))
    if pieces != checkpoint.vocabulary:  # or every transcript would be wrong on both sides of a comparison
        raise UserError(f"{checkpoint.path}: NeMo's pieces are not those of {checkpoint.tokenizer}; download it again")
    model.eval().float().requires_grad_(False)
    model.preprocessor.featurizer.dither = 0.0
    return model


def _restore(checkpoint: Checkpoint, folder: Path) -> EncDecRNNTBPEModel:
    import torch
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
    from omegaconf import OmegaConf

    class TensorsOnly(SaveRestoreConnector):  # type: ignore[misc]
        @staticmethod
        def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, torch.Tensor]:
            # Said aloud, so that no TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD runs what the pickle asks for.
            loaded = torch.load(model_weights, map_location=map_location, weights_only=True)
            if not isinstance(loaded, dict) or not all(isinstance(each, torch.Tensor) for each in loaded.values()):
                raise UserError(f"{checkpoint.path}: its {WEIGHTS} holds more than tensors; do not use this file")
            return loaded

    connector = TensorsOnly()
    connector.model_extracted_dir = str(folder)
    config = {key: value for key, value in checkpoint.config.items() if key not in _TRAINING}
    files = {key: str(folder / member) for key, member in checkpoint.tokenizer.items()}
    config["tokenizer"] = {"dir": str(folder), "type": "bpe", **files}
    try:
        model: EncDecRNNTBPEModel = EncDecRNNTBPEModel.restore_from(
            str(checkpoint.path),
            override_config_path=OmegaConf.create(config),
            map_location=torch.device("cpu"),
            save_restore_connector=connector,
        )
    except pickle.UnpicklingError as error:
        unwanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {unwanted[1]}" if unwanted else "holds more than tensors, or is damaged"
        raise UserError(f"{checkpoint.path}: its {WEIGHTS} {what}; do not use this file") from error
    return model


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__


def _check_room(checkpoint: Checkpoint, *, unpacked: bool = False) -> None:
    """Refuse a temporary folder that is too small for the unpacked archive.

    Args:
        checkpoint: what NeMo is going to unpack there.
        unpacked: it has tried to, and the room was not enough, whatever is free now.

    Raises:
        UserError: naming the folder, the need and what is there.
    """
    folder, need = tempfile.gettempdir(), checkpoint.path.stat().st_size
    free = shutil.disk_usage(folder).free
    if unpacked or free < need:
        room = f"which takes {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
        raise UserError(
            f"{folder}: NeMo unpacks {checkpoint.path.name} there, {room}; make room, or set TMPDIR to another folder"
        )
