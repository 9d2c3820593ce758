"""What a long recording costs, measured from outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from export.bundle import Bundle
from tests.helpers.command import run_process
from verify.data.audio import load_audio
from verify.data.manifest import default_manifest, read_manifest
from verify.data.selection import spread

RATE = 48_000


@pytest.mark.heavy
def test_an_hour_takes_no_more_memory_than_its_words(demo_int8: Bundle, tmp_path: Path) -> None:
    """48 kHz stereo: three quarters of an hour more are a gigabyte as decoded, and 173 MB at the model's rate."""
    spoken = np.concatenate(
        [load_audio(each.audio_filepath, 16_000) for each in spread(read_manifest(default_manifest()), 20)]
    )
    block = np.repeat(soxr.resample(spoken, 16_000, RATE)[:, None], 2, axis=1)
    peaks = {}
    for minutes in (15, 60):
        path, left = tmp_path / f"{minutes}.wav", minutes * 60 * RATE
        with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
            while left:
                file.write(block[:left])
                left -= min(left, len(block))
        done = run_process("transcribe", demo_int8.path, path, "--json", timeout=1200)
        result = json.loads(done.stdout)
        assert result["speed"]["audio_seconds"] == pytest.approx(minutes * 60, abs=0.1)
        assert len(result["transcripts"][0]["words"]) > minutes * 60
        peaks[minutes] = result["peak_rss_mb"]
        path.unlink()
    assert peaks[60] - peaks[15] < 100, peaks
