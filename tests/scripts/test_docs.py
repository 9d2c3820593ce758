"""The documents' tables are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize.recipes import RECIPES
from scripts import docs


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
