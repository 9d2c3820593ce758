"""``transcribe``: text of recordings, of folders of them, and of live audio."""

from __future__ import annotations

import sys
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from export.errors import INTERRUPTED, UserError, listed
from scripts.cli import options
from scripts.cli.result import Result, chatter_on_stderr

if TYPE_CHECKING:
    from export.bundle import Bundle
    from scripts.transcribe.run import Outcome
    from scripts.transcribe.sentences import RecordingTranscript
    from verify.runtimes.generation1 import Generation1
    from verify.runtimes.graph import Config
    from verify.runtimes.names import Runtime
    from verify.runtimes.streaming import Recordings, Streaming


class Format(StrEnum):
    """What goes to stdout."""

    text = "text"
    json = "json"
    jsonl = "jsonl"
    srt = "srt"
    vtt = "vtt"
    ctm = "ctm"


def transcribe(
    directory: options.Finished,
    audio: Annotated[
        list[str],
        typer.Argument(
            metavar="AUDIO...",
            help="Recordings that libsndfile reads, others where FFmpeg is installed; folders of them; '-': "
            "16-bit PCM or WAV on standard input.",
        ),
    ],
    language: Annotated[
        str, typer.Option(metavar="auto|xx-XX", help="What is spoken, or 'auto' to let the model find out.")
    ] = "auto",
    runtime: Annotated[
        options.RuntimeName | None,
        typer.Option(
            help="'streaming': ours; 'generation1', 'generation2': the published clients' loops. (default: streaming, "
            "generation1 for folders that cannot)"
        ),
    ] = None,
    flush: Annotated[
        bool, typer.Option(help="End each recording with silence, so that its last word is not lost (streaming only).")
    ] = True,
    form: Annotated[
        Format,
        typer.Option(
            "--format", help="'jsonl': one line a recording; 'json': one object; 'srt', 'vtt': subtitles; 'ctm': words."
        ),
    ] = Format.text,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Keep finished transcripts here; repeated, the command goes on."),
    ] = None,
    channel: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Take this channel. (default: the mix of all)")
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(metavar="HZ", min=1000, max=768_000, help="Of raw PCM on standard input. (default: the model's)"),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="CPU|GPU|NPU", help="What OpenVINO computes on; its log-mel stays on the CPU.")
    ] = "CPU",
    precision: options.PrecisionOption = options.Precision.f32,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the folder's hashes first, not only the sizes of its files.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Transcribe recordings with a finished folder, chunk by chunk.

    A recording that cannot be used is named, and the others are transcribed; exit status 2. Ctrl-C ends with what
    was recognized until then.
    """
    form = _form(form, as_json)
    with chatter_on_stderr() as out:
        from contextlib import nullcontext

        from export.bundle import Bundle
        from export.progress import note
        from scripts.transcribe.finished import Finished
        from scripts.transcribe.printing import Printer
        from scripts.transcribe.run import Transcriber, transcribe_all
        from scripts.transcribe.sources import STANDARD_INPUT, find_sources
        from verify.runtimes.graph import find_device
        from verify.runtimes.names import best_runtime

        bundle = Bundle.open(directory, check="hashes" if check else "sizes")
        language = options.language_of(bundle, language)
        recordings = find_sources(audio)
        _check(form, recordings, output, rate, STANDARD_INPUT)
        device = find_device(device)
        name = runtime.value if runtime else best_runtime(bundle)
        kept = None
        if output is not None:
            facts = {"language": language, "runtime": name, "flush": flush, "channel": channel}
            kept = Finished(output, bundle, device=device, precision=precision.value, **facts)
        with kept or nullcontext():
            transcriber = Transcriber(
                bundle,
                _recognizer(bundle, name, recordings, device, options.config_of(precision)),
                language,
                flush=flush,
                channel=channel,
                rate=rate,
                standard_input=FileIO(0, closefd=False) if STANDARD_INPUT in recordings else None,
            )
            outcome = transcribe_all(
                transcriber, recordings, Printer(bundle, recordings, form, out, channel or 1), kept
            )
    if form is Format.json:
        Result(_facts(bundle, name, outcome), list, as_json=True).show()
    if outcome.interrupted:
        partial = [each.audio for each in outcome.transcripts if each.partial]
        of = f"; only the beginning of {listed(partial, 8, ', ')}" if partial else ""
        note(f"interrupted; what was recognized until then is printed{of}")
        raise typer.Exit(INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(UserError.exit_code)


def _recognizer(
    bundle: Bundle, runtime: Runtime, recordings: list[str], device: str, config: Config | None
) -> Streaming | Recordings | Generation1:
    """Files go together where our runtime runs on the CPU; standard input is live, and goes chunk by chunk."""
    from scripts.transcribe.sources import STANDARD_INPUT
    from verify.data.sources import header_seconds
    from verify.runtimes.names import RUNTIMES
    from verify.runtimes.streaming import Recordings

    if runtime == "streaming" and device == "CPU" and STANDARD_INPUT not in recordings:
        return Recordings(bundle, [header_seconds(Path(each)) or 0.0 for each in recordings], config=config)
    return RUNTIMES[runtime](bundle, device=device, config=config)


def _form(form: Format, as_json: bool) -> Format:
    if as_json and form not in (Format.text, Format.json):
        raise UserError(f"--json: means --format json; leave it out with --format {form}")
    return Format.json if as_json else form


def _check(form: Format, recordings: list[str], output: Path | None, rate: int | None, standard_input: str) -> None:
    """Refuse what would not make sense after hours of work."""
    if form in (Format.srt, Format.vtt) and len(recordings) > 1:
        raise UserError(f"--format {form}: takes one recording, and {len(recordings)} are given; call it for each")
    if standard_input not in recordings:
        if rate is not None:
            raise UserError(f"--rate {rate}: is of raw PCM on standard input; leave it out, files say their own")
        return
    if output is not None:
        raise UserError(f"--output {output}: cannot go on with standard input; use --format jsonl > {output}")
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("-: standard input is a terminal; pipe audio into it: arecord -f S16_LE -r 16000 | …")


def _facts(bundle: Bundle, runtime: str, outcome: Outcome) -> dict[str, Any]:
    """The JSON object."""
    from export.host import peak_rss_mb
    from verify.speed import speed

    return {
        "folder": str(bundle.path),
        "runtime": runtime,
        "transcripts": [_transcript(recording) for recording in outcome.transcripts],
        "failed": [{"audio": audio, "error": reason} for audio, reason in outcome.failed],
        "interrupted": outcome.interrupted,
        "speed": speed(outcome.fresh).model_dump(),
        "peak_rss_mb": peak_rss_mb(),
    }


def _transcript(recording: RecordingTranscript) -> dict[str, Any]:
    from scripts.transcribe.formats import row
    from scripts.transcribe.sentences import sentences

    transcript = recording.transcript
    return {
        "audio": recording.audio,
        "text": transcript.text,
        "language": transcript.language,
        "tokens": transcript.tokens,
        "frames": transcript.frames,
        "seconds": transcript.audio_seconds,
        "time": recording.seconds,
        "partial": recording.partial,
        "words": row(recording)["words"],
        "segments": [
            {"start": each.start, "end": each.end, "text": each.text, "language": each.language}
            for each in sentences(recording.words)
        ],
    }
