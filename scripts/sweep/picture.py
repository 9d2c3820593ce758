"""A picture of the sweep: size and step time against how much of FP32's text is lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.errors import UserError
from export.removal import scratch_folder


def save_picture(report: Mapping[str, Any], path: Path) -> None:
    """Draw both panels, the front as a line through its points; the file appears only when complete.

    Raises:
        UserError: it cannot be written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    rows = report["rows"]
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, rows, "size", [row["mb"] for row in rows], "folder, MB")
    base = rows[0]["encoder_step_ms"] or 1.0
    _panel(right, rows, "step", [base * row["step_share"] for row in rows], "encoder step, ms (scaled to one fp32)")
    left.set_ylabel("error rate against fp32's text, %")
    facts = report["machine"]
    figure.suptitle(
        f"{report['checkpoint'].get('source', report['source'])}: {report['utterances']} utterances of "
        f"{Path(report['manifest']).name}; {facts['cpu']}, {facts['threads']} threads",
        fontsize=11,
    )
    try:
        with scratch_folder(path) as folder:
            finished = folder / path.name
            figure.savefig(finished, dpi=130)
            finished.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error


def _panel(axes: Any, rows: list[Mapping[str, Any]], panel: str, across: list[float], label: str) -> None:
    best = sorted((x, row["wer_between"]) for x, row in zip(across, rows, strict=True) if panel in row["front"])
    axes.plot(*zip(*best, strict=True), drawstyle="steps-post", color="0.6", zorder=1, label="Pareto front")
    for index, (x, row) in enumerate(zip(across, rows, strict=True)):
        on_front = panel in row["front"]
        axes.scatter(x, row["wer_between"], s=70 if on_front else 30, color=f"C{index % 10}", zorder=3,
                     marker="D" if on_front else "o", edgecolors="black" if on_front else "none")  # fmt: skip
        axes.annotate(row["name"], (x, row["wer_between"]), xytext=(6, 5), textcoords="offset points", fontsize=8)
    axes.set_xlim(0, 1.25 * max(across))
    axes.set_xlabel(label)
    axes.legend(loc="best", fontsize=8)
    axes.grid(visible=True, alpha=0.3)
