"""The documents' tables are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize.recipes import RECIPES
from scripts import costs, docs, scale


@pytest.mark.parametrize("document", docs.DOCUMENTS, ids=lambda path: path.name)
def test_the_recipes_table_is_current(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert docs.updated(text) == text, "run `python -m scripts.docs`"


def test_a_new_or_changed_recipe_changes_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    text = docs.DOCUMENTS[0].read_text(encoding="utf-8")
    monkeypatch.setitem(RECIPES, "int8", RECIPES["int8"].model_copy(update={"description": "other words"}))
    assert "other words" in docs.updated(text)
    monkeypatch.setitem(RECIPES, "mine", RECIPES["int8"].model_copy(update={"name": "mine"}))
    assert "| `mine` |" in docs.updated(text)
    with pytest.raises(ValueError, match="no <!-- recipes"):
        docs.updated(text.replace(docs.END, ""))


def test_the_table_of_core_hours_is_current_and_follows_from_its_measurements() -> None:
    text = docs.SCALE_DOCUMENT.read_text(encoding="utf-8")
    assert docs.with_scale(text) == text, "run `python -m scripts.docs`"
    stored = scale.load()
    int4 = stored.recipes["int4"].model_copy(update={"times_real_time": 10.0})
    changed = stored.model_copy(update={"recipes": {"int4": int4}, "locales": 2, "hours_of_audio": 5.0})
    assert changed.core_hours(int4, "1120ms") == pytest.approx(2 * 5.0 * stored.cores / 10.0)
    assert "| `int4` | 19 | 10 | 5 | 3 | 2 | 39 | 10 |" in changed.table()


def test_the_costs_table_is_current() -> None:
    text = docs.RECIPES_PAGE.read_text(encoding="utf-8")
    assert docs.with_costs(text) == text, "run `python -m scripts.docs`"


def test_costs_of_another_recipe_of_that_name_are_not_shown() -> None:
    figures = {"wall_s": 60.4, "processor_s": 1234.5, "peak_rss_mb": 2500.0, "bytes": 345_600_000}
    constants = {"encoder": {"i4": {"bytes": 297_600_000}, "i64": {"bytes": 10}, "f16": {"bytes": 10_100_000}}}
    row = {"recipe_hash": RECIPES["int8"].hash, "calibration_steps": None, "constants": constants, **figures}
    lines = costs.costs_table({"int8": row}).splitlines()
    assert lines[2:] == ["| `int8` | 345.6 | 60 | 1,234 | 2,500 |  | i4 297.6, f16 10.1 |"]
    assert costs.costs_table({"int8": row | {"recipe_hash": RECIPES["fp16"].hash}}).splitlines() == lines[:2]
