"""Files that a command writes at its end: what may lie in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.errors import UserError
from scripts.checkpoints.random.checkpoint import write_random_checkpoint
from scripts.outputs import BENCH_REPORT, VERIFY_REPORT, check_output, check_picture, picture_metadata


@pytest.mark.parametrize("content", ["", json.dumps(dict.fromkeys(sorted(VERIFY_REPORT)))])
def test_a_report_of_ours_is_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "report.json"
    check_output("--report", file)
    file.write_text(content)
    check_output("--report", file)


def test_each_command_replaces_its_own_reports_only(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(dict.fromkeys(BENCH_REPORT)))
    check_output("--json", file, ours=BENCH_REPORT)
    with pytest.raises(UserError, match="no such report of ours"):
        check_output("--report", file)


@pytest.mark.parametrize(
    "content",
    [
        b"mine",
        b"[]",
        b"{",
        b'{"report_version": 2, "folders": []}',
        json.dumps({"name": "package"}).encode(),
        b"\x00\xff",
    ],
)
def test_a_file_of_somebody_elses_is_not(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"--report .*report\.json: exists and is no such report of ours; choose another"
    ):
        check_output("--report", file)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_picture_of_ours_is_replaced_and_no_other(tmp_path: Path, kind: str) -> None:
    from matplotlib.figure import Figure

    file = tmp_path / f"a.{kind}"
    Figure().savefig(file)
    with pytest.raises(UserError, match="exists and is no picture of ours"):
        check_picture("--picture", file)
    Figure().savefig(file, metadata=picture_metadata(file))
    check_picture("--picture", file)


def test_a_device_is_no_file() -> None:
    """A rename would put a file in its place."""
    with pytest.raises(UserError, match="no regular file"):
        check_output("--report", Path("/dev/null"))


def test_a_random_checkpoint_replaces_checkpoints_only(tmp_path: Path) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("mine")
    with pytest.raises(UserError, match="is no checkpoint"):
        write_random_checkpoint(file, "small", force=True)
    assert file.read_text() == "mine"
