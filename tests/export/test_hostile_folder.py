"""Folders from strangers: every file crafted, every refusal one line, nothing allocated by what a file says."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.bundle import METADATA, VOCABULARY, Bundle, write_metadata
from export.contract import contract_problems
from export.errors import UserError
from export.vocabulary import checkpoint_ids
from tests.helpers.tiny_bundle import tiny_bundle
from verify.runtimes.generation1 import Generation1


def rewritten(folder: Path, change: Callable[[str], str]) -> Path:
    """A tiny folder whose joint was changed by somebody who knows how to write hashes."""
    made = tiny_bundle(folder)
    graph = folder / "nemotron_joint.xml"
    before = graph.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    graph.write_text(after, encoding="utf-8")
    write_metadata(folder, made.metadata)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda text: re.sub(r'offset="\d+"', 'offset="99999999"', text, count=1),
        lambda text: re.sub(r'offset="\d+"', 'offset="18446744073709551600"', text, count=1),
        lambda text: re.sub(r'offset="\d+"', 'offset="-64"', text, count=1),
        lambda text: re.sub(r'size="\d+" />', 'size="18446744073709551615" />', text, count=1),
        lambda text: re.sub(r'shape="9, 6"', 'shape="1000000, 1000000, 1000000"', text, count=1),
        lambda text: re.sub(r'to-layer="\d+"', 'to-layer="99999"', text, count=1),
        lambda text: re.sub(r'version="opset1"', 'version="/tmp/mine.so"', text, count=1),
        lambda text: text[: len(text) // 2],
    ],
    ids=["offset", "offset 2^64", "negative", "size", "shape", "edge", "library", "cut"],
)
def test_a_graph_that_points_outside_of_its_weights(tmp_path: Path, change: Callable[[str], str]) -> None:
    opened = Bundle.open(rewritten(tmp_path / "a", change), check="hashes")
    with pytest.raises(UserError, match=r"nemotron_joint\.xml: .*regenerate the folder") as caught:
        Generation1(opened)
    assert "\n" not in str(caught.value)
    problems = contract_problems(opened)
    assert [problem for problem in problems if problem.startswith("joint: OpenVINO cannot read it")]


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        "<!-- " + "x" * 1000 + ' --><!DOCTYPE net SYSTEM "http://example.com/x.dtd">',
        '<?xml-stylesheet href="x"?>',
    ],
)
def test_a_graph_with_a_document_type_is_refused(tmp_path: Path, prolog: str) -> None:
    folder = rewritten(tmp_path / "a", lambda text: text.replace("<net ", prolog + "<net ", 1))
    with pytest.raises(UserError, match=r"nemotron_joint\.xml: does not begin as OpenVINO's graphs do; regenerate"):
        Bundle.open(folder)


def with_metadata(folder: Path, **changes: Any) -> Path:
    tiny_bundle(folder)
    content = json.loads((folder / METADATA).read_text(encoding="utf-8")) | changes
    (folder / METADATA).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**13},
        {"cache_channel_shape": [1, 10**6, 10**6, 10**6]},
        {"cache_time_shape": [1, 2]},
        {"cache_time_shape": [1, -2, 3, 4]},
        {"total_mel_frames": -1},
        {"decoder_layers": 1e300},
        {"att_context_size": []},
        {"lang_tag_token_ids": [10**13]},
        {"prompt_dictionary": {"en": -1}},
        {"prompt_dictionary": [["en", 1]]},
        {"subsampling_factor": 0},
        {"sample_rate": "many"},
        {"files": [1, 2]},
        {"format_version": 10**400},
    ],
    ids=str,
)
def test_metadata_of_absurd_sizes_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"a/metadata\.json: (not usable|format_version)") as caught:
        Bundle.open(with_metadata(tmp_path / "a", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "null", "\0", '{"model": "' + "x" * 100])
def test_metadata_that_is_no_object_is_one_line(tmp_path: Path, text: str) -> None:
    tiny_bundle(tmp_path / "a")
    (tmp_path / "a" / METADATA).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"a/metadata\.json: not usable"):
        Bundle.open(tmp_path / "a")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]x", '{"0": 5}', '{"0": "a", "2": "b"}', "5", '["a"]'])
def test_a_vocabulary_that_is_no_flat_object_is_one_line(tmp_path: Path, text: str) -> None:
    tiny_bundle(tmp_path / "a")
    (tmp_path / "a" / VOCABULARY).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="not a flat object of ids"):
        _ = Bundle.open(tmp_path / "a").vocabulary


@pytest.mark.parametrize("pieces", [10**13, -1, 17, "many", None, float("inf")])
def test_a_pruned_vocabulary_of_ten_trillion_pieces_takes_no_memory(pieces: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"metadata\.vocabulary: not usable"):
            checkpoint_ids({"checkpoint_pieces": pieces, "pieces": 3, "kept": "/wA="})  # 16 bits
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert checkpoint_ids({"checkpoint_pieces": 16, "pieces": 8, "kept": "/wA="}) == list(range(8))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sample_rate": 8000, "chunk_samples": 17920}, "at sample_rate 8000"),
        ({"chunk_ms": 80.0}, "chunk_ms 80 is not"),
        ({"lookahead": 3}, "lookahead 3 is not that of att_context_size"),
    ],
)
def test_numbers_that_contradict_each_other_are_problems(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    opened = Bundle.open(with_metadata(tmp_path / "a", **changes))
    assert any(problem in each for each in contract_problems(opened))


def test_ports_whose_names_are_no_text_or_missing_are_problems(tmp_path: Path) -> None:
    """Found by test_fuzz.py."""
    opened = tiny_bundle(tmp_path / "a")
    graph = opened.graph_path("joint")
    good = graph.read_bytes()
    graph.write_bytes(good.replace(b'names="encoder"', b'names="enc\xbcder"'))
    assert any(each.startswith("joint: OpenVINO cannot read it ('utf-8' codec") for each in contract_problems(opened))
    with pytest.raises(UserError, match=r"nemotron_joint\.xml: .*regenerate the folder"):
        Generation1(opened)
    graph.write_bytes(good.replace(b'names="encoder"', b""))
    assert any(each.startswith("joint: ") for each in contract_problems(opened))
