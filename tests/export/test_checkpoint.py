"""Checkpoints: facts come from the file, and every unusable file gets one clear line."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.nemo import load_model
from export.errors import UserError


def repack(source: Path, target: Path, change: Callable[[dict[str, Any]], None], drop: str = "") -> Path:
    """Copy a .nemo with a changed configuration, or without the members whose name ends in ``drop``."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            if drop and member.name.endswith(drop):
                continue
            file = old.extractfile(member)
            data = file.read() if file else b""
            if member.name.endswith("model_config.yaml"):
                config = yaml.safe_load(data)
                change(config)
                data = yaml.safe_dump(config).encode()
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return target


def nothing(config: dict[str, Any]) -> None:
    """Leave the configuration as it is."""


def test_facts_of_the_multilingual_model(small_checkpoint: Checkpoint) -> None:
    assert small_checkpoint.model_class == "EncDecRNNTBPEModelWithPrompt"
    assert small_checkpoint.att_context_sizes == [[56, 3], [56, 0], [56, 6], [56, 13]]
    assert (small_checkpoint.sample_rate, small_checkpoint.mel_features, small_checkpoint.hop_samples) == (
        16000,
        128,
        160,
    )
    assert small_checkpoint.prompts is not None
    assert (small_checkpoint.prompts["en-US"], small_checkpoint.default_prompt_id) == (0, 101)
    assert small_checkpoint.num_prompts == 128
    assert small_checkpoint.blank_id == len(small_checkpoint.vocabulary) == 300
    tags = [small_checkpoint.vocabulary[index] for index in small_checkpoint.language_tag_ids]
    assert len(tags) == 39
    assert "<en-US>" in tags
    assert not any(tag in {"<unk>", "<s>"} for tag in tags)


def test_a_random_checkpoint_says_so(small_checkpoint: Checkpoint, demo_checkpoint: Checkpoint) -> None:
    assert small_checkpoint.is_random
    assert not demo_checkpoint.is_random


def test_facts_of_the_english_sibling(small_english_checkpoint: Checkpoint) -> None:
    assert small_english_checkpoint.model_class == "EncDecRNNTBPEModel"
    assert small_english_checkpoint.prompts is None
    assert small_english_checkpoint.default_prompt_id is None
    assert small_english_checkpoint.language_tag_ids == []
    geometry, _ = small_english_checkpoint.geometry(13)
    assert (geometry.left_context, geometry.chunk_frames) == (70, 14)


def test_lookahead_must_be_trained_or_forced(small_checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="not trained with lookahead 1; choose one of 0, 3, 6, 13"):
        small_checkpoint.geometry(1)
    geometry, warnings = small_checkpoint.geometry(1, force=True)
    assert geometry.att_context_size == [56, 1]
    assert "was forced" in warnings[0]
    with pytest.raises(UserError, match="no multiple of lookahead 4"):
        small_checkpoint.geometry(4, force=True)
    with pytest.raises(UserError, match="use 0 or more"):
        small_checkpoint.geometry(-1)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.nemo").write_text("not a tar")
    with pytest.raises(UserError, match=r"text\.nemo: not a readable \.nemo archive"):
        open_checkpoint(tmp_path / "text.nemo")
    with pytest.raises(UserError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "absent.nemo")
    with pytest.raises(UserError, match="is a folder"):
        open_checkpoint(tmp_path)


def test_truncated_archive(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    data = small_checkpoint.path.read_bytes()
    (tmp_path / "cut.nemo").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.nemo: .*download it again"):
        load_model(open_checkpoint(tmp_path / "cut.nemo"))


def test_missing_weights_and_tokenizer(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        open_checkpoint(repack(small_checkpoint.path, tmp_path / "a.nemo", nothing, drop=".ckpt"))
    with pytest.raises(UserError, match="tokenizer is missing"):
        open_checkpoint(repack(small_checkpoint.path, tmp_path / "b.nemo", nothing, drop="tokenizer.model"))
    with pytest.raises(UserError, match=r"holds no model_config\.yaml"):
        open_checkpoint(repack(small_checkpoint.path, tmp_path / "c.nemo", nothing, drop="model_config.yaml"))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (None, "target", "nemo.collections.asr.models.EncDecCTCModelBPE", "is a EncDecCTCModelBPE"),
        ("encoder", "att_context_style", "regular", "att_context_style is 'regular'"),
        ("encoder", "self_attention_model", "abs_pos", "self_attention_model is 'abs_pos'"),
        ("encoder", "causal_downsampling", False, "causal_downsampling is False"),
        ("preprocessor", "normalize", "per_feature", "cannot be streamed"),
        ("preprocessor", "window_stride", 0.0125, "preprocessor.window_stride is 0.0125, supported is 0.01 s"),
        ("preprocessor", "window_size", 0.02, "preprocessor.window_size is 0.02, supported is 0.025 s"),
    ],
)
def test_other_architectures(
    tmp_path: Path, small_checkpoint: Checkpoint, section: str | None, key: str, value: Any, message: str
) -> None:
    def change(config: dict[str, Any]) -> None:
        (config[section] if section else config)[key] = value

    with pytest.raises(UserError, match=message):
        open_checkpoint(repack(small_checkpoint.path, tmp_path / "other.nemo", change))


def test_reading_facts_needs_neither_torch_nor_nemo(small_checkpoint: Checkpoint) -> None:
    code = (
        "import sys; from export.checkpoint import open_checkpoint; "
        f"open_checkpoint({str(small_checkpoint.path)!r}).geometry(0); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'nemo')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
