"""The embedded demo checkpoint, its held-out evaluation set and a calibration set: paths, nothing to load.

Neither torch nor NeMo is needed to import this module.
"""

from __future__ import annotations

from pathlib import Path

_DIRECTORY = Path(__file__).parent

CHECKPOINT: Path = _DIRECTORY / "demo.nemo"
"""The checkpoint, a real ``EncDecRNNTBPEModelWithPrompt`` of NeMo."""

MANIFEST: Path = _DIRECTORY / "manifest.jsonl"
"""NeMo manifest of the evaluation set; ``audio_filepath`` is relative to its folder."""

CALIBRATION: Path = _DIRECTORY / "calibration.jsonl"
"""NeMo manifest of the set that recipes are calibrated with: no voice or sentence of training or evaluation."""
