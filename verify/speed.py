"""Times of a recorded run."""

from __future__ import annotations

from collections.abc import Sequence

from verify.report import Speed, Spent, timed
from verify.runtimes.transcript import Timings, Transcript


def speed(transcripts: Sequence[Transcript]) -> Speed:
    """Times of a run, and what follows from them; see :class:`verify.report.Speed`."""
    here = [each for each in transcripts if each.worker is None]
    alone = [each for each in here if not each.together]
    spent = sum((each.timings for each in alone or here), start=Timings())
    seconds = {"mel": spent.mel, "encoder": spent.encoder, "decoder": spent.decoder, "joint": spent.joint}
    calls = {
        "mel": spent.mel_calls,
        "encoder": spent.encoder_calls,
        "decoder": spent.decoder_calls,
        "joint": spent.joint_calls,
    }
    steps = spent.encoder_calls if alone else 0
    return Speed(
        **timed(
            [
                Spent(each.audio_seconds, each.timings.wall, step_ms(each), each.together, each.worker)
                for each in transcripts
            ]
        ),
        encoder_ms=1000.0 * spent.encoder / steps if steps and spent.encoder else None,
        step_ms=1000.0 * spent.wall / steps if steps else None,
        seconds=seconds,
        calls=calls,
    )


def step_ms(transcript: Transcript) -> list[float]:
    """Milliseconds of each of its steps, to the microsecond."""
    return [round(1000.0 * seconds, 3) for seconds in transcript.timings.steps]
