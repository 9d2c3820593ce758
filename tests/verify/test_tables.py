"""The published tables from stored reports, with every number worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantize.recipe import Tolerance
from tests.helpers.command import assert_user_error, run_here
from verify.report import Output, Report, Row, Speed, score_rows
from verify.runs import Side
from verify.tables import make_tables

LIMITS = Tolerance(exact_match=0.0, wer_delta=100.0)

# The manifest's text, FP32's, INT8's.
ENGLISH = [("One two.", "one two", "one three"), ("Four five six seven", "four five six seven", "four five six")]
CHINESE = [("你好。", "你好。", "你好")]


def save_report(
    file: Path, language: str, texts: list[tuple[str, str, str]], *, wall: tuple[float, float] = (1.0, 2.0),
    target: dict[str, Any] | None = None, reference: dict[str, Any] | None = None, text: bool = True,
) -> Report:  # fmt: skip
    """INT8 beside FP32; ``wall`` are the seconds that they took for each utterance of 4 s."""
    rows = [
        Row(
            audio=f"{number}.wav", audio_seconds=4.0, language=language, text=spoken if text else "",
            target=Output(tokens=[1], text=ours, seconds=wall[0]),
            reference=Output(tokens=[1], text=theirs, seconds=wall[1]),
        )
        for number, (spoken, theirs, ours) in enumerate(texts)
    ]  # fmt: skip
    common: dict[str, Any] = {"runtime": "generation1", "lookahead": 0, "chunk_ms": 1120.0, "precision": "f32"}
    common |= {"checkpoint": {"sha256": "c"}, "machine": {"cpu": "A Processor"}}
    sides = [
        Side.model_validate(common | facts)
        for facts in (
            {"name": "int8", "recipe": {"name": "int8", "hash": "x"}, "size_bytes": 700_000_000} | (target or {}),
            {"name": "fp32", "recipe": {"name": "fp32"}, "size_bytes": 2_500_000_000} | (reference or {}),
        )
    ]
    speed = Speed(audio_seconds=0.0, wall_seconds=0.0, rtfx=0.0)
    report = Report(
        **dict(score_rows(rows, LIMITS)), limits=LIMITS, target=sides[0], reference=sides[1], language="manifest",
        manifest_sha256="m", speed=speed, reference_speed=speed, rows=rows,
    )  # fmt: skip
    report.save(file)
    return report


def save_regenerated(folder: Path, **int8: Any) -> None:
    facts = {"bytes": 700_000_000, "encoder_bytes": 650_000_000, "peak_rss_mb": 2100.4} | int8
    rows = [
        {"recipe": "fp32", "bytes": 2_500_000_000, "encoder_bytes": 2_494_000_000, "peak_rss_mb": 5800.0},
        {"recipe": "int8", **facts},
    ]
    (folder / "report.json").write_text(json.dumps({"folders": rows}))


def test_the_three_tables(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """English: FP32 recognizes all ("one two." is "one two"), INT8 1 of 2 and 3 of 4 words; Chinese: INT8 2 of 3."""
    save_report(tmp_path / "reports" / "en.json", "en-US", ENGLISH)
    save_report(tmp_path / "reports" / "zh.json", "zh-CN", CHINESE, wall=(2.0, 4.0))
    save_regenerated(tmp_path)
    done = run_here(capfd, "tables", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "### FP32 by language",
        "",
        "| language | metric | n | FP32 % |",
        "| --- | --- | ---: | ---: |",
        "| en-US | WER | 2 | 0.00 |",
        "| zh-CN | CER | 1 | 0.00 |",
        "| weighted |  | 3 | 0.00 |",
        "",
        "### INT8 beside FP32",
        "",
        "| language | n | FP32 % | INT8 % | Δ points | 95 % |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        "| en-US | 2 | 0.00 | 37.50 | +37.50 | -31.25 to +106.25 |",
        "| zh-CN | 1 | 0.00 | 33.33 | +33.33 |  |",
        "| weighted | 3 | 0.00 | 36.11 | +36.11 |  |",
        "",
        "### What INT8 buys",
        "",
        "| | FP32 | INT8 |",
        "| --- | ---: | ---: |",
        "| encoder .bin, MB | 2,494 | 650 |",
        "| folder, MB | 2,500 | 700 |",
        "| peak RSS, MB | 5,800 | 2,100 |",
        "| RTFx | 1.50 | 3.00 |",
        "",
        "Normalizer published; a language's number is the mean of its utterances' rates; weighted by n. Loop "
        "generation1, lookahead 0, chunks of 1120 ms, f32, CPU; prompt: manifest; A Processor.",
    ]  # fmt: skip


def test_the_weighted_row_has_an_interval(tmp_path: Path) -> None:
    """Of one language its own; another one that is less sure makes its share of that wider."""
    said = [(f"one two {number}", f"one two {number}", f"one two {number % 3}") for number in range(12)]
    save_report(tmp_path / "de.json", "de-DE", said)
    alone = make_tables([tmp_path])
    assert alone.weighted.delta_interval == alone.languages[0].delta_interval is not None
    save_report(tmp_path / "en.json", "en-US", ENGLISH)
    both = make_tables([tmp_path])
    spans = [interval[1] - interval[0] for row in both.languages if (interval := row.delta_interval)]
    assert both.weighted.delta_interval is not None
    assert both.weighted.delta is not None
    assert both.weighted.delta_interval[0] < both.weighted.delta < both.weighted.delta_interval[1]
    assert min(spans) * 12 / 14 < both.weighted.delta_interval[1] - both.weighted.delta_interval[0] < max(spans)
    save_report(tmp_path / "fr.json", "fr-FR", ENGLISH, text=False)
    assert make_tables([tmp_path]).weighted.delta_interval is None


def test_as_json_and_by_another_normalizer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_report(tmp_path / "en.json", "en-US", ENGLISH)
    found = json.loads(run_here(capfd, "tables", tmp_path / "en.json", "--normalizer", "nfkc", "--json").stdout)
    assert (found["normalizer"], found["rate"]) == ("nfkc", "corpus")
    assert found["languages"][0]["build"] == pytest.approx(100 * 2 / 6), "errors over words"
    assert found["build_cost"] == {"encoder_bytes": None, "bytes": 700_000_000, "peak_rss_mb": None, "rtfx": 4.0}


def test_what_is_missing_reads_not_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nemo = {"runtime": "nemo-streaming", "recipe": {}, "name": "demo"}
    save_report(tmp_path / "fp32.json", "en-US", ENGLISH, target={"recipe": {"name": "fp32"}}, reference=nemo)
    out = run_here(capfd, "tables", tmp_path).stdout
    assert "| en-US | WER | 2 | 37.50 |" in out, "the target is FP32 itself"
    assert "| en-US | 2 | 37.50 | not measured | not measured |  |" in out
    assert "| weighted | 2 | 37.50 | not measured | not measured |  |" in out
    assert "| encoder .bin, MB | not measured | not measured |" in out
    assert "| RTFx | 4.00 | not measured |" in out
    save_report(tmp_path / "int8.json", "en-US", ENGLISH, text=False)
    assert "| en-US | WER | 2 | not measured |" in run_here(capfd, "tables", tmp_path).stdout, "text was ignored"


def test_another_build_and_its_settings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_report(tmp_path / "a.json", "en-US", ENGLISH, target={"recipe": {"name": "int4", "hash": "x"}})
    save_report(tmp_path / "b.json", "en-US", ENGLISH[:1], target={"precision": "bf16"})
    assert "| en-US | 2 | 0.00 | 37.50 |" in run_here(capfd, "tables", tmp_path, "--build", "int4").stdout
    int8 = run_here(capfd, "tables", tmp_path).stdout
    assert "### What INT8 buys" in int8
    assert "; INT8: Loop generation1, lookahead 0, chunks of 1120 ms, bf16, CPU; A Processor." in int8


def test_two_builds_are_no_one_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_report(tmp_path / "en.json", "en-US", ENGLISH)
    others: list[tuple[dict[str, Any], str]] = [
        ({"recipe": {"name": "int8", "hash": "y"}}, "target has recipe hash y"),
        ({"encoder": "nemo"}, "target has encoder nemo"),
    ]
    for number, (facts, mention) in enumerate(others):
        other = tmp_path / str(number)
        save_report(other / "zh.json", "zh-CN", CHINESE, target=facts)
        assert_user_error(run_here(capfd, "tables", tmp_path / "en.json", other), mention)
    for file, digits in (("a", "1"), ("b", "2")):
        save_report(
            tmp_path / f"{file}.json", {"a": "en-US", "b": "zh-CN"}[file], ENGLISH, target={"files": {"x": digits}}
        )
    assert_user_error(run_here(capfd, "tables", tmp_path / "a.json", tmp_path / "b.json"), "target has files")


def test_a_build_is_named_as_the_heading_has_it_or_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nemo = {"runtime": "nemo-streaming", "recipe": {}, "name": "demo"}
    save_report(tmp_path / "int8.json", "en-US", ENGLISH)
    save_report(tmp_path / "fp32.json", "en-US", ENGLISH, target={"recipe": {"name": "fp32"}}, reference=nemo)
    upper, lower = (run_here(capfd, "tables", tmp_path, "--build", name) for name in ("INT8", "int8"))
    assert upper.stdout == lower.stdout
    assert_user_error(run_here(capfd, "tables", tmp_path, "--build", "int5"), "there are reports of fp32, int8")
    save_report(
        tmp_path / "else" / "x.json", "en-US", ENGLISH, target={"recipe": {}, "name": "somebody's"}, reference=nemo
    )
    assert_user_error(run_here(capfd, "tables", tmp_path / "else"), "no report of fp32")


@pytest.mark.parametrize(
    "folders", [[{"recipe": "int8", "bytes": "many"}], [{"recipe": "int8", "peak_rss_mb": float("nan")}], [1], 5]
)
def test_a_damaged_report_of_regenerate_is_one_line(
    tmp_path: Path, folders: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    save_report(tmp_path / "reports" / "en.json", "en-US", ENGLISH)
    (tmp_path / "report.json").write_text(json.dumps({"folders": folders}))
    assert_user_error(run_here(capfd, "tables", tmp_path), "report.json: is no report of regenerate")
    (tmp_path / "report.json").write_text("[" * 100_000)
    assert_user_error(run_here(capfd, "tables", tmp_path), "report.json: is no JSON")


def test_speeds_of_two_machines_have_no_common_number(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_report(tmp_path / "en.json", "en-US", ENGLISH)
    elsewhere = {"machine": {"cpu": "Another Processor"}}
    save_report(tmp_path / "zh.json", "zh-CN", CHINESE, target=elsewhere)
    assert "| RTFx | 2.00 | not measured |" in run_here(capfd, "tables", tmp_path).stdout


def test_what_does_not_fit_together_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_report(tmp_path / "a.json", "en-US", ENGLISH)
    twice = tmp_path / "twice"
    save_report(twice / "b.json", "en-US", ENGLISH)
    assert_user_error(run_here(capfd, "tables", tmp_path, twice), "b.json: holds en-US, which", "a.json holds too")
    other = tmp_path / "other"
    save_report(other / "c.json", "zh-CN", CHINESE, target={"lookahead": 13}, reference={"lookahead": 13})
    assert_user_error(run_here(capfd, "tables", tmp_path, other), "c.json: target has lookahead 13", "a.json 0")
    save_regenerated(tmp_path, bytes=1)
    assert_user_error(run_here(capfd, "tables", tmp_path), "int8: folders of 1, 700000000 bytes")
    assert run_here(capfd, "tables", tmp_path / "a.json", "--build", "int4").returncode == 2
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "x.json").write_text('{"rows": [')
    for bad, mention in (
        ("none", "no such file"),
        ("empty", "no report of fp32"),
        ("broken", "is no JSON"),
    ):
        assert_user_error(run_here(capfd, "tables", tmp_path / bad), str(tmp_path / bad), mention)
    assert_user_error(
        run_here(capfd, "tables", tmp_path / "a.json", "--normalizer", "x"), "--normalizer x", "published"
    )
