"""Speech from espeak-ng: voices, delivery, joining, and the noise of recordings.

All audio is mono float32 at :data:`SAMPLE_RATE`; what :func:`degrade` returns is within ±1.
"""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from export.errors import UserError
from scripts.checkpoints.demo.corpus import Language, Split

Audio = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
SYNTHESIZER = "espeak-ng"
_SYNTHESIS_TIMEOUT_S = 60.0

_TRAINING_VARIANTS = (
    *("m1", "m2", "m3", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f5", "Andy", "Alex", "Alicia", "Andrea", "antonio"),
    *("belinda", "benjamin", "caleb", "david", "ed", "Hugo", "Jacky", "john", "Lee", "linda", "Mario", "Max"),
    *("norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "steph", "travis", "victor", "Zac"),
    *("shelby", "sandro", "marcelo"),
)

# Variants of espeak-ng's voices. No whispers, robots or croaks; the three lists have no voice in common.
VARIANTS: dict[Split, tuple[str, ...]] = {
    Split.TRAIN: _TRAINING_VARIANTS,
    Split.DEVELOPMENT: ("steph2", "miguel", "Denis"),
    Split.EVALUATION: ("m4", "f4", "michael", "Annie", "Gene"),
}


@dataclass(frozen=True)
class Delivery:
    """How a voice speaks one recording."""

    variant: str
    words_per_minute: int
    pitch: int  # espeak-ng's 0-99, 50 is the voice's own
    resample: float  # playback rate: 1.05 is five per cent faster and higher


@dataclass(frozen=True)
class Segment:
    """One sentence inside a recording, in samples."""

    start: int
    end: int


def draw_delivery(split: Split, rng: random.Random) -> Delivery:
    """Draw a voice of `split` with its speed and pitch."""
    return Delivery(
        variant=rng.choice(VARIANTS[split]),
        words_per_minute=rng.randint(140, 225),
        pitch=rng.randint(32, 68),
        resample=rng.uniform(0.94, 1.07),
    )


def synthesize(text: str, language: Language, delivery: Delivery) -> Audio:
    """Speak `text`; silence at both ends is cut off."""
    command = [
        require_synthesizer(), "-v", f"{language.espeak}+{delivery.variant}", "-s", str(delivery.words_per_minute),
        "-p", str(delivery.pitch), "--stdout", "--", text,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False, timeout=_SYNTHESIS_TIMEOUT_S)  # noqa: S603
    if done.returncode != 0 or not done.stdout:
        raise UserError(f"{' '.join(command[:-1])}: no audio: {done.stderr.decode(errors='replace').strip()}")
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    speech: Audio = soxr.resample(samples, rate * delivery.resample, SAMPLE_RATE).astype(np.float32)
    loud = np.flatnonzero(np.abs(speech) > 1e-3)
    if loud.size == 0:
        raise UserError(f"{' '.join(command[:-1])}: silence for {text!r}")
    return speech[loud[0] : loud[-1] + 1]


def require_synthesizer() -> str:
    """The synthesizer's path; a clear error where it is not installed."""
    path = shutil.which(SYNTHESIZER)
    if path is None:
        raise UserError(f"{SYNTHESIZER}: not found on the PATH: install it (`apt-get install espeak-ng`)")
    return path


def join(parts: list[Audio], rng: random.Random) -> tuple[Audio, list[Segment]]:
    """Lay `parts` one after another with pauses, leading and trailing silence; returns where each part is."""
    pieces = [_silence(_leading_seconds(rng))]
    segments = []
    position = pieces[0].size
    for index, part in enumerate(parts):
        pause = _silence(rng.uniform(0.15, 0.7) if index + 1 < len(parts) else rng.uniform(0.3, 1.0))
        segments.append(Segment(position, position + part.size))
        pieces += [part, pause]
        position += part.size + pause.size
    return np.concatenate(pieces), segments


def _leading_seconds(rng: random.Random) -> float:
    return rng.choice((0.0, rng.uniform(0.0, 0.3), rng.uniform(0.0, 1.2)))


def _silence(seconds: float) -> Audio:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def degrade(speech: Audio, rng: random.Random, noisy_share: float = 0.5, min_snr_db: float = 15.0) -> Audio:
    """Vary the level and, for `noisy_share` of the calls, add white or pink noise at `min_snr_db` to 45 dB SNR.

    The rest keeps exact digital zeros in its pauses.
    """
    peak = float(np.abs(speech).max())
    speech = speech * np.float32(10 ** (rng.uniform(-22.0, -1.0) / 20) / peak)
    if rng.random() < noisy_share:
        power = float(np.mean(np.square(speech[speech != 0.0])))
        noise = _noise(speech.size, rng)
        speech = speech + noise * np.float32(np.sqrt(power / 10 ** (rng.uniform(min_snr_db, 45.0) / 10)))
    clipped: Audio = np.clip(speech, -1.0, 1.0).astype(np.float32)
    return clipped


def _noise(size: int, rng: random.Random) -> Audio:
    """White or pink noise of unit power."""
    generator = np.random.default_rng(rng.getrandbits(32))
    white = generator.standard_normal(size).astype(np.float32)
    if rng.random() < 0.5:
        return white
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1.0))
    pink = np.fft.irfft(spectrum, size)
    unit: Audio = (pink / pink.std()).astype(np.float32)
    return unit
