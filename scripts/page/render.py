"""The page itself: a jinja2 template with everything escaped, and a policy that lets nothing be loaded or run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.folders import write_atomically
from export.progress import note, task
from scripts.outputs import PAGE_MARK
from scripts.page import AUDIO_MB, UTTERANCES, charts
from scripts.page.languages import Language, by_language
from scripts.page.sound import Player, Sound
from scripts.page.sources import Sources
from scripts.page.utterances import KINDS, Utterance, count_utterances, disagreements
from verify.scoring.intervals import Interval, with_interval

SHOWN = 20  # at once; page.js has the same number

_EARLY = 'document.documentElement.classList.add("scripted");'
"""Before the body is read, so that a browser with scripts never lays out what is hidden at first."""

_ROOM = Path(__file__).parent
_TEMPLATE, _STYLE, _SCRIPT = (_ROOM / f"page.{suffix}" for suffix in ("html.jinja", "css", "js"))


@dataclass(frozen=True)
class Written:
    """What a page holds."""

    path: Path
    bytes: int
    disagreements: int
    shown: int
    embedded: int
    linked: int
    missing: int


def write_page(sources: Sources, path: Path, *, audio_mb: float = AUDIO_MB, limit: int = UTTERANCES) -> Written:
    """Write the page; the file appears only when complete.

    Args:
        sources: what the reports say.
        path: the file, in whose place only a page of ours may be (:func:`scripts.outputs.check_page`).
        audio_mb: 10⁶ bytes of audio inside the page; other recordings are played from their files.
        limit: utterances at most.

    Raises:
        UserError: it cannot be written there.
    """
    with task(f"writing {path}"):
        found = disagreements(sources.comparisons)
        shown = found[:limit]
        sound = Sound(path, int(audio_mb * 1e6))
        players = {id(each): sound.player(each) for each in shown}
        text = render(sources, shown, players, len(found), sound)
        write_atomically(path, text)
    return Written(path, len(text.encode()), len(found), len(shown), sound.embedded, sound.linked, sound.missing)


def render(sources: Sources, shown: Sequence[Utterance], players: dict[int, Player], total: int, sound: Sound) -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., Any]] = {
        "share": lambda value: _number(None if value is None else 100 * value, 1, "%"),
        "percent": _percent,
        "points": _points,
        "number": _number,
        "slug": lambda text: re.sub(r"[^a-z]+", "-", text.lower()),
        "tag": _tag,
        "differences": _differences,
        "player": lambda utterance: players[id(utterance)],
    }
    environment.filters |= filters
    style, script = (file.read_text(encoding="utf-8").strip() for file in (_STYLE, _SCRIPT))
    languages = by_language(sources.comparisons)
    order = list(dict.fromkeys(build.name for build in sources.builds))
    drawings = _drawings(sources, languages, order)
    normalizers = dict.fromkeys(each.report.normalizer for each in sources.comparisons)
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        mark=PAGE_MARK,
        policy=_policy(style, script, _EARLY),
        early=_EARLY,
        style=style,
        script=script,
        title=sources.title,
        builds=sources.builds,
        judged=[build for build in sources.builds if build.against],
        with_text=any(build.wer is not None for build in sources.builds),
        with_memory=any(build.peak_mb is not None for build in sources.builds),
        with_steps=any(build.step_ms is not None for build in sources.builds),
        languages=languages,
        columns=[name for name in order if any(name in language.cells for language in languages)],
        timed=[build for build in sources.builds if build.latency is not None],
        normalizer=", ".join(normalizers),
        utterances=shown,
        shown=SHOWN,
        colours=charts.COLOURS,
        counted=_counted(sources, shown, total, sound),
        language_counts=sorted(Counter(each.language for each in shown).items()),
        build_counts=[(name, count) for name in order if (count := sum(name in each.differences for each in shown))],
        kind_counts=_kind_counts(shown),
        facts=sources.facts,
        notes=sources.notes,
        version=version("nemotron-ov"),
        **drawings,
    )
    return text.encode(errors="backslashreplace").decode() + "\n"


def _drawings(sources: Sources, languages: Sequence[Language], order: Sequence[str]) -> dict[str, charts.Chart | None]:
    """The charts by their names in the template; none, and a line that says why, where they cannot be drawn."""
    none: dict[str, charts.Chart | None] = dict.fromkeys(("language_chart", "points", "latency_chart"))
    if not charts.can_draw():
        note("the page has no charts without altair and vl-convert; pip install 'nemotron-ov[report]'")
        return none
    try:
        return {
            "language_chart": charts.language_chart(languages, order),
            "points": charts.pareto_chart(sources.builds),
            "latency_chart": charts.latency_chart(sources.builds),
        }
    except Exception as error:  # whatever Vega says of a report's numbers, the page's tables have them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        note(f"the page has no charts, because they could not be drawn ({reason}); its tables have the numbers")
        return none


def _policy(style: str, *scripts: str) -> str:
    """Only our own style and scripts, and audio of this page or beside it; no connection, frame, form or picture."""
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {allowed}; media-src data: 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _counted(sources: Sources, shown: Sequence[Utterance], total: int, sound: Sound) -> str:
    """What is listed, and what is left out."""
    if not sources.comparisons:
        return "No transcripts are stored, so no utterance can be shown."
    compared = count_utterances(sources.comparisons)
    if not total:
        return f"None: all builds gave their reference’s tokens on all {compared:,} utterances."
    text = f"{total:,} of {compared:,} utterances got other tokens from some build than from its reference."
    if len(shown) < total:
        text += f" The {len(shown):,} most severe are here; {total - len(shown):,} were left out."
    text += f" Audio: {sound.embedded:,} inside this page ({sound.used / 1e6:.1f} of {sound.limit / 1e6:g} MB)"
    text += f", {sound.linked:,} from their files" if sound.linked else ""
    return text + (f", {sound.missing:,} not found." if sound.missing else ".")


def _kind_counts(shown: Sequence[Utterance]) -> list[tuple[str, str, int]]:
    counts = Counter(
        kind for each in shown for kind in {kind for found in each.differences.values() for kind in found.kinds}
    )
    return [(kind, label, counts[kind]) for kind, label in KINDS.items() if counts[kind]]


def _differences(utterance: Utterance) -> str:
    """For the script: pairs of a build and its numbers, so that no name is a key."""
    return json.dumps([[name, vars(found)] for name, found in utterance.differences.items()], ensure_ascii=False)


def _tag(language: str) -> str:
    """A BCP 47 tag for browsers and screen readers; empty, which means unknown, for what is none."""
    plain = language.replace("_", "-")
    return plain if re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", plain) else ""


def _number(value: float | None, digits: int = 2, unit: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" + (f"\u00a0{unit}" if unit else "")


def _percent(value: float | None, interval: Interval = None) -> str:
    return "–" if value is None else _unbroken(with_interval(value, interval, ".2f", "\u00a0%"))


def _points(value: float | None, interval: Interval = None) -> str:
    return "–" if value is None else _unbroken(with_interval(value, interval)).replace("-", "−")


def _unbroken(text: str) -> str:
    """With no line's end inside the interval."""
    return text.replace(" to ", "\u00a0to\u00a0")
