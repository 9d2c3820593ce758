"""What has to be the same on both sides of a comparison, and which audio a folder must not be judged by."""

from __future__ import annotations

from collections.abc import Sequence

from export.bundle import Bundle
from export.errors import UserError
from export.geometry import clean_frames, dropped_frames
from verify.collect import matching_recordings
from verify.data.manifest import Utterance
from verify.runs import Run, Side, require_as_installed


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


def require_usable_record(reference: Run, target: Bundle, side: Side) -> None:
    """Refuse a recorded run that was made otherwise than the folder will be run.

    Args:
        reference: the recorded run.
        target: the folder that is compared with it.
        side: how the folder will be run.

    Raises:
        UserError: another loop, start of a stream, step, or version of the oracle.
    """
    recorded = reference.side
    if recorded.oracle is None and recorded.runtime != side.runtime:
        raise UserError(
            f"{recorded.name}: was recorded in the {recorded.runtime} loop, and {target.path} would run in "
            f"the {side.runtime} one; give --runtime {recorded.runtime}"
        )
    if recorded.runtime == side.runtime and recorded.nemo_start != side.nemo_start:
        other = "add --nemo-start" if recorded.nemo_start else "leave --nemo-start out"
        raise UserError(f"{recorded.name}: its recorded streams begin otherwise than {target.path}'s; {other}")
    _require_same_steps(target, reference, nemo_start=side.nemo_start)
    require_as_installed(reference)


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
