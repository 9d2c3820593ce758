"""Charts as SVG text by Vega-Altair: drawn here, so that the page loads no library and no font.

Colours are the page's own (CSS variables and ``currentColor``), so that one drawing serves light and dark. Builds
differ in shape too. Each chart is drawn for a phone and for a wide screen; the page shows one of them.

Vega makes expressions of names that stand in its specification. It gets none that a report brings, but stand-ins of the
same length, which the finished SVG has the escaped names for.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from scripts.page.languages import Language
from scripts.page.sources import Build
from scripts.pareto import pareto

COLOURS = 8
"""Colours and shapes of the page's style sheet; a chart shows as many builds at most."""

_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
_WIDTHS = {"narrow": 220, "wide": 760}
_ROOM = {
    "left": 24,
    "top": 2,
    "right": 12,
    "bottom": 2,
}  # pixels; the browser's font may be wider than the one measured
_LEGEND = {"narrow": 260, "wide": 220}
_TICKS = {"narrow": 5, "wide": 10}  # about
_LABELS = {"narrow": 90, "wide": 240}  # pixels that a name may take


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        text: what it shows in words, for who cannot see it.
        drawings: SVG by width (``narrow``, ``wide``).
    """

    text: str
    drawings: dict[str, str]


def can_draw() -> bool:
    """Whether the extra ``report`` is installed."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def language_chart(languages: Sequence[Language], order: Sequence[str]) -> Chart | None:
    """Error rates of each build in each language, a point with its interval; None where there is nothing to draw."""
    builds = [name for name in order if any(name in language.cells for language in languages)][:COLOURS]
    rows: list[dict[str, Any]] = [
        {
            "group": language.name,
            "build": build,
            "value": cell.rate,
            "low": cell.interval[0] if cell.interval else cell.rate,
            "high": cell.interval[1] if cell.interval else cell.rate,
        }
        for language in languages
        for build in builds
        if (cell := language.cells.get(build)) is not None
    ]
    if not rows:
        return None
    of_text = any(language.of_text for language in languages)
    title = "Error rate by language" if of_text else "Difference from the reference's text by language"
    axis = "error rate, % (line: 95 % interval)" if of_text else "differs from the reference's text, %"
    worst = max(rows, key=lambda row: row["value"])
    text = (
        f"{title}: {len(languages)} languages, {len(builds)} builds. The highest is {worst['value']:.2f} % "
        f"({worst['build']}, {worst['group']}). The table below has all values."
    )
    return Chart(text, _drawn(rows, builds, axis, list(dict.fromkeys(row["group"] for row in rows))))


def latency_chart(builds: Sequence[Build]) -> Chart | None:
    """p50, p95 and p99 of a chunk, for each side that was timed; None where none was."""
    timed = [(build.label, build.latency) for build in builds if build.latency is not None][:COLOURS]
    rows: list[dict[str, Any]] = [
        {"group": build, "build": name, "value": value, "low": latency.p50, "high": latency.p99}
        for build, latency in timed
        for name, value in (("p50", latency.p50), ("p95", latency.p95), ("p99", latency.p99))
    ]
    if not rows:
        return None
    slowest = max(rows, key=lambda row: row["high"])
    text = f"Latency of a chunk; the slowest p99 is {slowest['high']:.1f} ms ({slowest['group']})."
    groups = [name for name, _ in timed]
    drawn = _drawn(rows, ["p50", "p95", "p99"], "computing a chunk, ms", groups, offset=False)
    return Chart(text, drawn)


def pareto_chart(builds: Sequence[Build]) -> Chart | None:
    """Folder size against the distance from the common reference's text; None where fewer than three have both."""
    against = [
        build.against for build in builds if build.against and build.mb is not None and build.between is not None
    ]
    common = max(dict.fromkeys(against), key=against.count, default=None)
    points = [
        (build.label, build.mb, 0.0 if build.name == common else build.between)
        for build in builds
        if build.mb is not None and (build.name == common or (build.against == common and build.between is not None))
    ]
    rows: list[dict[str, Any]] = [{"name": n, "mb": mb, "between": b} for n, mb, b in points if b is not None]
    if len(rows) < 3:
        return None
    front = pareto([(row["mb"], row["between"]) for row in rows])
    for row, best in zip(rows, front, strict=True):
        row["front"] = "on the front" if best else "dominated"
    best_names = ", ".join(
        row["name"] for row in sorted(rows, key=lambda row: row["mb"]) if row["front"] != "dominated"
    )
    text = f"Size against error of {len(rows)} builds. On the Pareto front, by size: {best_names}."
    return Chart(text, {width: _pareto_svg(rows, width) for width in _WIDTHS})


class _StandIns:
    """What Vega gets instead of names: ``ξ000nnn``, as long as the name where that is longer than four letters."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(dict.fromkeys(names))

    def of(self, name: str) -> str:
        return f"ξ{self._names.index(name):03d}".ljust(len(name), "n")

    def replaced(self, svg: str) -> str:
        """With the names again; one that was cut ends in ``…``."""
        return _STAND_IN.sub(lambda found: html.escape(self._shown(found)), svg)

    def _shown(self, found: re.Match[str]) -> str:
        name = self._names[int(found[1])]
        return f"{name[: len(found[0]) - 1]}…" if found[2] else name


_STAND_IN = re.compile(r"ξ(\d{3,})n*(…)?")


def _drawn(
    rows: list[dict[str, Any]], builds: Sequence[str], axis: str, groups: list[str], *, offset: bool = True
) -> dict[str, str]:
    """A row of points with lines for each group, a colour and shape for each build."""
    import altair as alt

    names = _StandIns([*groups, *builds])
    rows = [row | {key: names.of(row[key]) for key in ("group", "build")} for row in rows]
    groups, domain = [names.of(name) for name in groups], [names.of(name) for name in builds]
    drawings = {}
    for width, pixels in _WIDTHS.items():
        legend = alt.Legend(
            orient="top", title=None, columns=1 if width == "narrow" else 3, columnPadding=60, labelLimit=_LEGEND[width]
        )
        colours = alt.Scale(domain=domain, range=[f"var(--series-{number})" for number in range(1, len(domain) + 1)])
        shapes = alt.Scale(domain=domain, range=list(_SHAPES[: len(domain)]))
        y = alt.Y("group:N", title=None, scale=alt.Scale(domain=groups), axis=alt.Axis(labelLimit=_LABELS[width]))
        base = alt.Chart(alt.Data(values=rows)).encode(y=y)
        if offset:
            base = base.encode(yOffset=alt.YOffset("build:N", scale=alt.Scale(domain=domain)))
        low = alt.X("low:Q", title=axis, scale=alt.Scale(zero=True, nice=True))
        colour = alt.Color("build:N", scale=colours, legend=legend)
        shape = alt.Shape("build:N", scale=shapes, legend=legend)
        lines = base.mark_rule(strokeWidth=2).encode(x=low, x2="high:Q")
        lines = lines.encode(color=colour) if offset else lines.encode(color=alt.value("currentColor"))
        points = base.mark_point(filled=True, size=55, opacity=1).encode(
            x=alt.X("value:Q", title=axis), color=colour, shape=shape
        )
        step = alt.Step(13 if offset else 26)
        drawings[width] = names.replaced(_svg(alt.layer(lines, points).properties(width=pixels, height=step), width))
    return drawings


_HEIGHT = 260


def _pareto_svg(rows: list[dict[str, Any]], width: str) -> str:
    """Points with their names, moved apart where they would lie on each other, and the front as steps."""
    import altair as alt

    pixels = _WIDTHS[width] + (40 if width == "narrow" else 0)
    right = 1.35 * max(row["mb"] for row in rows)
    top = max(1.15 * max(row["between"] for row in rows), 0.1)
    names = _StandIns(row["name"] for row in rows)
    rows = [row | {"name": names.of(row["name"])} for row in rows]
    placed = _placed(rows, pixels / right, _HEIGHT / (1.07 * top))
    x = alt.X("mb:Q", title="folder, MB", scale=alt.Scale(domain=[0, right], nice=False))
    y = alt.Y(
        "between:Q",
        title="differs from the reference's text, %",
        scale=alt.Scale(domain=[-0.07 * top, top], nice=False),
    )
    colour = alt.Color(
        "front:N",
        title=None,
        scale=alt.Scale(domain=["on the front", "dominated"], range=["var(--series-1)", "var(--series-2)"]),
        legend=alt.Legend(orient="top", columnPadding=40),
    )
    shape = alt.Shape("front:N", scale=alt.Scale(domain=["on the front", "dominated"], range=["diamond", "circle"]))
    front = sorted((row for row in rows if row["front"] != "dominated"), key=lambda row: (row["mb"], row["between"]))
    line = alt.Chart(alt.Data(values=front)).mark_line(interpolate="step-after", color="var(--line)").encode(x=x, y=y)
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape)
    )
    layers = [line, points]
    labels = alt.Chart(alt.Data(values=placed)).encode(text="name:N", x="left:Q", y="up:Q")
    layers.append(labels.mark_text(align="left", baseline="middle", color="currentColor", limit=_LABELS[width]))
    return names.replaced(_svg(alt.layer(*layers).properties(width=pixels, height=_HEIGHT), width))


def _placed(rows: list[dict[str, Any]], across: float, up: float) -> list[dict[str, Any]]:
    """Where names stand, in the data's units: right of their point, above each other where they would overlap.

    Args:
        rows: the points.
        across: pixels for each MB.
        up: pixels for each percent.
    """
    taken: list[tuple[float, float, float]] = []  # left, right, height; pixels
    placed = []
    for row in sorted(rows, key=lambda row: (row["between"], row["mb"])):
        left, length = row["mb"] * across + 8, 6.5 * len(row["name"])
        height = row["between"] * up
        while any(left < right and start < left + length and abs(height - at) < 13 for start, right, at in taken):
            height += 2
        taken.append((left, left + length, height))
        placed.append({"name": row["name"], "left": left / across, "up": height / up})
    return placed


def _svg(chart: Any, width: str) -> str:
    """The drawing; nothing may be loaded for it."""
    import vl_convert

    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    axes = {**text, "gridColor": "var(--line)", "domainColor": "currentColor", "tickColor": "currentColor"}
    fonts = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    drawn = (
        chart.configure(
            font="system-ui, sans-serif",
            background="transparent",
            padding=_ROOM,
        )
        .configure_view(stroke=None)
        .configure_axis(**axes, **fonts)
        .configure_axisX(tickCount=_TICKS[width])
        .configure_axisY(grid=False)
        .configure_legend(**text, labelFontSize=12, symbolOpacity=1, symbolSize=60)
        .configure_text(fontSize=12)
    )
    return str(vl_convert.vegalite_to_svg(drawn.to_dict(), allowed_base_urls=[]))
