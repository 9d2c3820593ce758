from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.bundle import Bundle
from export.errors import UserError
from quantize.ranking import Ranked, Ranking
from quantize.recipe import Recipe
from quantize.recipe_file import save_recipe
from quantize.recipes import RECIPES
from quantize.samples import CalibrationData
from scripts import docs, effects
from verify.data.selection import choose_utterances
from verify.scoring.divergence import divergence_between


def test_the_tables_are_current() -> None:
    text = docs.RECIPES_PAGE.read_text(encoding="utf-8")
    assert docs.with_effects(text) == text, "run `python -m scripts.docs`"


def test_variants_are_int4_but_for_what_their_names_say() -> None:
    found = {recipe.name: recipe for recipe in effects.variants()}
    first = found["int4-32"].encoder.compression[0]
    assert (first.group_size, first.ignored_scope.layers) == (32, (-1,))
    assert found["int4-32"].encoder.runtime_options == {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32}
    assert found["int4-all"].encoder.compression[0].ignored_scope.layers == ()
    assert len({recipe.hash for recipe in found.values()}) == len(found)
    mixed = effects.by_metric("max_activation_variance", 0.9)
    assert (mixed.name, mixed.encoder.compression[0].ratio) == ("mixed-max-activation-variance-90", 0.9)


def test_the_mixture_by_divergence_keeps_what_adds_up_to_most_and_fits() -> None:
    rows = [("a", 4e-4, 0.2), ("b", 3e-4, 0.1), ("c", 2e-4, 0.1)]
    groups = [
        Ranked(name=f"layers.0.{name}", graph="encoder", elements=1, kl=kl, keepable=True, more_mb=more)
        for name, kl, more in rows
    ]
    mixed = effects.by_divergence(Ranking(recipe=effects.known_base(), groups=groups), 0.25)
    kept = mixed.encoder.compression[0].ignored_scope.patterns[1:]
    assert kept == (r".*encoder\.layers\.0\.b\..*", r".*encoder\.layers\.0\.c\..*"), "a and b do not fit together"


def test_what_is_measured_is_what_the_divergence_says(small_fp32: Bundle, tmp_path: Path) -> None:
    utterances = choose_utterances(None, 3, prompts=small_fp32.metadata.prompt_dictionary)
    measuring = effects.Effects(small_fp32, tmp_path, None, utterances, threads=1)
    int8, int4 = measuring.figures([RECIPES["int8"], RECIPES["int4"]], RECIPES["int8"])
    (folder,) = map(Bundle.open, (tmp_path / "folders").glob("int4-*"))
    expected = 1e3 * divergence_between(small_fp32, folder, utterances, threads=1).kl
    assert int4["kl"][0] == pytest.approx(expected, rel=1e-6)
    assert int4["kl"][0] - int8["kl"][0] == pytest.approx(int4["kl_more"][0])
    assert int4["kl_more"][1][0] < int4["kl_more"][0] < int4["kl_more"][1][1]
    assert (int8["beside"], int8["kl_more"]) == (True, [0.0, (0.0, 0.0)])
    assert int4["mb"] == round(folder.size_bytes / 1e6, 2)
    (kept,) = tmp_path.glob("int4-*.json")
    tokens = [each["tokens"] for each in measuring.measured(RECIPES["int4"])["utterances"]]
    kept.write_text(kept.read_text().replace('"tokens": [', '"tokens": [1, ', 1))
    assert [each["tokens"] for each in measuring.measured(RECIPES["int4"])["utterances"]] == tokens, "not as edited"
    other = effects.four_bits("int4", "of the same name", group_size=32)
    assert measuring.measured(other)["mb"] > folder.size_bytes / 1e6


def test_a_metric_that_nncf_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--metric hessian: NNCF has no such metric; choose from weight_quant"):
        effects.main("demo", tmp_path, tmp_path, metric=["hessian", effects.METRICS[0]])


def test_a_ratio_that_leaves_no_room_for_a_mixture_by_divergence_is_refused(
    small_fp32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "layers.json"
    stored.write_text(json.dumps({"recipe_table": effects.known_base().as_table(), "groups": []}))
    sizes = {effects.known_base().name: 4.5}
    monkeypatch.setattr(effects.Effects, "__init__", lambda *_: None)
    monkeypatch.setattr(effects.Effects, "megabytes", lambda _, recipe: sizes.get(recipe.name, 4.25))
    refused = r"--ratio 0\.9: a mixture by NNCF has 0\.25 MB less than int4-all.*; give a smaller --ratio"
    with pytest.raises(UserError, match=refused):
        effects.main("small", small_fp32.path, tmp_path, ranking=stored)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"recipe_table": RECIPES["int4"].as_table(), "groups": []}))
    with pytest.raises(UserError, match=r"other\.json: is of int4, and mixtures start from int4-all"):
        effects.main("small", small_fp32.path, tmp_path, ranking=other)
    with pytest.raises(UserError, match="--ratio 1: is no share"):
        effects.main("demo", small_fp32.path, tmp_path, ranking=stored, ratio=[0.9, 1.0])


ROW: dict[str, Any] = {
    "name": "int4",
    "recipe_hash": RECIPES["int4"].hash,
    "description": "",
    "beside": False,
    "mb": 4.54,
    "kl": [1.278, [1.1, 1.5]],
    "kl_more": [-0.5, [-0.75, -0.25]],
    "same": 39,
    "wer_between": [0.5, [0.0, 1.5]],
    "errors": {"substitutions": 0.25, "deletions": 0.25, "insertions": 0.0},
    "farther": [0.25, [-0.5, 1.0]],
}


def a_row(recipe: Recipe, beside: Recipe, mb: float) -> dict[str, Any]:
    return ROW | {"name": recipe.name, "recipe_hash": recipe.hash, "beside": recipe == beside, "mb": mb}


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where figures are stored; nothing is measured, and what a run stores has 1 MB."""
    file = tmp_path / "figures.json"
    monkeypatch.setattr(effects, "FIGURES", file)
    monkeypatch.setattr(effects.read, "__defaults__", (file,))
    monkeypatch.setattr(effects.Effects, "__init__", lambda *_: None)
    monkeypatch.setattr(effects.Effects, "megabytes", lambda *_: 4.5)
    monkeypatch.setattr(
        effects.Effects, "figures", lambda _, recipes, beside: [a_row(each, beside, 1.0) for each in recipes]
    )
    return file


@pytest.mark.parametrize("differs", [{"checkpoint": "0" * 64}, {"utterances": 40}])
def test_mixtures_and_recipes_of_a_name_are_of_the_same_recordings_and_checkpoint(
    small_fp32: Bundle, tmp_path: Path, figures: Path, differs: dict[str, Any]
) -> None:
    """The table divides both by the same number of utterances."""
    known = {"checkpoint": small_fp32.metadata.checkpoint["sha256"], "utterances": 3, "mixtures": []}
    figures.write_text(json.dumps({"small": known}))
    effects.main("small", small_fp32.path, tmp_path, limit=3)
    assert [row["name"] for row in effects.read()["small"].pop("recipes")] == [each.name for each in effects.variants()]
    figures.write_text(json.dumps({"small": known | differs}))
    with pytest.raises(
        UserError, match=r"small: its other rows in .* are of another checkpoint, or of .* choose another"
    ):
        effects.main("small", small_fp32.path, tmp_path, limit=3)
    assert effects.read() == {"small": known | differs}


def test_rows_of_recipes_that_were_not_measured_again_stay(small_fp32: Bundle, tmp_path: Path, figures: Path) -> None:
    int8, int4, mine = RECIPES["int8"], RECIPES["int4"], effects.four_bits("mine", "")
    rows = [a_row(each, int4, 9.0) for each in (mine, RECIPES["w8a8"], int4, int8)]
    known = {"checkpoint": small_fp32.metadata.checkpoint["sha256"], "utterances": 3, "recipes": rows}
    figures.write_text(json.dumps({"small": known}))
    effects.main("small", small_fp32.path, tmp_path, limit=3, recipe=["int4-32", "int8"])
    found = [(row["name"], row["mb"], row["beside"]) for row in effects.read()["small"]["recipes"]]
    assert found == [
        ("int8", 1.0, False),
        ("int4", 1.0, True),
        ("w8a8", 9.0, False),
        ("int4-32", 1.0, False),
        ("mine", 9.0, False),
    ]
    older = [row | {"recipe_hash": "0" * 64} if row["name"] == "int4" else row for row in rows]
    for other, refused in (
        (known | {"recipes": older}, "small: its other recipes in .* are not paired with int4 as it is now; choose"),
        (known | {"recipes": rows[:2]}, "are not paired with int4"),
        (known | {"checkpoint": "0" * 64}, "small: its other rows in .* are of another checkpoint"),
    ):
        figures.write_text(json.dumps({"small": other}))
        with pytest.raises(UserError, match=refused):
            effects.main("small", small_fp32.path, tmp_path, limit=3, recipe=["int8"])
        assert json.loads(figures.read_text()) == {"small": other}
    figures.write_text(json.dumps({"small": known | {"checkpoint": "0" * 64, "recipes": older[1:]}}))
    effects.main("small", small_fp32.path, tmp_path, limit=3)
    assert {row["mb"] for row in effects.read()["small"]["recipes"]} == {1.0}, "no row stays where all are measured"


def test_rows_of_one_table_saw_one_calibration_set(
    small_fp32: Bundle, tmp_path: Path, figures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CalibrationData, "open", lambda path: SimpleNamespace(path=path, sha256=path.name))
    rows = [a_row(RECIPES["int4"], RECIPES["int4"], 9.0), a_row(RECIPES["w8a8"], RECIPES["int4"], 9.0)]
    rows[1]["calibration"] = "mine"
    known = {"checkpoint": small_fp32.metadata.checkpoint["sha256"], "utterances": 3, "recipes": rows}
    figures.write_text(json.dumps({"small": known}))
    arguments: dict[str, Any] = {"recipe": ["int4-aware"], "limit": 3}
    with pytest.raises(UserError, match=r"recipes in .* had another calibration set than other; give that"):
        effects.main("small", small_fp32.path, tmp_path, calibration=Path("other"), **arguments)
    assert json.loads(figures.read_text()) == {"small": known}
    effects.main("small", small_fp32.path, tmp_path, calibration=Path("mine"), **arguments)
    assert [row["mb"] for row in effects.read()["small"]["recipes"]] == [1.0, 1.0, 9.0]


def test_mixtures_replace_the_stored_ones(small_fp32: Bundle, tmp_path: Path, figures: Path) -> None:
    base, metric = effects.known_base(), effects.METRICS[0]
    older = [base, effects.by_metric(metric, 0.9), effects.by_metric(metric, 0.8), RECIPES["int4"]]
    rows = [a_row(each, base, 9.0) for each in older]
    checkpoint = small_fp32.metadata.checkpoint
    figures.write_text(json.dumps({"small": {"checkpoint": checkpoint["sha256"], "utterances": 3, "mixtures": rows}}))
    stored = tmp_path / "layers.json"
    ranking = {"recipe_table": base.as_table(), "groups": [], "checkpoint": checkpoint}
    stored.write_text(json.dumps(ranking))
    effects.main("small", small_fp32.path, tmp_path, limit=3, ranking=stored, ratio=[0.9, 0.7], metric=[metric])
    assert [(row["name"], row["mb"]) for row in effects.read()["small"]["mixtures"]] == [
        ("int4-all", 1.0),
        ("mixed-divergence-0", 1.0),
        ("mixed-weight-quantization-error-90", 1.0),
        ("mixed-divergence-0", 1.0),
        ("mixed-weight-quantization-error-70", 1.0),
        ("int4", 1.0),
    ]
    stored.write_text(json.dumps(ranking | {"checkpoint": checkpoint | {"sha256": "0" * 64}}))
    before = figures.read_bytes()
    refused = rf"layers\.json: is of another checkpoint than {small_fp32.path}; give the ranking of that folder"
    with pytest.raises(UserError, match=refused):
        effects.main("small", small_fp32.path, tmp_path, limit=3, ranking=stored)
    assert figures.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"ratio": [0.9]}, "--ratio: is of mixtures, .*; give --ranking"),
        ({"metric": [effects.METRICS[0]]}, "--metric: is of mixtures, .*; give --ranking"),
        ({"recipe": ["int8"], "ranking": Path("layers.json")}, "--recipe int8: .*; leave one of the two out"),
    ],
)
def test_an_option_that_says_nothing_here_is_refused(tmp_path: Path, given: dict[str, Any], refused: str) -> None:
    with pytest.raises(UserError, match=refused):
        effects.main("small", tmp_path, tmp_path, **given)


def test_two_recipes_of_one_name_are_refused(small_fp32: Bundle, tmp_path: Path, figures: Path) -> None:
    """A row has the place of its name."""
    for number in (32, 128):
        save_recipe(effects.four_bits("mine", "", group_size=number), tmp_path / f"{number}.toml")
    with pytest.raises(UserError, match="two recipes have the name mine"):
        effects.main("small", small_fp32.path, tmp_path, recipe=[str(tmp_path / f"{each}.toml") for each in (32, 128)])
    assert not figures.exists()


def test_rows_of_another_recipe_of_that_name_are_not_shown() -> None:
    entry = {"utterances": 40, "recipes": [ROW]}
    lines = effects.effects_tables({"demo": entry}, "recipes").splitlines()
    assert lines[0].startswith("| demo, 40 utterances | MB |")
    assert lines[2:] == [
        "| `int4` | 4.54 | 1.28 (1.10 to 1.50) | −0.50 (−0.75 to −0.25) | 98 | 0.50 (0.00 to 1.50) "
        "| 0.25 / 0.25 / 0.00 | +0.25 (−0.50 to +1.00) |"
    ]
    other = entry | {"recipes": [ROW | {"recipe_hash": RECIPES["int8"].hash}]}
    assert effects.effects_tables({"demo": other}, "recipes") == ""
    assert effects.effects_tables({"demo": entry}, "mixtures") == ""
