"""A checkpoint's weights, of either layout: tensors only, mapped from their file where that can be, by NeMo's names."""

from __future__ import annotations

import errno
import io
import pickle
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from export.checkpoint.archive import WEIGHTS, Part, check_weights, is_native, unpack, weights_place
from export.checkpoint.transformers_names import to_nemo
from export.errors import UserError
from export.removal import scratch_folder

if TYPE_CHECKING:
    import torch

    from export.checkpoint import Checkpoint

_REMEDY = "download the folder again"


def read_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint on the CPU, by NeMo's names, as it is stored and mapped from there.

    Raises:
        UserError: damaged weights, or more than tensors in them.
    """
    checkpoint.require_unchanged()
    tensors = _read_safetensors(checkpoint) if checkpoint.shards else _read_archive(checkpoint)
    checkpoint.require_unchanged()
    return tensors


def _read_archive(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors of a ``.nemo`` file, mapped from the archive, or from what it unpacks to where it is compressed.

    Raises:
        UserError: damaged weights, or more than tensors in them.
    """
    place = weights_place(checkpoint.path)
    try:
        found = _load_inside(checkpoint, *place) if place else None
        if found is not None:
            return found
        with unpacked(checkpoint, {WEIGHTS}) as folder:
            return _load(checkpoint, folder / WEIGHTS, map_location="cpu", mmap=True)
    except (RuntimeError, EOFError, KeyError) as error:  # what torch raises over a file that is not its own
        raise UserError(
            f"{checkpoint.path}: its {WEIGHTS} cannot be read ({reason(error)}); download it again"
        ) from error


def _load_inside(checkpoint: Checkpoint, begin: int, size: int) -> dict[str, torch.Tensor] | None:
    """The tensors of weights that lie at ``begin`` of an archive, mapped from there; None in another byte order.

    PyTorch maps whole files only. Loaded to its meta device, tensors say where in the weights their numbers lie.

    Raises:
        UserError: damaged weights, or more than tensors in them.
    """
    import torch

    with checkpoint.path.open("rb") as raw, io.BufferedReader(Part(raw, begin, size)) as file:
        check_weights(checkpoint.path, file)
        if not is_native(file):
            return None  # PyTorch would crash: it turns the bytes of its meta device's storages
        file.seek(0)
        described = _load(checkpoint, file, map_location="meta")
    archive = torch.UntypedStorage.from_file(str(checkpoint.path), False, checkpoint.path.stat().st_size)
    found = {}
    for name, tensor in described.items():
        storage = tensor.untyped_storage()
        first, count = begin + storage._checkpoint_offset, storage.nbytes()  # type: ignore[operator]  # None elsewhere
        if first + count > begin + size:
            raise RuntimeError(f"{name} ends beyond them")
        numbers = torch.empty(0, dtype=tensor.dtype)
        numbers.set_(archive[first : first + count], tensor.storage_offset(), tensor.shape, tensor.stride())
        found[name] = numbers
    return found


@contextmanager
def unpacked(checkpoint: Checkpoint, names: Collection[str]) -> Iterator[Path]:
    """A temporary folder with these members of the archive. Weights among them have the checksums that they carry.

    Raises:
        UserError: there is no room, or the weights are damaged.
    """
    place, need = Path(tempfile.gettempdir()), sum(checkpoint.members[name] for name in names)
    free = shutil.disk_usage(place).free
    if free < need:
        raise _no_room(checkpoint, place, need, free)
    with scratch_folder(place / "nemotron-ov") as folder:  # clears a killed run's
        try:
            unpack(checkpoint.path, names, folder)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # somebody else took the room
                taken = sum(file.stat().st_size for file in folder.rglob("*"))
                raise _no_room(checkpoint, place, need, shutil.disk_usage(place).free + taken) from error
            raise
        if WEIGHTS in names:
            with (folder / WEIGHTS).open("rb") as weights:
                check_weights(checkpoint.path, weights)
        yield folder


def _no_room(checkpoint: Checkpoint, place: Path, need: int, free: int) -> UserError:
    return UserError(
        f"{place}: {checkpoint.path.name} is unpacked there, which takes {need / 1e6:,.1f} MB, and "
        f"{free / 1e6:,.1f} MB are free; make room, or set TMPDIR to another folder"
    )


def _load(checkpoint: Checkpoint, file: Path | IO[bytes], **options: Any) -> dict[str, torch.Tensor]:
    """The tensors of a ``model_weights.ckpt``, by :func:`torch.load` with these options.

    Raises:
        UserError: it holds more than tensors.
    """
    import torch

    try:
        # Given explicitly, so that no TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD runs what the pickle asks for.
        loaded = torch.load(file, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        unwanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {unwanted[1]}" if unwanted else "holds more than tensors, or is damaged"
        raise UserError(f"{checkpoint.path}: its {WEIGHTS} {what}; do not use this file") from error
    if not isinstance(loaded, dict) or not all(isinstance(each, torch.Tensor) for each in loaded.values()):
        raise UserError(f"{checkpoint.path}: its {WEIGHTS} holds more than tensors; do not use this file")
    return loaded


def _read_safetensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors of a Transformers folder.

    Raises:
        UserError: a file is no safetensors file, or damaged, a tensor stands in two, or Transformers has none of its
            name: it would compute a filter bank that a file holds, for example, and not read it.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    head = 2 if checkpoint.config["joint"]["jointnet"]["dropout"] else 1
    for shard in checkpoint.shards:
        try:
            with safe_open(shard, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118  # no mapping
                    nemo = to_nemo(name, head)
                    if nemo is None:
                        raise UserError(f"{shard}: holds {name}, which is no tensor of this model; {_REMEDY}")
                    if nemo in found:
                        raise UserError(f"{shard}: holds {name}, which another file has too; {_REMEDY}")
                    found[nemo] = file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{shard}: cannot be read ({reason(error)}); download it again") from error
    return found


def reason(error: Exception) -> str:
    """The first lines of what a library says of a file that it cannot read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
