"""Recorded runs: what one side of a comparison transcribed, and enough about it to know what it was.

A run is made once and can be kept in a file, so that one reference serves many targets: the file's name is a hash
of the folder's or checkpoint's contents, of the audio and its languages, and of the runtime. Runs of a checkpoint are
always kept, because NeMo or Transformers need hours for a large set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.checkpoint.hub import checkpoint_facts
from export.digest import code_sha256, digest
from export.errors import UserError
from export.host import installed_version, machine
from export.languages import prompt_language
from export.progress import note
from export.results import unseal, write_result
from export.vocabulary import vocabulary_sha256
from verify.data.fleurs import cache_folder
from verify.data.identity import manifest_sha256, require_unchanged, utterance_sha256
from verify.data.manifest import Utterance
from verify.runtimes.graph import Config, precision_of, properties
from verify.runtimes.names import Runtime
from verify.runtimes.transcript import Recognizer, Transcript
from verify.shards import MANIFEST_LANGUAGE, Build, Machines, transcribe_build, transcribe_manifest
from verify.unfinished import Unfinished

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

RUNTIME_CODE = (
    "export/**/*.py", "verify/**/*.py",
    "quantize/modes.py", "quantize/recipe.py", "quantize/recipe_file.py", "quantize/recipes.py", "quantize/steps.py",
)  # fmt: skip
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
    machines: Machines | None = None,
) -> Run:
    """A folder's run under a runtime.

    Args:
        bundle: the folder.
        utterances: the manifest.
        runtime: a name of :data:`verify.runtimes.names.RUNTIMES`.
        language: prompt for all of them, or :data:`verify.shards.MANIFEST_LANGUAGE`.
        device: OpenVINO device.
        threads: CPU threads.
        config: OpenVINO properties.
        nemo_start: see :class:`verify.runtimes.streaming.Streaming`.
        cache: a folder of recorded runs to reuse and add to.
        machines: where most of it is transcribed; None for this process.

    Raises:
        UserError: an input cannot be used.
    """
    side = bundle_side(bundle, runtime=runtime, device=device, threads=threads, config=config, nemo_start=nemo_start)
    side = side.model_copy(update={"files": bundle.hashes})

    def make(unfinished: Unfinished | None) -> list[Transcript]:
        prompt = prompt_language(language, bundle.metadata.prompt_dictionary)
        return transcribe_build(
            Build(bundle, runtime, prompt, device, threads, config, nemo_start),
            utterances,
            title=f"transcribing with {bundle.path.name}",
            unfinished=unfinished,
            machines=machines,
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
            check=checkpoint.require_unchanged,  # its weights are mapped
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
        here = installed_version(name)
        there = run.side.versions.get(name, "an unknown version")
        if here is not None and there != here:
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
        require_unchanged(utterances, identities)
        return run
    facts = side.model_dump(exclude={"name", "size_bytes", "checkpoint", "files"})
    inputs = [facts, contents(), language, code_sha256(*code)]
    files = [folder / f"{digest([*inputs, audio])}.json" for folder in folders]
    found = {file: _kept(file, side, audio, len(utterances)) for file in files}
    kept = next((each for each in found.values() if each is not None), None)
    unfinished = None
    if kept is None:
        unfinished = Unfinished(folders[0] / f"{digest(inputs)}.jsonl", asked=cache is not None)
        run = Run(side=side, manifest_sha256=audio, language=language, transcripts=make(unfinished))
        require_unchanged(utterances, identities)
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


def _kept(file: Path, side: Side, audio: str, utterances: int) -> Run | None:
    """The run of a file, if it is there, as it was written, and of this audio."""
    if not file.is_file():
        return None
    try:
        run = load_transcripts(file)
    except UserError:
        note(f"warning: {file}: cannot be read, or was edited or damaged; it is made again")
        return None
    if (run.manifest_sha256, len(run.transcripts)) != (audio, utterances):
        note(f"warning: {file}: holds transcripts of other recordings than its name says; it is made again")
        return None
    return run.model_copy(update={"side": side})


def save_transcripts(path: Path, run: Run) -> None:
    """Write a run as JSON with its hash; the file appears only when complete."""
    write_result(path, run.model_dump(mode="json"))


def load_transcripts(path: Path) -> Run:
    """Read what :func:`save_transcripts` wrote.

    Raises:
        UserError: the file is missing, is no recorded run, has no hash because an earlier version wrote it, or is no
            longer as it was written.
    """
    try:
        return Run.model_validate(unseal(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); record the reference again") from error
    except ValidationError as error:
        raise UserError(
            f"{path}: is no recorded run of this version, or was edited or damaged since; record the reference again "
            "with `verify --cache`, or give a folder"
        ) from error
