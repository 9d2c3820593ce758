"""Audio files as the mono float signal that a recognizer takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from export.errors import UserError


def load_audio(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Read any format that libsndfile knows, average the channels, and resample.

    Args:
        path: WAV, FLAC, OGG, MP3, … file.
        sample_rate: wanted rate in Hz.

    Returns:
        Signal of shape [samples], nominally within ±1.

    Raises:
        UserError: the file is missing, no audio, empty, or holds values that are not finite.
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
    if not np.isfinite(mono).all():
        raise UserError(f"{path}: holds samples that are not finite; record or convert it again")
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
        if not mono.size:
            raise UserError(f"{path}: holds no samples at {sample_rate} Hz; give a longer recording")
    return np.ascontiguousarray(mono, dtype=np.float32)
