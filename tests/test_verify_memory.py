"""Weights read from a mapped file do not stay resident beside their packed copy."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from verify.mapped_weights import pages_given_back

SIZE = 64 * 2**20


def resident_file_bytes() -> int:
    """Resident bytes of this process that files back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssFile in /proc/self/status")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights.bin"
    file.write_bytes(os.urandom(SIZE))
    return file


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_pages_of_a_mapped_file_are_given_back_and_keep_their_content(weights: Path) -> None:
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapped:
        before = resident_file_bytes()
        expected = np.frombuffer(mapped, np.uint8).sum()
        assert resident_file_bytes() - before > SIZE * 0.9
        with pages_given_back(weights):
            np.frombuffer(mapped, np.uint8).sum()
        assert resident_file_bytes() - before < SIZE * 0.1
        assert np.frombuffer(mapped, np.uint8).sum() == expected


def test_a_file_that_is_not_mapped_is_no_error(weights: Path) -> None:
    with pages_given_back(weights):
        pass
