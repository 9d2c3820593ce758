"""The only door to NeMo: restoring a model, quietly."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tarfile
import tempfile
import warnings
from typing import TYPE_CHECKING

from export.errors import UserError

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    from export.checkpoint import Checkpoint


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

    Raises:
        UserError: the archive cannot be restored (damaged weights, missing members).
    """
    import torch

    quiet()
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    _check_room(checkpoint)
    try:
        model = EncDecRNNTBPEModel.restore_from(str(checkpoint.path), map_location=torch.device("cpu"))
    except (RuntimeError, EOFError, OSError, KeyError, tarfile.TarError) as error:
        reason = str(error).strip().splitlines()[0]
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _check_room(checkpoint, unpacked=True)
        raise UserError(f"{checkpoint.path}: NeMo cannot restore it ({reason}); download it again") from error
    model.eval().float().requires_grad_(False)
    model.preprocessor.featurizer.dither = 0.0
    return model


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
