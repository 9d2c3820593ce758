"""Weights read from a mapped file do not stay resident beside their packed copy."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.mapped_weights import _mapping_of, _mappings, pages_given_back

SIZE = 64 * 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")


def resident_file_bytes() -> int:
    """Resident bytes of this process that files back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssFile in /proc/self/status")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph whose one constant has 64 MB."""
    import openvino as ov
    from openvino import opset13

    values = np.random.default_rng(1).random((SIZE // 4096, 1024), np.float32)
    data = opset13.parameter([1, 1024], np.float32)
    product = opset13.matmul(data, opset13.constant(values), transpose_a=False, transpose_b=True)
    path = tmp_path / "graph.xml"
    ov.save_model(ov.Model([product], [data]), path, compress_to_fp16=False)
    return path


def read(graph: Path) -> Any:
    import openvino as ov

    return ov.Core().read_model(graph)


def weights_of(model: Any) -> np.ndarray[Any, Any]:
    constants = [each for each in model.get_ops() if each.get_type_name() == "Constant"]
    data: np.ndarray[Any, Any] = max(constants, key=lambda each: int(each.data.size)).data
    return data


def test_pages_of_a_model_are_given_back_and_keep_their_content(graph: Path) -> None:
    model = read(graph)
    before = resident_file_bytes()
    expected = weights_of(model).sum()
    assert resident_file_bytes() - before > SIZE * 0.9
    with pages_given_back(model, graph.with_suffix(".bin")):
        weights_of(model).sum()
    assert resident_file_bytes() - before < SIZE * 0.1
    assert weights_of(model).sum() == expected


def test_a_model_that_goes_meanwhile_leaves_its_addresses_alone(graph: Path) -> None:
    """A compiled model holds its mapping, and goes when the garbage collector says so."""
    weights = graph.with_suffix(".bin")
    other, model = read(graph), read(graph)
    assert len(_mappings(weights)) == 2
    mapping = _mapping_of(other, weights)
    assert mapping is not None
    start, end = mapping
    with pages_given_back(model, weights):
        del other
        assert len(_mappings(weights)) == 1
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
        arguments = (start, end - start, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
        types = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        assert libc.mmap(*(of(value) for of, value in zip(types, arguments, strict=True))) == start
        ctypes.memset(start, 1, end - start)
        time.sleep(0.2)  # ten rounds
    try:
        assert (np.ctypeslib.as_array((ctypes.c_uint8 * (end - start)).from_address(start)) == 1).all()
    finally:
        libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(end - start))


def test_a_file_name_that_is_no_text_is_found(graph: Path) -> None:
    folder = graph.parent / os.fsdecode(b"bad\xff")
    folder.mkdir()
    weights = shutil.copyfile(graph.with_suffix(".bin"), folder / "graph.bin")
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE):
        assert len(_mappings(weights)) == 1
        assert _mappings(graph.with_suffix(".bin")) == []


def test_a_model_that_maps_no_file_is_no_error(graph: Path) -> None:
    import openvino as ov

    model = ov.Core().read_model(graph, config={"ENABLE_MMAP": False})
    with pages_given_back(model, graph.with_suffix(".bin")):
        assert weights_of(model).any()
