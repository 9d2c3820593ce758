"""The only door to NeMo: restoring a model, quietly."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoint.archive import WEIGHTS
from export.checkpoint.weights import load_tensors, reason, unpacked
from export.errors import UserError

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
    try:
        with unpacked(checkpoint, {WEIGHTS, *checkpoint.tokenizer.values()}) as folder:
            model = _restore(checkpoint, folder)
    except (UserError, ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:  # NeMo and torch raise what they like over a file that is not theirs
        if "allocate memory" in str(error):
            raise
        raise UserError(
            f"{checkpoint.path}: NeMo cannot restore it ({reason(error)}); give a checkpoint as NeMo wrote it, or "
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
            return load_tensors(checkpoint, Path(model_weights), map_location)

    connector = TensorsOnly()
    connector.model_extracted_dir = str(folder)
    config = {key: value for key, value in checkpoint.config.items() if key not in _TRAINING}
    files = {key: str(folder / member) for key, member in checkpoint.tokenizer.items()}
    config["tokenizer"] = {"dir": str(folder), "type": "bpe", **files}
    model: EncDecRNNTBPEModel = EncDecRNNTBPEModel.restore_from(
        str(checkpoint.path),
        override_config_path=OmegaConf.create(config),
        map_location=torch.device("cpu"),
        save_restore_connector=connector,
    )
    return model
