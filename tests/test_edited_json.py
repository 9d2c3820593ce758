"""JSON files that people edit: damaged content, or content of another type, is one line that names the file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.errors import UserError
from export.json_files import read_json_as
from quantize.ranking import read_ranking
from quantize.recipes import RECIPES
from scripts import costs, effects, scale
from scripts.checkpoints.demo import train
from scripts.page.sources import read_sources
from scripts.publish.reports import read_report
from tests.helpers.pages import make_report
from verify.report import Report
from verify.tables import make_tables

READERS: dict[str, Callable[[Path], object]] = {
    "layers.json": read_ranking,
    "report of verify": Report.load,
    "sweep.json": lambda file: read_sources([file]),
    "report to publish": read_report,
    "reports for tables": lambda file: make_tables([file]),
    "costs": costs.read,
    "effects": effects.read,
    "scale": scale.load,
    "settings.json": lambda file: train._claim(file.parent, 1, 0),
}


def refusal(read: Callable[[Path], object], file: Path) -> str:
    """Of this file, in one line."""
    with pytest.raises(UserError) as refused:
        read(file)
    line = str(refused.value)
    assert str(file) in line
    assert "\n" not in line
    assert "; " in line, "no remedy"
    return line


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b"null", b"\xff", b"[" * 100_000],
    ids=["empty", "cut", "list", "number", "null", "no text", "deep"],
)
@pytest.mark.parametrize("name", READERS)
def test_damaged_content_is_refused_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(content)
    refusal(READERS[name], file)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_report_that_card_found_by_itself_may_be_moved_away(content: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    assert "or move it away" in refusal(read_report, file)


def test_a_refusal_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": 1, "b": "many", "d": null}')
    line = refusal(lambda path: read_json_as(dict[str, int], path, "mend it"), file)
    assert "b is 'many': input should be a valid integer" in line
    assert "d is None: input should be a valid integer; mend it" in line


GROUP = {"name": "joint", "graph": "joint", "elements": 1, "kl": 1.0, "keepable": True, "more_mb": 1.0}
LAYERS = {"recipe_table": RECIPES["int4"].as_table(), "groups": [GROUP]}
BENCHED = {
    "builds": {"a": {"batch": 1, "runtime": "generation1", "precision": "f32"}},
    "machine": {"cpu": "x", "cores": 2, "flags": [], "threads": 2},
}
SWEPT = {"rows": [{"name": "int8", "report": "r.json"}], "failed": {}, "text_scored": True}
SCALE = json.loads(scale.MEASURED.read_text(encoding="utf-8"))
COST = {
    "recipe_hash": "", "bytes": 1, "wall_s": 1.0, "processor_s": 1.0, "peak_rss_mb": 1.0, "calibration_steps": None,
    "constants": {"encoder": {"f16": {"bytes": 1}}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "whole", "place", "value", "mention"),
    [
        ("layers.json", LAYERS, ("recipe_table", "encoder"), {}, "compresses no weights of the encoder"),
        ("layers.json", LAYERS, ("groups", 0, "more_mb"), 1e30, "groups.0.more_mb is 1e+30"),
        ("layers.json", LAYERS, ("groups", 0, "kl"), -1e300, "groups.0.kl is -1e+300"),
        ("report to publish", BENCHED, ("machine", "threads"), 1e400, "infinity"),
        ("sweep.json", SWEPT, ("rows", 0, "report"), "a\0b", "rows.0.report is 'a\\x00b'"),
        ("sweep.json", SWEPT, ("rows", 0, "report"), "\ud800", "rows.0.report is '\\ud800'"),
        ("sweep.json", SWEPT, ("rows", 0, "mb"), math.nan, "rows.0.mb is nan"),
        ("scale", SCALE, ("hours_of_audio",), math.nan, "hours_of_audio is nan"),
        ("scale", SCALE, ("reference", "times_real_time"), math.inf, "reference.times_real_time is inf"),
        ("report of verify", None, ("normalizer",), "latin", "has the normalizer 'latin', which is none"),
        ("report of verify", None, ("normalizer",), ["nfkc"], "has the normalizer ['nfkc'], which is none"),
        ("costs", {"int8": COST}, ("int8", "constants"), {}, "int8.constants.encoder is missing"),
        ("costs", {"int8": COST}, ("int8", "wall_s"), "long", "int8.wall_s is 'long'"),
        ("effects", {"demo": {"utterances": 40}}, ("demo", "utterances"), 0, "demo.utterances is 0"),
        ("costs", {"int8": COST}, ("int8", "bytes"), 10**19, "it has the number 10000000000000000000…"),
        ("reports for tables", None, ("target", "size_bytes"), 10**19, "it has the number 10000000000000000000…"),
    ],
)
def test_one_wrong_value_is_named(
    name: str, whole: Any, place: tuple[str | int, ...], value: object, mention: str, tmp_path: Path
) -> None:
    file = tmp_path / "edited.json"
    make_report([("a b", "a b", "a c")]).save(file)
    content = json.loads(file.read_text() if whole is None else json.dumps(whole))
    *way, last = place
    found = content
    for key in way:
        found = found[key]
    found[last] = value
    file.write_text(json.dumps(content))
    assert mention in refusal(READERS[name], file)
