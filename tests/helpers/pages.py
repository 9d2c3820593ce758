"""Reports for pages, made from lines of text in milliseconds."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from quantize.recipe import Tolerance
from verify.report import Output, Report, Row, Speed, latency_of, score_rows
from verify.runs import Side

LIMITS = Tolerance(exact_match=0.5, wer_delta=1.0)

HOSTILE = "\"'></script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028&lt;`{{7*7}}"
"""What would run, or break out, wherever it is not escaped."""

# The manifest's text, the reference's, the build's.
Texts = tuple[str, str, str]


def outcome(text: str, language: str | None) -> Output:
    """Tokens are a word's letters, so that the same text has the same tokens."""
    tokens = [sum(map(ord, word)) for word in text.split()]
    return Output(
        tokens=tokens, frames=list(range(len(tokens))), text=text, language=language, seconds=0.5, step_ms=[8.0, 9.0]
    )


def make_report(
    texts: list[Texts], *, language: str = "en-US", build: str = "int8", reference: str = "fp32",
    audio: Path | str = "/nowhere/{number}.wav", seconds: float = 4.0, hostile: str = "", **row: Any,
) -> Report:  # fmt: skip
    """A report of one language; ``hostile`` stands in every field that holds text."""
    rows = [
        Row(
            audio=f"{number}{hostile}.wav", audio_filepath=str(audio).format(number=number), audio_seconds=seconds,
            language=language, text=spoken, sentence=hostile or None, margin=0.125 if theirs != ours else None,
            target=outcome(ours, hostile or language), reference=outcome(theirs, hostile or language), **row,
        )
        for number, (spoken, theirs, ours) in enumerate(texts)
    ]  # fmt: skip
    sides = [
        Side(
            name=f"{name}{hostile}", runtime="generation1", recipe={"name": name}, size_bytes=size, chunk_ms=1120.0,
            precision="f32", lookahead=0, checkpoint={"source": f"a.nemo{hostile}"}, lang_tag_token_ids=[1],
            machine={"cpu": f"A Processor{hostile}"},
        )
        for name, size in ((build, 6_000_000), (reference, 15_000_000))
    ]  # fmt: skip
    speed = Speed(audio_seconds=8.0, wall_seconds=1.0, rtfx=8.0, latency=latency_of([8.0, 9.0, 12.0]))
    return Report(
        **dict(score_rows(rows, LIMITS, [1])), limits=LIMITS, limits_of=f"a recipe{hostile}", target=sides[0],
        reference=sides[1], language="manifest", manifest_sha256="m", speed=speed, reference_speed=speed, rows=rows,
        unusable={f"/x/{hostile}": f"no audio{hostile}"} if hostile else {},
        pieces={token: hostile for row in rows for token in (*row.target.tokens, *row.reference.tokens) if hostile},
    )  # fmt: skip


class Parsed(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of all tags of a name."""
        return [attributes for name, attributes in self.tags if name == tag]
