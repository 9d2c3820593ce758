"""A picture of the report: time against memory, one point a build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.errors import UserError
from export.removal import scratch_folder
from scripts.outputs import picture_metadata

_MARKERS = {"generation1": "s", "streaming": "o", "nemo-streaming": "^"}


def save_picture(report: Mapping[str, Any], path: Path) -> None:
    """Draw the encoder step's and the pipeline's time against peak memory; the file appears only when complete.

    Raises:
        UserError: it cannot be written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    rows, facts, checkpoint = report["builds"], report["machine"], report["checkpoint"]
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = {name: 1000 * row["encoder_step_ms"] / (row["chunk_ms"] * row["batch"]) for name, row in rows.items()}
    _scatter(left, rows, steps, "encoder alone: ms of work for a second of audio")
    _scatter(
        right, rows, {name: 1000 / row["pipeline_rtfx"] for name, row in rows.items()},
        "audio to text: ms of work for a second of audio",
    )  # fmt: skip
    kind = " (random weights)" if checkpoint["random"] else ""
    figure.suptitle(
        f"Checkpoint {checkpoint['source']}{kind}, {str(checkpoint['sha256'])[:12]}\n"
        f"{facts['cpu']}, {facts['threads']} threads, OpenVINO {facts['versions'].get('openvino', 'absent')}",
        fontsize=11,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path) as folder:
            finished = folder / path.name
            figure.savefig(finished, dpi=150, metadata=picture_metadata(path))
            finished.replace(path)
    except OSError as error:
        raise UserError(f"--picture {path}: cannot be written ({error.strerror}); choose another place") from error


def _scatter(axes: Any, rows: Mapping[str, Any], times: Mapping[str, float], title: str) -> None:
    """One labelled point a build; both axes begin at zero, so that distances are ratios."""
    for index, (name, row) in enumerate(rows.items()):
        marker = _MARKERS.get(row["runtime"], "o")
        axes.scatter(row["peak_rss_mb"], times[name], marker=marker, s=55, color=f"C{index % 10}", zorder=3)
        axes.annotate(name, (row["peak_rss_mb"], times[name]), xytext=(6, 5), textcoords="offset points", fontsize=8)
    axes.set(title=title, xlabel="peak memory of the process, MB", ylabel="ms")
    axes.set_xlim(0, 1.25 * max(row["peak_rss_mb"] for row in rows.values()))
    axes.set_ylim(0, 1.15 * max(times.values()))
    axes.grid(visible=True, alpha=0.3)
