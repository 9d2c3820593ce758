"""Verify a folder: run both sides, compare, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import UserError
from export.geometry import clean_frames, dropped_frames
from export.vocabulary import checkpoint_ids
from verify.collect import matching_recordings
from verify.data.manifest import Utterance
from verify.data.selection import spread
from verify.limits import Limits, limits_for
from verify.margins import margins_at, parting_cell
from verify.report import LogitDivergence, Output, Report, Row, Speed, Spent, scored, timed
from verify.runs import (
    Oracle,
    Run,
    Side,
    bundle_side,
    checkpoint_side,
    record_bundle,
    record_checkpoint,
    require_as_installed,
)
from verify.runtimes.graph import Config
from verify.runtimes.names import RUNTIMES, Runtime, best_runtime
from verify.runtimes.transcript import Timings, Transcript
from verify.scoring.agreement import count_agreement
from verify.scoring.divergence import divergence_between
from verify.scoring.normalization import DEFAULT_NORMALIZER
from verify.shards import MANIFEST_LANGUAGE, Machines


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
    if nemo_start and runtime != "streaming":
        raise UserError(f"--nemo-start: the {runtime} loop begins as its clients do; add --runtime streaming")
    if runtime == "streaming":
        folders = [target, reference] if isinstance(reference, Bundle) else [target]
        nemo_start = nemo_start or not all(folder.metadata.knows_short_leads for folder in folders)
    side = bundle_side(target, runtime=runtime, device=device, threads=threads, config=config, nemo_start=nemo_start)
    if isinstance(reference, Run) and reference.side.oracle is None and reference.side.runtime != runtime:
        raise UserError(
            f"{reference.side.name}: was recorded in the {reference.side.runtime} loop, and {target.path} would run in "
            f"the {runtime} one; give --runtime {reference.side.runtime}"
        )
    if isinstance(reference, Run) and reference.side.runtime == runtime and reference.side.nemo_start != nemo_start:
        other = "add --nemo-start" if reference.side.nemo_start else "leave --nemo-start out"
        raise UserError(f"{reference.side.name}: its recorded streams begin otherwise than {target.path}'s; {other}")
    if isinstance(reference, Run):
        _require_same_steps(target, reference, nemo_start=nemo_start)
        require_as_installed(reference)
    check_not_calibrated_with(target, utterances)
    logits: LogitDivergence | None = None
    if divergence:
        if not isinstance(reference, Bundle):
            raise UserError(f"--divergence {divergence}: needs a folder as --reference; give one, or leave it out")
        chosen = spread(utterances, divergence)
        found = divergence_between(reference, target, chosen, threads=threads, config=config)
        logits = LogitDivergence(utterances=len(chosen), **vars(found))
    by_nemo = not isinstance(reference, Bundle) and not _is_recorded_folder(reference)
    exact = reference if isinstance(reference, Bundle) else target if by_nemo else None
    exact = exact if exact is not None and _is_fp32(exact) else None
    witnesses: list[Run] = []
    # What can be known before hours of transcribing is checked before.
    if isinstance(reference, Bundle):
        require_comparable(side, bundle_side(reference, runtime=runtime))
        reference = record_bundle(
            reference,
            utterances,
            runtime=runtime,
            language=language,
            threads=threads,
            nemo_start=nemo_start,
            cache=cache,
            machines=machines,
        )
    elif isinstance(reference, Checkpoint):
        lookahead = target.metadata.att_context_size[1]
        chunk_frames = nemo_chunk_frames(target, reference, nemo_start=nemo_start)
        sides = [checkpoint_side(reference, lookahead, chunk_frames, oracle=oracle) for oracle in oracles]
        require_comparable(side, sides[0])
        if "transformers" in oracles:
            from export.checkpoint.transformers import check_fixed

            check_fixed(reference)
        reference, *witnesses = [
            record_checkpoint(
                reference,
                lookahead,
                utterances,
                chunk_frames=chunk_frames,
                language=language,
                cache=cache,
                oracle=oracle,
            )
            for oracle in oracles
        ]
    run = record_bundle(
        target,
        utterances,
        runtime=runtime,
        language=language,
        device=device,
        threads=threads,
        config=config,
        nemo_start=nemo_start,
        cache=cache,
        machines=machines,
    )
    require_same_audio(run, reference, utterances)
    margins = None
    if exact is not None:
        pairs = zip(_in_checkpoint_ids(run), _in_checkpoint_ids(reference), strict=True)
        cells = {
            number: cell
            for number, (ours, theirs) in enumerate(pairs)
            if ours.tokens != theirs.tokens and (cell := parting_cell(ours, theirs)) is not None
        }
        margins = margins_at(
            exact, cells, utterances, runtime=runtime, language=language, threads=threads, nemo_start=nemo_start
        )
    witness = witnesses[0] if witnesses else None
    report = compare_runs(
        run, reference, utterances, witness=witness, limits=limits, margins=margins, normalizer=normalizer
    )
    return report.model_copy(update={"divergence": logits})


def _is_recorded_folder(reference: Checkpoint | Run) -> bool:
    return isinstance(reference, Run) and reference.side.oracle is None


def _is_fp32(bundle: Bundle) -> bool:
    """Whether rounding alone decides where the folder's best token leads by as little as rounding."""
    return not bundle.metadata.recipe.get("hash") and bundle.metadata.precision.upper() == "FP32"


def check_not_calibrated_with(target: Bundle, utterances: Sequence[Utterance]) -> None:
    """Refuse to judge a folder by audio that it was calibrated with, in whatever file that lies.

    Raises:
        UserError: naming the recordings.
    """
    hashes = target.metadata.recipe.get("calibration_audio_sha256", [])
    if not isinstance(hashes, list) or not all(isinstance(each, str) for each in hashes):
        raise UserError(
            f"{target.path}: its metadata name calibration audio by something else than hashes, so nobody can tell "
            "whether the folder would be judged by it; quantize it again"
        )
    seen = matching_recordings(set(hashes), utterances, target.metadata.sample_rate)
    if seen:
        raise UserError(
            f"{target.path}: was calibrated with audio that it would be judged by, {seen}; "
            "leave that out of the manifest, or calibrate with --exclude MANIFEST"
        )


def _require_same_steps(target: Bundle, reference: Run, *, nemo_start: bool) -> None:
    """Refuse an oracle's recorded run in other steps than it would be asked for.

    Raises:
        UserError: naming both.
    """
    side, meta = reference.side, target.metadata
    if side.oracle is None or side.chunk_ms is None:
        return
    lookahead = meta.att_context_size[1] if side.lookahead is None else side.lookahead
    frames = meta.chunk_mel_frames // meta.subsampling_factor
    if side.oracle == "transformers":
        frames = lookahead + 1
    elif not nemo_start:
        frames = clean_frames(frames, lookahead, dropped_frames(meta.pre_encode_cache, meta.subsampling_factor))
    wanted = frames * meta.subsampling_factor * 10.0  # a mel frame is 10 ms
    if round(side.chunk_ms) != round(wanted):
        raise UserError(
            f"{side.name}: was recorded in chunks of {side.chunk_ms:g} ms, and {target.path} asks for {wanted:g} ms; "
            "give the checkpoint as --reference, so that it is recorded again"
        )


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


def require_same_audio(target: Run, reference: Run, utterances: Sequence[Utterance]) -> None:
    """Refuse runs whose transcripts are not of the same utterances under the same prompts.

    Raises:
        UserError: the runs are of different checkpoints, manifests or languages.
    """
    require_comparable(target.side, reference.side)
    if target.manifest_sha256 != reference.manifest_sha256 or len(target.transcripts) != len(reference.transcripts):
        raise UserError(
            f"{reference.side.name}: was recorded on another manifest than {target.side.name}; record it again"
        )
    if len(utterances) != len(target.transcripts):
        raise UserError(
            f"{target.side.name}: {len(target.transcripts)} transcripts for {len(utterances)} utterances; "
            "give the manifest that was transcribed"
        )
    if target.language != reference.language:
        raise UserError(
            f"{reference.side.name}: was recorded with language {reference.language}, {target.side.name} with "
            f"{target.language}; use the same"
        )


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


def require_comparable(target: Side, reference: Side) -> None:
    """Refuse sides whose difference would say nothing about the export.

    Raises:
        UserError: another checkpoint, vocabulary or lookahead.
    """
    ours, theirs = target.checkpoint.get("sha256"), reference.checkpoint.get("sha256")
    if ours and theirs and ours != theirs:
        raise UserError(
            f"{reference.name}: comes from checkpoint {theirs[:12]}, {target.name} from {ours[:12]}; "
            "give the reference that the folder was made from"
        )
    ours, theirs = target.checkpoint.get("config_sha256"), reference.checkpoint.get("config_sha256")
    if ours and theirs and ours != theirs:
        raise UserError(
            f"{reference.name}: has the weights that {target.name} was made from, and another configuration or "
            "vocabulary; give the reference that the folder was made from"
        )
    if target.vocabulary_sha256 and reference.vocabulary_sha256 not in (None, target.vocabulary_sha256):
        raise UserError(
            f"{reference.name}: has another vocabulary than {target.name}; "
            "give the reference that the folder was made from"
        )
    if None not in (target.lookahead, reference.lookahead) and target.lookahead != reference.lookahead:
        raise UserError(
            f"{reference.name}: has lookahead {reference.lookahead}, {target.name} has {target.lookahead}; "
            "compare folders of the same lookahead"
        )


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
                Spent(each.audio_seconds, each.timings.wall, _step_ms(each), each.together, each.worker)
                for each in transcripts
            ]
        ),
        encoder_ms=1000.0 * spent.encoder / steps if steps and spent.encoder else None,
        step_ms=1000.0 * spent.wall / steps if steps else None,
        seconds=seconds,
        calls=calls,
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
        step_ms=_step_ms(transcript),
        together=transcript.together,
        worker=transcript.worker,
    )


def _step_ms(transcript: Transcript) -> list[float]:
    """Milliseconds of each of its steps, to the microsecond."""
    return [round(1000.0 * seconds, 3) for seconds in transcript.timings.steps]
