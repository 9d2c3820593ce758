"""``.nemo`` files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import UserError
from export.removal import scratch_folder


@contextmanager
def new_checkpoint(output: Path, *, force: bool) -> Iterator[Path]:
    """A folder beside ``output``; what the body leaves there under that name takes its place.

    Args:
        output: the file to write.
        force: replace an existing checkpoint.

    Raises:
        UserError: ``output`` exists without ``force``, is something else, or cannot be written.
    """
    output = Path(os.path.abspath(output))
    if output.is_dir():
        raise UserError(f"{output}: is a folder; give the name of a .nemo file")
    if output.exists() and not force:
        raise UserError(f"{output}: already exists; add --force to replace it, or choose another name")
    if output.exists() and not (output.is_file() and tarfile.is_tarfile(output)):
        raise UserError(f"{output}: exists and is no checkpoint; choose another name, or move it away")
    with new_file(output) as file:
        yield file.parent


@contextmanager
def new_file(output: Path) -> Iterator[Path]:
    """Where to write what takes ``output``'s place when the body succeeds; nothing stays behind when the body fails.

    Raises:
        UserError: it cannot be written, by ``torch.save`` too.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output.parent).free
        with scratch_folder(output) as folder:
            yield folder / output.name
            (folder / output.name).replace(output)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif "inline_container" in str(error):  # PyTorch's writer, which does not say why
            reason = f"PyTorch's writer failed, and {free / 1e6:,.1f} MB were free"
        else:
            raise
        raise UserError(f"{output}: cannot be written ({reason}); choose another place, or make room") from error


def pack(archive: Path, members: dict[str, bytes | Path]) -> None:
    """An uncompressed tar without times or owners, so that equal contents give equal bytes."""
    with tarfile.open(archive, "w:", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.mode = 0o644
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.size = content.stat().st_size
                with content.open("rb") as file:
                    tar.addfile(info, file)
