from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from export.errors import UserError
from quantize.recipe_file import dump_recipe, keep_recipe, load_recipe, save_recipe
from quantize.recipes import RECIPES, get_recipe
from tests.helpers.command import assert_user_error, run_here


@pytest.fixture
def mine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A copy of int4."""
    file = tmp_path / "mine.toml"
    assert run_here(capfd, "recipes", "copy", "int4", file).returncode == 0
    return file


@pytest.mark.parametrize("name", RECIPES)
def test_files_hold_a_recipe_completely(name: str, tmp_path: Path) -> None:
    save_recipe(RECIPES[name], tmp_path / "copy.toml")
    assert load_recipe(tmp_path / "copy.toml") == RECIPES[name]
    assert get_recipe(str(tmp_path / "copy.toml")) == RECIPES[name]


@pytest.mark.parametrize(
    ("old", "new", "mentions"),
    [
        ('mode = "int4_sym"', 'mode = "int5"', ("encoder.compression.0.mode 'int5'", "int4_sym", "correct")),
        ('mode = "int4_sym"', 'mode = "int8_sym"', ("encoder.compression.0", "takes no group_size", "leave them out")),
        ("group_size = 64", 'group_size = "64"', ("compression.0.group_size '64'", "integer")),
        ("group_size = 64", "groupsize = 64", ("compression.0.groupsize 64", "correct its name or remove it")),
        ("group_size = 64", "ratio = 3", ("compression.0.ratio 3", "less than or equal to 1")),
        ("version = 2", 'version = "2"', ("version '2'", "integer", "write a whole number without quotes")),
        ("all_layers = true", 'all_layers = "yes"', ("compression.0.all_layers 'yes'", "write true or false without")),
        ("exact_match = 0.5", 'exact_match = "0.5"', ("tolerance.exact_match '0.5'", "write a number without quotes")),
        ("wer_delta = 1.0", "wer_delta = true", ("tolerance.wer_delta True", "write a number without quotes")),
        ("wer_delta = 1.0", "wer_delta = inf", ("tolerance.wer_delta inf", "finite number; write a number")),
        ("wer_delta = 1.0", "", ("tolerance.wer_delta", "required", "add it")),
        ("[joint]", "[vocoder]", ("vocoder", "correct its name or remove it")),
        ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "NUM_STREAMS", ("NUM_STREAMS", "set it where the graph is compiled")),
        ('name = "mine"', 'name = "int4-aware"', ("name 'int4-aware' is a built-in recipe's", "choose a new name")),
        ('name = "mine"', "name = ", ("no TOML", "line 1", "correct it there")),
    ],
)
def test_a_wrong_file_is_one_line(
    old: str, new: str, mentions: tuple[str, ...], mine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = mine.read_text(encoding="utf-8")
    assert old in text
    mine.write_text(text.replace(old, new), encoding="utf-8")
    assert_user_error(run_here(capfd, "recipes", "validate", mine), mine, *mentions)
    assert_user_error(run_here(capfd, "quantize", mine.parent, mine.parent / "out", "--recipe", mine), mine, *mentions)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml: cannot be read \(No such file"):
        get_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"binary\.toml: no TOML"):
        load_recipe(tmp_path / "binary.toml")


def test_verbs_show_validate_and_copy(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = run_here(capfd, "recipes", "show", "int8-full").stdout
    assert tomllib.loads(shown) == RECIPES["int8-full"].as_table()
    as_json = json.loads(run_here(capfd, "recipes", "show", mine, "--json").stdout)
    assert as_json["name"] == "mine"
    assert as_json["encoder"] == RECIPES["int4"].as_table()["encoder"]
    valid = json.loads(run_here(capfd, "recipes", "validate", mine, "--json").stdout)
    assert (valid["name"], valid["hash"]) == ("mine", load_recipe(mine).hash)


def test_copies_replace_nothing_unasked(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = mine.read_text(encoding="utf-8")
    assert_user_error(run_here(capfd, "recipes", "copy", "int8", mine), mine, "--force")
    assert mine.read_text(encoding="utf-8") == before
    assert run_here(capfd, "recipes", "copy", "int8", mine, "--force").returncode == 0
    assert load_recipe(mine).encoder == RECIPES["int8"].encoder
    for name, what in (("mine.txt", "ends in .toml"), ("int4.toml", "is a built-in"), ("My.toml", "lower-case")):
        assert_user_error(run_here(capfd, "recipes", "copy", "int8", mine.with_name(name)), name, what)
    assert [file.name for file in mine.parent.iterdir()] == ["mine.toml"]


def test_dumped_text_is_stable() -> None:
    assert dump_recipe(RECIPES["w8a8"]) == dump_recipe(get_recipe("w8a8"))
    assert "None" not in dump_recipe(RECIPES["w8a8"])


def test_a_recipe_that_somebody_edited_is_not_replaced(tmp_path: Path) -> None:
    """A sweep writes the recipes that it found, and people go on from these files."""
    file = tmp_path / "recipes" / "found.toml"
    keep_recipe(RECIPES["int4"], file)
    keep_recipe(RECIPES["int4"], file)
    edited = file.read_text() + "# mine\n"
    file.write_text(edited)
    with pytest.raises(UserError, match=r"found\.toml: is there and says something else; rename it"):
        keep_recipe(RECIPES["int4"], file)
    assert file.read_text() == edited
