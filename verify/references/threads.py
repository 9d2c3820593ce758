"""How many threads PyTorch takes for a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

SMALL_MODEL = 50_000_000
"""Parameters up to which one thread is the fastest: its operations are too short to be shared out."""


def threads_for(model: Module) -> int | None:
    """One thread where the model is small, else None: PyTorch's own choice."""
    return 1 if sum(weight.numel() for weight in model.parameters()) <= SMALL_MODEL else None


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Run the body with so many PyTorch threads; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
