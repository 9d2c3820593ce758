"""Verify a folder: run both sides, compare, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import UserError
from export.vocabulary import checkpoint_ids
from verify.comparable import (
    check_not_calibrated_with,
    require_comparable,
    require_same_audio,
    require_usable_record,
)
from verify.compare import first_divergence
from verify.data.manifest import Utterance
from verify.data.selection import spread
from verify.limits import Limits, limits_for
from verify.margins import Cell, divergent_cell, margins_at
from verify.report import LogitDivergence, Output, Report, Row, scored
from verify.runs import Oracle, Run, Side, bundle_side, checkpoint_side, record_bundle, record_checkpoint
from verify.runtimes.graph import Config
from verify.runtimes.names import RUNTIMES, Runtime, best_runtime
from verify.runtimes.transcript import Transcript
from verify.scoring.agreement import count_agreement
from verify.scoring.divergence import divergence_between
from verify.scoring.normalization import DEFAULT_NORMALIZER
from verify.scoring.rows import divergence_at
from verify.shards import MANIFEST_LANGUAGE, Machines
from verify.speed import speed, step_ms


def verify_bundle(
    target: Bundle,
    reference: Bundle | Checkpoint | Run,
    utterances: Sequence[Utterance],
    *,
    oracles: Sequence[Oracle] = ("nemo",),
    limits: Limits | None = None,
    runtime: Runtime | None = None,
    language: str = MANIFEST_LANGUAGE,
    device: str = "CPU",
    threads: int | None = None,
    config: Config | None = None,
    nemo_start: bool = False,
    cache: Path | None = None,
    divergence: int = 0,
    normalizer: str = DEFAULT_NORMALIZER,
    machines: Machines | None = None,
) -> Report:
    """Compare a folder with its reference on a manifest.

    Args:
        target: the folder to judge.
        reference: a folder (FP32, usually), a checkpoint to be run by NeMo at the target's lookahead and in its
            chunks, or a recorded run.
        utterances: the manifest.
        oracles: who runs a checkpoint: the first gives the reference, a second one is only compared with,
            and does not count in the verdict. Transformers runs it in chunks of R + 1 encoder frames.
        limits: None takes what :func:`verify.limits.limits_for` finds.
        runtime: how the folders are run; None takes what the reference calls for (:func:`runtime_for`).
        language: prompt each utterance with its own language (``manifest``), or all with one (``auto``, ``de-DE``).
        device: OpenVINO device of the target; a reference folder always runs on the CPU.
        threads: CPU threads of both.
        config: OpenVINO properties of the target; a reference folder computes in FP32.
        nemo_start: run both sides as NeMo begins a stream in the target's chunk; see
            :class:`verify.runtimes.streaming.Streaming`. Without it NeMo takes the shortest clean step. Set where the
            streaming runtime runs a folder that was exported before its graph knew how to begin cleanly.
        cache: folder where both runs are kept, for other targets of this reference and other references.
        divergence: on how many of the utterances the logits are compared too, along the reference folder's own path.
        normalizer: the form in which texts are compared, a name of :mod:`verify.scoring.normalization`.
        machines: where folders transcribe; None for this process, as checkpoints, margins and logits always.

    Raises:
        UserError: the two sides do not belong together, the folder was calibrated with an utterance, or an input cannot
            be used.
    """
    runtime = runtime or runtime_for(target, reference)
    nemo_start = _nemo_start(target, reference, runtime, asked=nemo_start)
    side = bundle_side(target, runtime=runtime, device=device, threads=threads, config=config, nemo_start=nemo_start)
    # What can be known before hours of transcribing is checked before.
    if isinstance(reference, Run):
        require_usable_record(reference, target, side)
    check_not_calibrated_with(target, utterances)
    if divergence and not isinstance(reference, Bundle):
        raise UserError(f"--divergence {divergence}: needs a folder as --reference; give one, or leave it out")
    logits = None
    if divergence and isinstance(reference, Bundle):
        chosen = spread(utterances, divergence)
        found = divergence_between(reference, target, chosen, threads=threads, config=config)
        logits = LogitDivergence(utterances=len(chosen), **vars(found))
    record = partial(
        record_bundle,
        utterances=utterances,
        runtime=runtime,
        language=language,
        threads=threads,
        nemo_start=nemo_start,
        cache=cache,
        machines=machines,
    )
    exact, witness = _exact(target, reference), None
    if isinstance(reference, Bundle):
        require_comparable(side, bundle_side(reference, runtime=runtime))
        reference = record(reference)
    elif isinstance(reference, Checkpoint):
        reference, witness = _run_oracles(reference, target, side, utterances, oracles, language=language, cache=cache)
    run = record(target, device=device, config=config)
    require_same_audio(run, reference, utterances)
    margins = None
    if exact is not None:
        cells = _divergent_cells(run, reference)
        margins = margins_at(
            exact, cells, utterances, runtime=runtime, language=language, threads=threads, nemo_start=nemo_start
        )
    report = compare_runs(
        run, reference, utterances, witness=witness, limits=limits, margins=margins, normalizer=normalizer
    )
    return report.model_copy(update={"divergence": logits, "pieces": _pieces(target, report.rows)})


def _pieces(bundle: Bundle, rows: Sequence[Row]) -> dict[int, str]:
    """What the folder writes for the tokens at which utterances diverge, but for what it was pruned of."""
    tokens: set[int | None] = set()
    for row in rows:
        place = first_divergence(row.reference.tokens, row.target.tokens)
        if place is not None:
            first = divergence_at(row, place)
            tokens |= {first.expected, first.actual}
    ids = checkpoint_ids(bundle.metadata.vocabulary) or range(len(bundle.vocabulary))
    written = zip(ids, bundle.vocabulary, strict=False)  # blank has no piece
    return {token: piece.encode(errors="replace").decode() for token, piece in written if token in tokens}


def _nemo_start(target: Bundle, reference: Bundle | Checkpoint | Run, runtime: Runtime, *, asked: bool) -> bool:
    """Whether streams begin as NeMo's do: where that is asked for, and where a folder's graph knows no other start.

    Raises:
        UserError: asked for in a clients' loop.
    """
    if runtime != "streaming":
        if asked:
            raise UserError(f"--nemo-start: the {runtime} loop begins as its clients do; add --runtime streaming")
        return False
    folders = [target, reference] if isinstance(reference, Bundle) else [target]
    return asked or not all(folder.metadata.knows_short_leads for folder in folders)


def _exact(target: Bundle, reference: Bundle | Checkpoint | Run) -> Bundle | None:
    """The FP32 folder of the two sides, whose margins are measured where tokens differ; None where there is none.

    Where FP32's best token leads by as little as rounding, rounding alone decides.
    """
    if isinstance(reference, Run) and reference.side.oracle is None:
        return None
    folder = reference if isinstance(reference, Bundle) else target
    fp32 = not folder.metadata.recipe.get("hash") and folder.metadata.precision.upper() == "FP32"
    return folder if fp32 else None


def _run_oracles(
    checkpoint: Checkpoint,
    target: Bundle,
    side: Side,
    utterances: Sequence[Utterance],
    oracles: Sequence[Oracle],
    *,
    language: str,
    cache: Path | None,
) -> tuple[Run, Run | None]:
    """A checkpoint's run by the first oracle, and by the second one where there is one."""
    lookahead = target.metadata.att_context_size[1]
    chunk_frames = nemo_chunk_frames(target, checkpoint, nemo_start=side.nemo_start)
    require_comparable(side, checkpoint_side(checkpoint, lookahead, chunk_frames, oracle=oracles[0]))
    if "transformers" in oracles:
        from export.checkpoint.transformers import check_fixed

        check_fixed(checkpoint)
    run, *others = [
        record_checkpoint(
            checkpoint, lookahead, utterances, chunk_frames=chunk_frames, language=language, cache=cache, oracle=oracle
        )
        for oracle in oracles
    ]
    return run, next(iter(others), None)


def _divergent_cells(target: Run, reference: Run) -> dict[int, Cell]:
    """Where two runs diverge, by the number of the utterance; none of an utterance with the same tokens."""
    pairs = zip(_in_checkpoint_ids(target), _in_checkpoint_ids(reference), strict=True)
    return {
        number: cell
        for number, (ours, theirs) in enumerate(pairs)
        if (cell := divergent_cell(ours, theirs)) is not None
    }


def nemo_chunk_frames(target: Bundle, checkpoint: Checkpoint, *, nemo_start: bool = False) -> int:
    """Encoder frames a step of NeMo's own streaming, as a folder's reference."""
    meta = target.metadata
    frames = meta.chunk_mel_frames // meta.subsampling_factor
    geometry, _ = checkpoint.geometry(meta.att_context_size[1], round(frames * checkpoint.frame_ms), force=True)
    return frames if nemo_start else geometry.clean_chunk_frames


def runtime_for(target: Bundle, reference: Bundle | Checkpoint | Run) -> Runtime:
    """How a folder is run by default.

    Against an oracle by the streaming runtime, where its graph allows that; against a recorded run as that was made;
    else by the generation-1 loop, which is what clients run.
    """
    if isinstance(reference, Checkpoint) or (isinstance(reference, Run) and reference.side.oracle is not None):
        return best_runtime(target)
    recorded = reference.side.runtime if isinstance(reference, Run) else "generation1"
    return recorded if recorded in RUNTIMES else "generation1"


def compare_runs(
    target: Run,
    reference: Run,
    utterances: Sequence[Utterance],
    *,
    witness: Run | None = None,
    limits: Limits | None = None,
    margins: Mapping[int, float] | None = None,
    normalizer: str = DEFAULT_NORMALIZER,
) -> Report:
    """Compare two recorded runs of the same manifest; no model is needed.

    Args:
        target: what is judged.
        reference: what it is compared with.
        utterances: the manifest.
        witness: a second reference, of which only the tokens are compared.
        limits: None takes what :func:`verify.limits.limits_for` finds.
        margins: FP32's where the tokens of an utterance differ, by its number; see :mod:`verify.margins`.
        normalizer: as in :func:`verify_bundle`.

    Raises:
        UserError: the runs are of different checkpoints, manifests or languages.
    """
    require_same_audio(target, reference, utterances)
    if witness is not None:
        require_same_audio(target, witness, utterances)
    limits = limits or limits_for(target.side, reference.side)
    rows = [
        Row(
            audio=utterance.audio_filepath.name,
            audio_filepath=str(utterance.audio_filepath),
            offset=utterance.offset,
            audio_seconds=ours.audio_seconds,
            language=utterance.target_lang,
            text=utterance.text,
            sentence=None if utterance.sentence_id is None else str(utterance.sentence_id),
            target=_output(ours),
            reference=_output(theirs),
            margin=(margins or {}).get(number),
            witness=None if witness is None else _output(witness.transcripts[number]),
        )
        for number, (utterance, ours, theirs) in enumerate(
            zip(utterances, _in_checkpoint_ids(target), _in_checkpoint_ids(reference), strict=True)
        )
    ]
    return Report(
        **scored(rows, limits.tolerance, target.side, reference.side, normalizer=normalizer),
        limits=limits.tolerance,
        limits_of=limits.whose,
        target=target.side,
        reference=reference.side,
        witness=None if witness is None else witness.side,
        agreement=count_agreement([row.agree for row in rows]),
        language=target.language,
        manifest_sha256=target.manifest_sha256,
        speed=speed(target.transcripts),
        reference_speed=speed(reference.transcripts),
        witness_speed=None if witness is None else speed(witness.transcripts),
        rows=rows,
    )


def _in_checkpoint_ids(run: Run) -> list[Transcript]:
    """The transcripts with the checkpoint's ids as tokens, to which a folder with a pruned vocabulary has its own."""
    ids = checkpoint_ids(run.side.pruned)
    if ids is None:
        return run.transcripts
    return [replace(each, tokens=[ids[token] for token in each.tokens]) for each in run.transcripts]


def _output(transcript: Transcript) -> Output:
    return Output(
        tokens=transcript.tokens,
        frames=transcript.frames,
        text=transcript.text,
        language=transcript.language,
        seconds=transcript.timings.wall if transcript.worker is None else None,
        step_ms=step_ms(transcript),
        together=transcript.together,
        worker=transcript.worker,
    )
