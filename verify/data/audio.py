"""Audio files as the mono float signal that a recognizer takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from export.errors import UserError

LOUDEST = 256.0
"""Beyond this, samples are not ±1 audio: 16-bit integers that were not scaled, or a damaged float file."""


def audio_problem(signal: NDArray[np.float32]) -> str | None:
    """Why a signal of ±1 cannot be recognized, or None. What a step takes in stays in a stream's caches."""
    if not np.isfinite(signal).all():
        return "holds samples that are not finite"
    if np.abs(signal).max(initial=0.0) > LOUDEST:
        return f"holds samples beyond ±{LOUDEST:g}, where full scale is ±1"
    return None


def load_audio(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Read any format that libsndfile knows, average the channels, and resample.

    Args:
        path: WAV, FLAC, OGG, MP3, … file.
        sample_rate: wanted rate in Hz.

    Returns:
        Signal of shape [samples], nominally within ±1.

    Raises:
        UserError: the file is missing, no audio, empty, or holds values that are no audio.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such audio file; check the path")
    try:
        signal, rate = soundfile.read(path, dtype="float32", always_2d=True)  # [samples, channels]
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).strip().rstrip(".").rsplit(": ", 1)[-1]
        raise UserError(f"{path}: cannot be read as audio ({reason}); give a WAV, FLAC, OGG or MP3 file") from error
    if not signal.size:
        raise UserError(f"{path}: holds no samples; give a recording")
    mono = signal.mean(axis=1, dtype=np.float32)
    problem = audio_problem(mono)
    if problem:
        raise UserError(f"{path}: {problem}; record or convert it again")
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
        if not mono.size:
            raise UserError(f"{path}: holds no samples at {sample_rate} Hz; give a longer recording")
    return np.ascontiguousarray(mono, dtype=np.float32)
