"""Peak memory of loading a folder: weights are read from a mapped file and packed anew for the processor.

Without further care both copies are resident at the end. The mapped pages are clean and used once each, so they can
be handed back as loading goes on; whatever is read again comes back from the file.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_INTERVAL_SECONDS = 0.02
_MADV_DONTNEED = 4  # of Linux on every processor


@contextmanager
def pages_given_back(model: Any, weights: Path) -> Iterator[None]:
    """Hand back the resident pages of a model's weights again and again while the body runs; Linux only, else nothing.

    Only the mapping of this very model is touched, which it keeps alive while the body runs. Others of the same file
    belong to models that may go at any moment, and what the system puts at their addresses would be wiped. Pages of
    a private, read-only file mapping lose nothing.

    Args:
        model: the ``openvino.Model`` that ``read_model`` returned.
        weights: the ``.bin`` file that it maps.
    """
    mapping = _mapping_of(model, weights) if sys.platform == "linux" else None
    if mapping is None:
        yield
        return
    start, end = mapping
    madvise = ctypes.CDLL(None).madvise
    finished = threading.Event()

    def give_back() -> None:
        last = False
        while not last:
            last = finished.wait(_INTERVAL_SECONDS)
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)

    thread = threading.Thread(target=give_back, name="pages_given_back")
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _mapping_of(model: Any, weights: Path) -> tuple[int, int] | None:
    """The address range at which a model's constants lie in its mapped file; None where they do not."""
    mappings = _mappings(weights)
    for operation in model.get_ops() if mappings else ():
        if operation.get_type_name() == "Constant":
            address = operation.data.ctypes.data
            for start, end in mappings:
                if start <= address < end:
                    return start, end
    return None


def _mappings(file: Path) -> list[tuple[int, int]]:
    """Address ranges at which this process maps a file read-only; none where the system does not say."""
    wanted = os.fsencode(file.resolve())
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == wanted and b"w" not in fields[1]:
            start, end = (int(address, 16) for address in fields[0].split(b"-"))
            found.append((start, end))
    return found
