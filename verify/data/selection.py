"""Which utterances of a manifest are transcribed, where not all of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from verify.data.manifest import Utterance, default_manifest, read_manifest

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
) -> list[Utterance]:
    """The manifest's utterances (None: the demo set's), at most ``limit`` of them, without text where it is ignored.

    Args:
        manifest: see :func:`verify.data.manifest.read_manifest`.
        limit: how many, spread evenly; None for all.
        prompts: of the model that will hear them, which has their languages; None for a model without prompts.
        ignore_text: leave the text out.

    Raises:
        UserError: the manifest cannot be used.
    """
    chosen = spread(read_manifest(manifest or default_manifest(), text=not ignore_text, prompts=prompts), limit)
    return [each.model_copy(update={"text": ""}) for each in chosen] if ignore_text else chosen


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
