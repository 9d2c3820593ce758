"""Which utterances of a manifest are transcribed, where not all of them are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from export.errors import UserError
from export.languages import DEFAULT_LANGUAGE, language_key
from export.progress import note, task
from verify.data.audio import audio_seconds
from verify.data.manifest import SLACK, Utterance, default_manifest, load_utterance, read_manifest

Item = TypeVar("Item")


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most ``limit`` items, evenly spread from the first on, so that every language of a sorted list has some."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]


def choose_utterances(
    manifest: Path | None,
    limit: int | None = None,
    *,
    prompts: Mapping[str, int] | None,
    ignore_text: bool = False,
    left_out: Collection[str] = (),
) -> list[Utterance]:
    """The manifest's utterances (None: the demo set's), at most ``limit`` of them, without text where it is ignored.

    Args:
        manifest: see :func:`verify.data.manifest.read_manifest`.
        limit: how many, spread evenly; None for all.
        prompts: of the model that will transcribe them, which has their languages; None for a model without prompts.
        ignore_text: leave the text out.
        left_out: places of what :func:`usable` found unusable; taken out of what was chosen.

    Raises:
        UserError: the manifest cannot be used.
    """
    if manifest is None:
        chosen = spread([_stand_in(each, prompts) for each in read_manifest(default_manifest())], limit)
    else:
        chosen = spread(read_manifest(manifest, text=not ignore_text, prompts=prompts), limit)
    chosen = [each for each in chosen if each.place not in left_out]
    return [each.model_copy(update={"text": ""}) for each in chosen] if ignore_text else chosen


def _stand_in(utterance: Utterance, prompts: Mapping[str, int] | None) -> Utterance:
    """An utterance of the demo set for any model, which need not have its language."""
    if prompts is None:
        return utterance
    try:
        language = language_key(utterance.target_lang, prompts)
    except ValueError:
        language = DEFAULT_LANGUAGE
    return utterance.model_copy(update={"target_lang": language})


def usable(utterances: Sequence[Utterance], sample_rate: int) -> tuple[list[Utterance], dict[str, str]]:
    """Those whose audio can be used, decoded once to find out, and why each of the others cannot.

    Args:
        utterances: of a manifest.
        sample_rate: the model's, in Hz.

    Returns:
        The usable ones in order, and by place one line for each of the others, which are also named on stderr.

    Raises:
        UserError: none can be used.
    """
    good, bad = [], {}
    with task("reading recordings", total=len(utterances)) as progress:
        for utterance in utterances:
            try:
                lacks = utterance.duration - len(load_utterance(utterance, sample_rate)) / sample_rate
                if lacks > SLACK:
                    note(
                        f"warning: {utterance.place}: lasts {lacks:.2f} s less than the manifest says; correct the line"
                    )
                good.append(utterance)
            except UserError as error:
                bad[utterance.place] = str(error)
                note(f"error: {error}")
            progress.advance()
    if bad and not good:
        raise UserError(f"none of {len(utterances)} recordings can be used; correct the manifest")
    return good, bad


def spread_seconds(utterances: Sequence[Utterance], seconds: float) -> list[Utterance]:
    """As few utterances, evenly spread, as last ``seconds`` together; all where that is less.

    A file that cannot be read, and whose duration the manifest leaves out, has no seconds.
    """
    lengths = {id(each): each.duration or _seconds(each) for each in utterances}
    for count in range(1, len(utterances)):
        chosen = spread(utterances, count)
        if sum(lengths[id(each)] for each in chosen) >= seconds:
            return chosen
    return list(utterances)


def _seconds(utterance: Utterance) -> float:
    try:
        return audio_seconds(utterance.audio_filepath)
    except UserError:  # :func:`usable` names it
        return 0.0


def first_seconds(utterances: Sequence[Utterance], seconds: float) -> list[Utterance]:
    """Utterances in order, as many as last ``seconds`` together, and always one; unknown durations count as 10 s."""
    taken: list[Utterance] = []
    left = seconds
    for utterance in utterances:
        left -= utterance.duration or 10.0
        if taken and left < 0:
            break
        taken.append(utterance)
    return taken
