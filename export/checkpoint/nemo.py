"""NeMo's model of a checkpoint, restored without NeMo's notices; no other module restores with NeMo."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from export.checkpoint.pieces import sentencepiece_model
from export.checkpoint.weights import read_weights, reason, unpacked
from export.errors import UserError
from export.removal import scratch_folder

if TYPE_CHECKING:
    import torch
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


def import_nemo() -> None:
    """Import what :func:`load_model` needs, which takes longer than restoring a model."""
    quiet()
    import nemo.collections.asr.models  # noqa: F401


def load_model(checkpoint: Checkpoint, tensors: dict[str, torch.Tensor] | None = None) -> EncDecRNNTBPEModel:
    """Restore a checkpoint on the CPU, in evaluation mode, without gradients, its tensors mapped from their file.

    NeMo gets the configuration that was checked and the members that it names, and nothing else of the archive. Of a
    Transformers folder it gets the same configuration, the tensors under its own names, and the pieces.

    Args:
        checkpoint: what to restore.
        tensors: what :func:`export.checkpoint.weights.read_weights` gave of it, where the caller has them.

    Raises:
        UserError: the archive cannot be restored (damaged weights, more than tensors in them, another architecture).
    """
    quiet()
    try:
        tensors = read_weights(checkpoint) if tensors is None else tensors
        with _tokenizer(checkpoint) as (folder, tokenizer):
            model = _restore(checkpoint, tensors, folder, tokenizer)
    except (UserError, ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:  # NeMo and torch raise what they like over a file that is not theirs
        if "allocate memory" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
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


def release(model: EncDecRNNTBPEModel) -> None:
    """Let go of a model's tensors: NeMo keeps what it restored, and with it the mapped file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)
    for module in model.modules():
        for name, _ in [*module.named_buffers(recurse=False)]:
            setattr(module, name, None)  # a buffer is the checkpoint's own tensor, which others still use


@contextmanager
def _tokenizer(checkpoint: Checkpoint) -> Iterator[tuple[Path, dict[str, str]]]:
    """A temporary folder with the tokenizer's files, and their names by the configuration's keys."""
    if not checkpoint.shards:
        with unpacked(checkpoint, set(checkpoint.tokenizer.values())) as folder:
            yield folder, checkpoint.tokenizer
        return
    with scratch_folder(Path(tempfile.gettempdir()) / "nemotron-ov") as folder:
        tags = [checkpoint.vocabulary[index] for index in checkpoint.language_tag_ids]
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(checkpoint.vocabulary, tags))
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in checkpoint.vocabulary), encoding="utf-8")
        yield folder, {"model_path": "tokenizer.model", "vocab_path": "vocab.txt"}


@contextmanager
def _without_list_of_pieces() -> Iterator[None]:
    """Have NeMo's configuration hold a text of as many characters where it lists the pieces twice.

    NeMo takes the number of pieces from there, and the pieces from the tokenizer. OmegaConf makes a node of each
    element of a list, and NeMo copies its configuration a dozen times.
    """
    from nemo.collections.asr.models import rnnt_bpe_models, rnnt_bpe_models_prompt

    with ExitStack() as stack:
        for module in (rnnt_bpe_models, rnnt_bpe_models_prompt):
            stack.enter_context(patch.object(module, "ListConfig", lambda pieces: "." * len(pieces), create=True))
        yield


def _restore(
    checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], folder: Path, tokenizer: dict[str, str]
) -> EncDecRNNTBPEModel:
    import torch
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
    from omegaconf import OmegaConf

    from export.graphs.modules import with_rebuilt

    held = [with_rebuilt(checkpoint, tensors)]  # until they are loaded: NeMo keeps the connector

    class TensorsOnly(SaveRestoreConnector):  # type: ignore[misc]
        @staticmethod
        def _load_state_dict_from_disk(
            model_weights: str,  # noqa: ARG004  # as the parent's
            map_location: Any = "cpu",  # noqa: ARG004
        ) -> dict[str, torch.Tensor]:
            return held.pop()

        def load_instance_with_state_dict(self, instance: Any, state_dict: dict[str, Any], strict: bool) -> None:
            # As the parent's, but for `assign`: the tensors stay where they are mapped.
            instance.load_state_dict(state_dict, strict=strict, assign=True)
            instance._set_model_restore_state(is_being_restored=False)

    class NoInitialization(torch.overrides.TorchFunctionMode):
        """Leaves memory that the checkpoint's tensors will replace untouched."""

        def __torch_function__(self, function: Any, _: Any, arguments: Any = (), options: Any = None) -> Any:
            if getattr(function, "__module__", None) == "torch.nn.init":
                return options["tensor"] if options and "tensor" in options else arguments[0]
            return function(*arguments, **(options or {}))

    connector = TensorsOnly()
    connector.model_extracted_dir = str(folder)
    config = {key: value for key, value in checkpoint.config.items() if key not in (*_TRAINING, "labels")}
    config["joint"] = {key: value for key, value in config["joint"].items() if key != "vocabulary"}
    files = {key: str(folder / member) for key, member in tokenizer.items()}
    config["tokenizer"] = {"dir": str(folder), "type": "bpe", **files}
    with NoInitialization(), _without_list_of_pieces():
        model: EncDecRNNTBPEModel = EncDecRNNTBPEModel.restore_from(
            str(checkpoint.path),
            override_config_path=OmegaConf.create(config),
            map_location=torch.device("cpu"),
            save_restore_connector=connector,
        )
    return model
