"""A flipped byte in a folder's weights ends every verb that judges, quantizes or measures, before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from export.bundle import METADATA, Bundle
from export.errors import UserError
from tests.helpers.command import assert_user_error, run_here
from tests.helpers.tiny_bundle import tiny_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("folders") / "whole").path


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_bundle(tmp_path_factory.mktemp("folders") / "damaged").path
    weights = folder / "nemotron_encoder.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "verify DAMAGED --reference WHOLE",
        "verify WHOLE --reference DAMAGED",
        "quantize DAMAGED OUT --recipe int8",
        "calibrate DAMAGED OUT",
        "sweep DAMAGED --output OUT",
        "rank DAMAGED --output OUT",
        "bench DAMAGED",
    ],
)
def test_a_flipped_byte_is_found_first(
    command: str, whole: Path, damaged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {"DAMAGED": damaged, "WHOLE": whole, "OUT": tmp_path / "out"}
    done = run_here(capfd, *(places.get(word, word) for word in command.split()))
    assert_user_error(done, damaged, "nemotron_encoder.bin", "differ from what was written")
    assert not any((tmp_path / "out").rglob("*.json"))


def test_a_folder_that_recorded_no_hashes_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened = tiny_bundle(tmp_path / "a")
    Bundle(opened.path, opened.metadata.model_copy(update={"files": {}})).check_hashes()
    assert f"{opened.path}: records no hashes" in capfd.readouterr().err


def test_every_changed_byte_of_the_metadata_is_found(tmp_path: Path) -> None:
    """The file has a hash of its own; a changed byte is found, or is no JSON any more, or another type."""
    folder = tiny_bundle(tmp_path / "folder").path
    whole = (folder / METADATA).read_bytes()
    assert Bundle.open(folder).damaged_files() == []
    generator = np.random.default_rng(2)
    for place in [*generator.integers(0, len(whole), 150), *range(len(whole) - 100, len(whole) - 3)]:
        injured = bytearray(whole)
        injured[place] ^= 1 << int(generator.integers(0, 8))
        (folder / METADATA).write_bytes(injured)
        try:
            found = Bundle.open(folder).damaged_files()
        except UserError as error:
            found = [METADATA] if METADATA in str(error) else []
        assert METADATA in found, (place, bytes(injured[place - 20 : place + 20]))


def test_a_folder_of_version_1_is_read(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "folder").path
    facts = json.loads((folder / METADATA).read_text()) | {"format_version": 1}
    del facts["metadata_sha256"]
    (folder / METADATA).write_text(json.dumps(facts))
    assert Bundle.open(folder).damaged_files() == []
