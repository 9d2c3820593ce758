"""Recorded runs: what one side of a comparison transcribed, and enough about it to know what it was.

A run is made once and can be kept in a file, so that one reference serves many targets: the file's name is a hash
of the folder's or checkpoint's contents, of the audio and its languages, and of the runtime. Runs of a checkpoint are
always kept, because NeMo or Transformers need hours for a large set.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.checkpoint.hub import checkpoint_facts
from export.digest import code_sha256, digest, file_facts
from export.errors import UserError
from export.folders import write_atomically
from export.host import machine
from export.languages import prompt_language
from export.progress import note, task
from export.vocabulary import vocabulary_sha256
from verify.data.audio import audio_seconds
from verify.data.fleurs import cache_folder
from verify.data.manifest import Utterance, load_utterance
from verify.data.selection import spread_seconds
from verify.runtimes.generation1 import Generation1
from verify.runtimes.generation2 import Generation2
from verify.runtimes.graph import Config, precision_of, properties
from verify.runtimes.streaming import Recording, Recordings, Streaming
from verify.runtimes.streaming.recording import whole
from verify.runtimes.transcript import Recognizer, Transcript
from verify.unfinished import Unfinished

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

MANIFEST_LANGUAGE = "manifest"
"""Instead of a language: prompt every utterance with its own ``target_lang``."""


TIMED_SECONDS = 60.0
"""Audio that is transcribed chunk by chunk where the rest is not, so that a report's times of chunks are a client's."""

Runtime = Literal["generation1", "generation2", "streaming"]
"""How a folder is run: the published clients' loops, or the runtime without their flaws."""

RUNTIME_CODE = ("export/**/*.py", "verify/**/*.py", "quantize/recipe.py", "quantize/recipes.py")
"""What transcribes and judges, and all that it imports: edited code never reuses what older code gave."""

Oracle = Literal["nemo", "transformers"]
"""Whose streaming runs a checkpoint."""

OracleRuntime = Literal["nemo-streaming", "transformers-streaming"]
ORACLE_RUNTIMES: dict[Oracle, OracleRuntime] = {"nemo": "nemo-streaming", "transformers": "transformers-streaming"}
ORACLE_NAMES: dict[Oracle, str] = {"nemo": "NeMo", "transformers": "Transformers"}
ORACLE_PACKAGES: dict[Oracle, tuple[str, ...]] = {
    "nemo": ("nemo_toolkit", "torch"),
    "transformers": ("transformers", "torch"),
}
"""Distributions that an oracle's transcripts depend on."""

ORACLE_CODE = (
    "export/*.py", "export/checkpoint/*.py", "export/graphs/modules.py", "export/demo/*.py",
    "verify/data/*.py", "verify/references/*.py",
    "verify/runtimes/transcript.py",
)  # fmt: skip
"""What an oracle's transcripts depend on of ours: edited runtimes and scores leave them as they are."""

RUNTIMES: dict[Runtime, type[Generation1 | Streaming]] = {
    "generation1": Generation1,
    "generation2": Generation2,
    "streaming": Streaming,
}


def open_runtime(bundle: Bundle, runtime: Runtime, *, nemo_start: bool = False, **options: Any) -> Recognizer:
    """A folder under a runtime.

    Args:
        bundle: the folder.
        runtime: a name of :data:`RUNTIMES`.
        nemo_start: begin streams as NeMo does; only the streaming runtime can.
        options: of every runtime.
    """
    if nemo_start:
        options["nemo_start"] = True
    return RUNTIMES[runtime](bundle, **options)


def best_runtime(bundle: Bundle) -> Runtime:
    """The streaming runtime where a folder's graph knows how streams begin, else the clients' loop."""
    return "streaming" if bundle.metadata.lead_mel_frames else "generation1"


class Side(BaseModel):
    """One side of a comparison: what ran, from which checkpoint, with which recipe, on what."""

    model_config = ConfigDict(frozen=True)

    name: str  # folder or checkpoint, as the user gave it
    runtime: Runtime | OracleRuntime
    checkpoint: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    encoder: str | None = None
    lookahead: int | None = None
    chunk_ms: float | None = None  # new audio a step
    vocabulary_sha256: str | None = None  # the checkpoint's, of all its pieces
    pruned: dict[str, Any] = Field(default_factory=dict)  # metadata.vocabulary: how tokens become the checkpoint's
    lang_tag_token_ids: list[int] = Field(default_factory=list)
    size_bytes: int = 0
    files: dict[str, str] = Field(default_factory=dict)  # SHA-256 of a folder's files by name
    device: str = "CPU"
    config: dict[str, str] = Field(default_factory=dict)
    precision: str | None = None  # that a folder's graphs compute in
    nemo_start: bool = False  # a stream begins as NeMo's do in the folder's chunk; see Streaming
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=machine)

    @property
    def oracle(self) -> Oracle | None:
        """Whose streaming ran a checkpoint; None where a folder ran."""
        return next((each for each, runtime in ORACLE_RUNTIMES.items() if runtime == self.runtime), None)


class Run(BaseModel):
    """A side's transcripts of a manifest, in its order."""

    side: Side
    manifest_sha256: str
    language: str
    transcripts: list[Transcript]


def bundle_side(
    bundle: Bundle,
    *,
    runtime: Runtime = "generation1",
    device: str = "CPU",
    threads: int | None = None,
    config: Config | None = None,
    nemo_start: bool = False,
) -> Side:
    """A folder under one of the runtimes."""
    meta, wanted = bundle.metadata, properties(threads, config)
    return Side(
        name=str(bundle.path),
        runtime=runtime,
        checkpoint=meta.checkpoint,
        recipe=meta.recipe,
        encoder=meta.encoder,
        lookahead=meta.att_context_size[1],
        chunk_ms=1000.0 * meta.chunk_mel_frames / 100,
        vocabulary_sha256=meta.vocabulary.get("checkpoint_sha256") or vocabulary_sha256(bundle.vocabulary),
        pruned=meta.vocabulary,
        lang_tag_token_ids=meta.lang_tag_token_ids,
        size_bytes=bundle.size_bytes,
        device=device,
        config=wanted,
        precision=precision_of(wanted, device),
        nemo_start=nemo_start,
        versions={name: version(name) for name in ("openvino", "nemotron-ov")},
    )


def checkpoint_side(
    checkpoint: Checkpoint, lookahead: int, chunk_frames: int | None = None, *, oracle: Oracle = "nemo"
) -> Side:
    """A checkpoint under an oracle's own streaming.

    Args:
        checkpoint: what runs.
        lookahead: right context R in encoder frames.
        chunk_frames: encoder frames a step of NeMo's; None for its own R + 1. Transformers has no other steps.
        oracle: whose streaming.

    Raises:
        ModuleNotFoundError: the oracle is not installed.
    """
    geometry, _ = checkpoint.geometry(lookahead, force=True)
    frames = chunk_frames if chunk_frames and oracle == "nemo" else lookahead + 1
    return Side(
        name=checkpoint.source,
        runtime=ORACLE_RUNTIMES[oracle],
        checkpoint=checkpoint_facts(checkpoint),
        lookahead=lookahead,
        chunk_ms=frames * geometry.frame_ms,
        vocabulary_sha256=vocabulary_sha256(checkpoint.vocabulary),
        lang_tag_token_ids=checkpoint.language_tag_ids,
        size_bytes=checkpoint.size_bytes,
        versions={name: version(name) for name in (*ORACLE_PACKAGES[oracle], "nemotron-ov")},
    )


def transcribe_manifest(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    sample_rate: int,
    language: str = MANIFEST_LANGUAGE,
    title: str = "transcribing",
    unfinished: Unfinished | None = None,
) -> list[Transcript]:
    """Every utterance's transcript, in order, with progress.

    Args:
        recognizer: the runtime.
        utterances: what to transcribe.
        sample_rate: the model's, in Hz.
        language: prompt for all of them, or :data:`MANIFEST_LANGUAGE` for each utterance's own.
        title: what the progress says.
        unfinished: what an earlier run got through, to which this run's transcripts are added.

    Raises:
        UserError: an audio file cannot be used.
    """

    def each(numbers: Sequence[int]) -> Generator[tuple[int, Transcript]]:
        for number in numbers:
            utterance = utterances[number]
            yield number, recognizer.transcribe(load_utterance(utterance, sample_rate), prompt_of(utterance, language))

    return _collected(each, utterances, title, unfinished)


def transcribe_recordings(
    bundle: Bundle,
    utterances: Sequence[Utterance],
    *,
    language: str,
    title: str,
    unfinished: Unfinished | None = None,
    **options: Any,
) -> list[Transcript]:
    """A folder's transcripts by the streaming runtime, as many audio seconds a second as it can.

    Where there is much audio, :data:`TIMED_SECONDS` of it go one after another in one-chunk steps, since only so a
    chunk's time means something; the others go together (:class:`Recordings`), the longest first. Other arguments as in
    :func:`transcribe_manifest`; ``options`` are those of both runtimes.
    """
    rate = bundle.metadata.sample_rate
    lengths = [each.duration or audio_seconds(each.audio_filepath) for each in utterances]
    is_much = sum(lengths) >= 2 * TIMED_SECONDS
    timed = spread_seconds(utterances, TIMED_SECONDS) if is_much else utterances
    alone = {id(each) for each in timed}

    def both(numbers: Sequence[int]) -> Generator[tuple[int, Transcript]]:
        first = [number for number in numbers if id(utterances[number]) in alone]
        others = sorted(set(numbers) - set(first), key=lambda number: -lengths[number])
        if first:
            recognizer = Streaming(bundle, **options)
            for number in first:
                audio = load_utterance(utterances[number], rate)
                yield number, recognizer.transcribe(audio, prompt_of(utterances[number], language))
            del recognizer
            gc.collect()  # before the graphs are compiled anew
        if others:
            recordings = Recordings(bundle, [lengths[number] for number in others], **options)
            waiting = (
                (number, Recording(partial(_whole, utterances[number], rate), prompt_of(utterances[number], language)))
                for number in others
            )
            with closing(recordings.transcribe(waiting)) as results:
                for number, outcome in results:
                    yield number, whole(outcome)

    return _collected(both, utterances, title, unfinished)


def _whole(utterance: Utterance, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """An utterance in one block."""
    yield load_utterance(utterance, sample_rate)


def _collected(
    transcribe: Callable[[Sequence[int]], Generator[tuple[int, Transcript]]],
    utterances: Sequence[Utterance],
    title: str,
    unfinished: Unfinished | None,
) -> list[Transcript]:
    """Transcripts in the utterances' order, those of an earlier run and those that ``transcribe`` gives by number."""
    if unfinished:
        note(f"{title}: {len(unfinished)} transcripts of a run that was stopped are used")
    identities = [] if unfinished is None else [utterance_sha256(each) for each in utterances]
    found: dict[int, Transcript] = {}
    for number, identity in enumerate(identities):
        kept = unfinished.find(identity) if unfinished is not None else None
        if kept is not None:
            found[number] = kept
    left = [number for number in range(len(utterances)) if number not in found]
    with task(title, total=len(utterances)) as progress, closing(transcribe(left)) as transcripts:
        progress.advance(len(found))
        for number, transcript in transcripts:
            if unfinished is not None:
                _require_unchanged([utterances[number]], [identities[number]])
                unfinished.add(identities[number], transcript)
            found[number] = transcript
            progress.advance()
    return [found[number] for number in range(len(utterances))]


def _require_unchanged(utterances: Sequence[Utterance], identities: Sequence[str]) -> None:
    """Refuse to keep transcripts under the identities of audio that is no longer there.

    Raises:
        UserError: naming the first recording that changed.
    """
    for utterance, identity in zip(utterances, identities, strict=True):
        if not utterance.audio_filepath.is_file() or utterance_sha256(utterance) != identity:
            raise UserError(f"{utterance.audio_filepath}: changed while it was transcribed; run again when it is whole")


def prompt_of(utterance: Utterance, language: str) -> str:
    """The language that prompts an utterance: its own for :data:`MANIFEST_LANGUAGE`."""
    return utterance.target_lang if language == MANIFEST_LANGUAGE else language


def record_bundle(
    bundle: Bundle,
    utterances: Sequence[Utterance],
    *,
    runtime: Runtime = "generation1",
    language: str = MANIFEST_LANGUAGE,
    device: str = "CPU",
    threads: int | None = None,
    config: Config | None = None,
    nemo_start: bool = False,
    cache: Path | None = None,
) -> Run:
    """A folder's run under a runtime; ``cache`` is a folder of recorded runs to reuse and add to."""
    side = bundle_side(bundle, runtime=runtime, device=device, threads=threads, config=config, nemo_start=nemo_start)
    side = side.model_copy(update={"files": bundle.hashes})

    def make(unfinished: Unfinished | None) -> list[Transcript]:
        prompt = prompt_language(language, bundle.metadata.prompt_dictionary)
        title = f"transcribing with {bundle.path.name}"
        options: dict[str, Any] = {"threads": threads, "config": config, "nemo_start": nemo_start}
        if runtime == "streaming" and device == "CPU":
            return transcribe_recordings(
                bundle, utterances, language=prompt, title=title, unfinished=unfinished, **options
            )
        return transcribe_manifest(
            open_runtime(bundle, runtime, device=device, **options),
            utterances,
            sample_rate=bundle.metadata.sample_rate,
            language=prompt,
            title=title,
            unfinished=unfinished,
        )

    def contents() -> Any:
        return bundle.metadata.model_dump(), side.files

    return _record(side, utterances, language, make, contents, cache)


def record_checkpoint(
    checkpoint: Checkpoint,
    lookahead: int,
    utterances: Sequence[Utterance],
    *,
    chunk_frames: int | None = None,
    language: str = MANIFEST_LANGUAGE,
    model: EncDecRNNTBPEModel | None = None,
    cache: Path | None = None,
    oracle: Oracle = "nemo",
) -> Run:
    """A checkpoint's run under an oracle, kept in ``cache`` and for every other comparison in :func:`oracle_runs`.

    Other arguments are those of :func:`checkpoint_side`, :func:`record_bundle` and ``NemoStreaming``.
    """
    side = checkpoint_side(checkpoint, lookahead, chunk_frames, oracle=oracle)

    def open_oracle() -> Recognizer:
        if oracle == "nemo":
            from verify.references.nemo import NemoStreaming

            return NemoStreaming(checkpoint, lookahead, model, chunk_frames=chunk_frames)
        from verify.references.transformers import TransformersStreaming

        return TransformersStreaming(checkpoint, lookahead)

    def make(unfinished: Unfinished | None) -> list[Transcript]:
        return transcribe_manifest(
            open_oracle(),
            utterances,
            sample_rate=checkpoint.sample_rate,
            language=language,
            title=f"transcribing with {ORACLE_NAMES[oracle]} at lookahead {lookahead}, chunks of {side.chunk_ms:g} ms",
            unfinished=unfinished,
        )

    return _record(
        side, utterances, language, make, lambda: checkpoint.identity, cache, code=ORACLE_CODE, home=oracle_runs()
    )


def oracle_runs() -> Path | None:
    """The folder where oracles' runs are kept for all comparisons; None, with a note, where it cannot be written."""
    folder = cache_folder() / "oracles"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        note(f"{folder}: cannot be written ({error.strerror or error}), so the oracle's transcripts are not kept there")
        return None
    return folder if os.access(folder, os.W_OK) else None


def require_as_installed(run: Run) -> None:
    """Refuse an oracle's recorded run that the oracle's version here would not have made.

    An oracle that is not installed contradicts nothing: the run stands for it.

    Raises:
        UserError: naming the package and both versions.
    """
    for name in ORACLE_PACKAGES[run.side.oracle] if run.side.oracle else ():
        try:
            here = version(name)
        except PackageNotFoundError:
            continue
        there = run.side.versions.get(name, "an unknown version")
        if there != here:
            raise UserError(
                f"{run.side.name}: was recorded with {name} {there}, and {here} is installed; give the checkpoint as "
                "--reference, so that it is recorded again"
            )


def _record(
    side: Side,
    utterances: Sequence[Utterance],
    language: str,
    make: Callable[[Unfinished | None], list[Transcript]],
    contents: Callable[[], Any],
    cache: Path | None,
    *,
    code: Sequence[str] = RUNTIME_CODE,
    home: Path | None = None,
) -> Run:
    """A run from one of the folders, or made; afterwards it is in both."""
    identities = [utterance_sha256(each) for each in utterances]
    audio = manifest_sha256(utterances)
    folders = list(dict.fromkeys(each for each in (cache, home) if each is not None))
    if not folders:
        run = Run(side=side, manifest_sha256=audio, language=language, transcripts=make(None))
        _require_unchanged(utterances, identities)
        return run
    facts = side.model_dump(exclude={"name", "size_bytes", "checkpoint", "files"})
    inputs = [facts, contents(), language, code_sha256(*code)]
    files = [folder / f"{digest([*inputs, audio])}.json" for folder in folders]
    found = {file: _kept(file, side) for file in files}
    kept = next((each for each in found.values() if each is not None), None)
    unfinished = None
    if kept is None:
        unfinished = Unfinished(folders[0] / f"{digest(inputs)}.jsonl", asked=cache is not None)
        run = Run(side=side, manifest_sha256=audio, language=language, transcripts=make(unfinished))
        _require_unchanged(utterances, identities)
    else:
        run = kept
        note(f"{side.name}: transcripts reused from {next(file for file, each in found.items() if each is not None)}")
    for file in (file for file, each in found.items() if each is None):
        try:
            save_transcripts(file, run)
        except UserError as error:
            if file.parent == cache:
                raise
            note(f"warning: {error}")  # nobody asked for it there, and the transcripts are here
        else:
            kept = run
    if unfinished is not None and kept is not None:
        unfinished.done()
    return run


def _kept(file: Path, side: Side) -> Run | None:
    """The run of a file, if it is there and is one."""
    if not file.is_file():
        return None
    try:
        run = load_transcripts(file)
    except UserError as error:
        note(f"warning: {error}")
        return None
    return run.model_copy(update={"side": side})


def manifest_sha256(utterances: Sequence[Utterance]) -> str:
    """Identity of what is transcribed: every audio file's contents, the part meant, and language, in order.

    Texts do not count, and an utterance that is all of its file is the same with and without a duration.
    """
    return digest([_identity(each) for each in utterances])


def utterance_sha256(utterance: Utterance) -> str:
    """Identity of one utterance, as :func:`manifest_sha256` of many."""
    return digest(_identity(utterance))


def _identity(utterance: Utterance) -> list[Any]:
    status = utterance.audio_filepath.stat()
    content = _audio_sha256(utterance.audio_filepath, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    try:
        cut = utterance.cut
    except UserError:  # no audio: it will be left out, and is the same file until it is mended
        cut = utterance.offset, utterance.duration
    return [content, utterance.target_lang, *(cut or ())]


@functools.lru_cache(maxsize=100_000)
def _audio_sha256(path: Path, *_state: int) -> str:
    """Of a file in this state: a manifest may name a long recording a thousand times, for its parts."""
    return str(file_facts(path)["sha256"])


def save_transcripts(path: Path, run: Run) -> None:
    """Write a run as JSON; the file appears only when complete."""
    write_atomically(path, run.model_dump_json() + "\n")


def load_transcripts(path: Path) -> Run:
    """Read what :func:`save_transcripts` wrote.

    Raises:
        UserError: the file is missing or is no recorded run.
    """
    try:
        run = Run.model_validate_json(path.read_text(encoding="utf-8"))
        if any(len(each.tokens) != len(each.frames) for each in run.transcripts):
            raise UserError(f"{path}: has a transcript whose tokens and frames differ in number; record it again")
        return run
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); record the reference again") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no recorded run; give what `verify --cache` kept, or a folder") from error
