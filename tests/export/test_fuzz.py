"""Damaged and invented files through every parser: only errors of ours come out, in bounded time and memory.

Seeded mutations of valid files: bytes flipped, cut, doubled, numbers replaced by absurd ones. What they found is held
by tests of its own in test_archive.py and test_hostile_folder.py. ``-s`` prints how many were read and refused.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from export.bundle import METADATA, VOCABULARY, Bundle
from export.checkpoint import open_checkpoint
from export.checkpoint.archive import check_weights
from export.checkpoint.pieces import read_vocabulary
from export.checkpoint.yaml_config import ConfigError, read_config
from export.contract import contract_problems
from export.errors import NemotronOVError, UserError
from export.vocabulary import checkpoint_ids
from quantize.recipe_file import dump_recipe, load_recipe
from quantize.recipes import RECIPES
from tests.helpers.archives import demo_tokenizer, members, tiny_config, write
from tests.helpers.tiny_bundle import tiny_bundle
from verify.data.manifest import read_manifest

SECONDS = 20.0
"""Longest time that one file may take."""

_NUMBERS = [b"-1", b"0", b"1e999", b"9" * 20, b"1" + b"0" * 13, b"null", b'"x"', b"[]", b"{}", b"NaN", b"no"]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The data with one to four injuries."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not content:
            break
        place, other = (int(each) for each in rng.integers(0, len(content), 2))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            content[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            content[place] = int(rng.integers(0, 256))
        elif kind == 2:
            del content[min(place, other) : min(min(place, other) + 64, max(place, other))]
        elif kind == 3:
            content[place:place] = content[other : other + int(rng.integers(1, 200))]
        elif kind == 4:
            numbers = list(re.finditer(rb"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", bytes(content[:20_000])))
            if numbers:
                found = numbers[int(rng.integers(0, len(numbers)))]
                content[found.start() : found.end()] = _NUMBERS[int(rng.integers(0, len(_NUMBERS)))]
        elif rng.random() < 0.2:
            del content[place:]
    return bytes(content)


def survives(parse: Callable[[Path], object], data: bytes, file: Path, tries: int, seed: int) -> tuple[int, int]:
    """How many injured files were read, and how many refused in one line; anything else fails."""
    rng = np.random.default_rng(seed)
    read = refused = 0
    for index in range(tries):
        injured = mutated(data, rng)
        file.write_bytes(injured)
        start = time.monotonic()
        try:
            parse(file)
            read += 1
        except NemotronOVError as error:
            refused += 1
            if "\n" in str(error):
                pytest.fail(f"{index}: {error}")
        except Exception as error:
            keep = file.with_name(f"finding-{seed}-{index}{file.suffix}")
            keep.write_bytes(injured)
            pytest.fail(f"{keep}: {type(error).__name__}: {error}")
        assert time.monotonic() - start < SECONDS, (index, "took too long")
    return read, refused


def config_of(file: Path) -> object:
    try:
        return read_config(file.read_bytes())
    except ConfigError as error:
        raise UserError(str(error)) from error


def vocabulary_of(file: Path) -> object:
    return Bundle.open(file.parent).vocabulary


def pruned_of(file: Path) -> object:
    try:
        return checkpoint_ids(json.loads(file.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise UserError("no JSON") from error


def tokenizer_of(file: Path) -> object:
    return read_vocabulary(file, file.read_bytes())


def weights_of(file: Path) -> object:
    with file.open("rb") as weights:
        check_weights(file, weights)
    return None


def folder_of(file: Path) -> object:
    return contract_problems(Bundle.open(file.parent))


MANIFEST = b'{"audio_filepath": "a.wav", "offset": 0.5, "duration": 2.5, "text": "a b", "target_lang": "en-US"}\n' * 3
PRUNED = b'{"checkpoint_pieces": 16, "pieces": 8, "kept": "/wA="}'

PARSERS: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "archive": (open_checkpoint, "plain.nemo", 300),
    "gzip": (open_checkpoint, "packed.nemo", 200),
    "config": (config_of, "config.yaml", 1000),
    "tokenizer": (tokenizer_of, "tokenizer.model", 500),
    "weights": (weights_of, "weights.ckpt", 500),
    "metadata": (folder_of, f"folder/{METADATA}", 200),
    "vocabulary": (vocabulary_of, f"folder/{VOCABULARY}", 500),
    "graph": (folder_of, "folder/nemotron_joint.xml", 200),
    "pruned": (pruned_of, "pruned.json", 1000),
    "recipe": (load_recipe, "recipe.toml", 500),
    "manifest": (read_manifest, "manifest.jsonl", 500),
}
"""What reads a kind of file, a valid one, and how many injured ones a seed tries."""


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    """A folder with a valid file for every parser."""
    tiny_bundle(tmp_path / "folder")
    write(tmp_path / "plain.nemo", members())
    write(tmp_path / "packed.nemo", members(), "w:gz")
    contents = {"config.yaml": yaml.safe_dump(tiny_config()).encode(), "tokenizer.model": demo_tokenizer()}
    contents |= {"weights.ckpt": saved_weights(), "pruned.json": PRUNED, "manifest.jsonl": MANIFEST}
    (tmp_path / "a.wav").touch()
    contents |= {"recipe.toml": dump_recipe(RECIPES["int4-aware"]).encode()}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("parser", PARSERS)
def test_the_valid_files_are_read(parser: str, valid: Path) -> None:
    parse, name, _ = PARSERS[parser]
    parse(valid / name)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parser", PARSERS)
def test_injured_files_are_read_or_refused(parser: str, seed: int, valid: Path) -> None:
    parse, name, tries = PARSERS[parser]
    read, refused = survives(parse, (valid / name).read_bytes(), valid / name, tries, seed)
    print(f"{parser}, seed {seed}: {read} read, {refused} refused")  # noqa: T201
    assert refused


def saved_weights() -> bytes:
    """What ``torch.save`` writes of two tensors."""
    import torch

    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(30), "b": torch.ones(3, 4)}, buffer)
    return buffer.getvalue()
