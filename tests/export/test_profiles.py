"""Profiles: what they settle for a checkpoint, and that a folder knows its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import UserError
from export.pipeline import export_checkpoint
from export.profiles import CUSTOM, PROFILES, Asked, Settings, profile_name, tier_warnings
from tests.helpers.command import run_here


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("published", Settings(0, 1120, "channel")),
        ("80ms", Settings(0, 80, "kv")),
        ("160ms", Settings(0, 160, "kv")),  # these checkpoints were not trained with a lookahead of 1
        ("320ms", Settings(3, 320, "kv")),
        ("560ms", Settings(6, 560, "kv")),
        ("1120ms", Settings(13, 1120, "kv")),
    ],
)
def test_a_profile_takes_the_longest_trained_lookahead_that_fits(
    small_checkpoint: Checkpoint, profile: str, expected: Settings
) -> None:
    assert Asked(profile).settings(small_checkpoint) == expected
    assert profile_name(small_checkpoint, expected.lookahead, expected.chunk_ms or 0, expected.cache) == profile


def test_a_tier_without_its_lookahead_says_so(small_checkpoint: Checkpoint) -> None:
    (warning,) = tier_warnings(small_checkpoint, 0, 160, "kv")
    assert "chunks of 2 frames have lookahead 0; --lookahead 1 --chunk-ms 160 --cache kv --force-lookahead" in warning
    for lookahead, chunk_ms, cache in ((0, 80, "kv"), (3, 320, "kv"), (13, 1120, "kv"), (0, 1120, "channel")):
        assert tier_warnings(small_checkpoint, lookahead, chunk_ms, cache) == []


def test_a_trained_lookahead_of_one_is_used(small_checkpoint: Checkpoint) -> None:
    sizes = [*small_checkpoint.att_context_sizes, [56, 1]]
    config = small_checkpoint.config | {"encoder": small_checkpoint.encoder | {"att_context_size": sizes}}
    assert Asked("160ms").settings(replace(small_checkpoint, config=config)) == Settings(1, 160, "kv")


def test_all_profiles_are_parametrized_above() -> None:
    assert list(PROFILES) == ["published", "80ms", "160ms", "320ms", "560ms", "1120ms"]


def test_other_settings_are_custom(small_checkpoint: Checkpoint) -> None:
    assert profile_name(small_checkpoint, 3, 1120, "channel") == CUSTOM


def test_the_default_folder_is_the_published_profile(small_fp32: Bundle) -> None:
    assert small_fp32.metadata.profile == "published"


def test_a_tier_folder_says_so(small_checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_here(capfd, "export", small_checkpoint.path, tmp_path / "fp32", "--profile", "160ms")
    assert done.returncode == 0, done.stderr
    metadata = Bundle.open(tmp_path / "fp32").metadata
    assert (metadata.profile, metadata.cache, metadata.lookahead, metadata.chunk_ms) == ("160ms", "kv", 0, 160)
    assert metadata.cache_channel_shape[-1] == 2 * metadata.encoder_dim
    assert "warning: profile 160ms" in done.stderr
    shown = run_here(capfd, "inspect", tmp_path / "fp32")
    assert "160ms" in shown.stdout


@pytest.mark.parametrize(
    ("profile", "single", "message"),
    [
        ("fast", {}, "--profile fast: no such profile; choose one of published, 80ms"),
        ("80ms", {"lookahead": 3}, "--profile 80ms settles --lookahead"),
        ("published", {"chunk_ms": 560, "cache": "kv"}, "settles --chunk-ms, --cache"),
    ],
)
def test_contradictions_are_refused(
    small_checkpoint: Checkpoint, profile: str, single: dict[str, int | str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Asked(profile, **single).settings(small_checkpoint)  # type: ignore[arg-type]


def test_the_nemo_graph_has_no_kv_cache(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cache kv"):
        export_checkpoint(small_checkpoint, tmp_path / "fp32", encoder="nemo", cache="kv")
