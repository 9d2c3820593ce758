"""What documents show is so: tables are the code's, links lead somewhere, commands parse, the Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

from export.bundle import Bundle
from export.digest import ROOT
from quantize.recipes import RECIPES
from scripts import costs, docs, scale
from scripts.cli import app
from tests.helpers.command import Done, assert_user_error
from tests.helpers.tiny_bundle import tiny_bundle

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


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


def anchors(page: Path) -> set[str]:
    """What GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def unknown_words(line: str) -> list[str]:
    """The verbs and options of a command line that the command does not have."""
    command = app.command
    words = shlex.split(line, comments=True)[1:]
    while words and isinstance(command, typer.core.TyperGroup) and not words[0].startswith("-"):
        verb = words.pop(0)
        if verb not in command.commands:
            return [verb]
        command = command.commands[verb]
    options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [word for word in given if word not in options | {"--help"}]


def commands(page: Path) -> list[str]:
    """Of its console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [
        part.strip() for block in blocks for line in block.splitlines() for part in line.removeprefix("$ ").split(" | ")
    ]
    return [line.partition(" > ")[0] for line in lines if line.startswith("nemotron-ov ")]


def test_commands_of_the_documents_have_their_verbs_and_options() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    assert len(lines) > 40
    assert {line: unknown for line in lines if (unknown := unknown_words(line))} == {}
    assert unknown_words("nemotron-ov recipes mix --no-such-option") == ["--no-such-option"]


def test_the_verbs_table_has_every_verb() -> None:
    text = docs.DOCUMENTS[0].read_text(encoding="utf-8")
    rows = {row.split("|")[1].split()[0].strip("` ") for row in text.splitlines() if row.startswith("| `")}
    command = app.command
    assert isinstance(command, typer.core.TyperGroup)
    assert {name for name, each in command.commands.items() if not each.hidden} <= rows


def test_the_python_of_the_readme_transcribes(
    demo_int8: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, live = re.findall(r"```python\n(.*?)```", docs.DOCUMENTS[0].read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "out" / "demo").mkdir(parents=True)
    (tmp_path / "out" / "demo" / "int8").symlink_to(demo_int8.path)
    audio, rate = soundfile.read(ROOT / "export" / "demo" / "audio" / "094-fr-FR.flac", dtype="float32")
    soundfile.write(tmp_path / "recording.wav", audio, rate)
    monkeypatch.chdir(tmp_path)
    names = {"blocks": np.array_split(audio, 7)}
    exec(file, names)
    (whole,) = capsys.readouterr().out.splitlines()
    assert whole
    exec(live, names)
    growing = capsys.readouterr().out.splitlines()
    assert len(growing) == 7
    assert growing[-1]
    assert whole.startswith(growing[-1])


def test_what_costs_cannot_measure_is_one_line_before_anything_is_made(tmp_path: Path) -> None:
    folder, foreign = tiny_bundle(tmp_path / "fp32").path, tmp_path / "foreign.json"
    foreign.write_text('{"mine": 1}')
    for arguments, mention in (
        (["--recipe", "fp16", "--recipe", "int4-aware"], "--calibration DIR"),
        (["--recipe", "fp16", "--recipe", "int5"], "int5"),
        (["--recipe", "fp16", "--figures", foreign], "foreign.json"),
        (["--recipe", "fp16", "--figures", tmp_path], "Is a directory"),
    ):
        command = [sys.executable, "-m", "scripts.costs", folder, "--work", tmp_path / "work", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert_user_error(Done(done.returncode, done.stdout, done.stderr), mention)
    assert not (tmp_path / "work").exists()
    assert foreign.read_text() == '{"mine": 1}'
