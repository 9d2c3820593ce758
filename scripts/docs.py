"""Tables of the documents that are made from the code: ``python -m scripts.docs`` writes them again."""

from __future__ import annotations

from export.digest import ROOT
from export.folders import write_atomically
from quantize.recipe import allowance
from quantize.recipes import RECIPES
from scripts import effects, scale
from scripts.costs import costs_table, read

RECIPES_PAGE = ROOT / "docs" / "recipes.md"

DOCUMENTS = (ROOT / "README.md", RECIPES_PAGE)
"""Documents with the recipes' table between two comments."""

SCALE_DOCUMENT = ROOT / "docs" / "scale.md"
SCALE_BEGIN, SCALE_END = "<!-- scale: made by python -m scripts.docs -->", "<!-- /scale -->"

COSTS_BEGIN, COSTS_END = "<!-- costs: made by python -m scripts.docs -->", "<!-- /costs -->"

EFFECTS = {
    part: (f"<!-- {part} by checkpoint: made by python -m scripts.docs -->", f"<!-- /{part} by checkpoint -->")
    for part in ("recipes", "mixtures")
}
"""Between which comments the tables of :mod:`scripts.effects` stand."""

BEGIN, END = "<!-- recipes: made by python -m scripts.docs -->", "<!-- /recipes -->"


def recipes_table() -> str:
    """A row for every built-in recipe: what it does, whether it needs calibration data, what `verify` allows it."""
    lines = [
        "| recipe | what it does | needs | identical tokens | error rate more, average / language | text differs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for recipe in RECIPES.values():
        limits = recipe.tolerance
        needs = "`calibrate`" if recipe.needs_calibration else ""
        allowed = " | ".join(allowance(limits))
        lines.append(f"| `{recipe.name}` | {recipe.description} | {needs} | {allowed} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """A document with today's table.

    Raises:
        ValueError: it has no place for it.
    """
    return with_content(text, recipes_table(), BEGIN, END)


def with_scale(text: str) -> str:
    """The document about many machines with today's table.

    Raises:
        ValueError: it has no place for it.
    """
    return with_content(text, scale.load().table(), SCALE_BEGIN, SCALE_END)


def with_costs(text: str) -> str:
    """A document with what it cost to make each recipe at full size.

    Raises:
        ValueError: it has no place for it.
    """
    return with_content(text, costs_table(read()), COSTS_BEGIN, COSTS_END)


def with_effects(text: str) -> str:
    """A document with what recipes and mixtures do to each checkpoint that was measured.

    Raises:
        ValueError: it has no place for it.
    """
    for part, (begin, end) in EFFECTS.items():
        text = with_content(text, effects.effects_tables(effects.read(), part), begin, end)
    return text


def with_content(text: str, content: str, begin: str, end: str) -> str:
    """A document with this content between two comments.

    Raises:
        ValueError: it lacks one of them.
    """
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no {begin} … {end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def main() -> None:
    """Write every document's table again."""
    for document in DOCUMENTS:
        text = updated(document.read_text(encoding="utf-8"))
        write_atomically(document, with_effects(with_costs(text)) if document == RECIPES_PAGE else text)
    write_atomically(SCALE_DOCUMENT, with_scale(SCALE_DOCUMENT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
