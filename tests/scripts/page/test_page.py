"""The page and the table: their numbers are the report's, nothing of a stranger's runs, nothing of a user's is lost."""

from __future__ import annotations

import base64
import csv
import io
import json
import random
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from export.bundle import Bundle
from scripts.page import charts, table
from scripts.page.alignment import align
from scripts.page.render import write_page
from scripts.page.sources import of_report, read_sources
from scripts.page.utterances import KINDS, disagreements, table_rows
from tests.helpers.command import assert_user_error, run_here
from tests.helpers.pages import HOSTILE, Parsed, Texts, make_report
from tests.helpers.tiny_bundle import speech, tiny_bundle
from verify.report import Report
from verify.scoring.rates import Metric, score_words

TEXTS: list[Texts] = [
    ("one two three four", "one two three four", "one two three four"),
    ("one two three four", "one two three four", "one too three"),  # 1 S, 1 D
    ("five six seven", "five six", "five six seven eight"),  # reference 1 D, build 1 I
    ("nine ten", "nine ten", ""),  # 2 D, nothing recognized
]
needs_charts = pytest.mark.skipif(not charts.can_draw(), reason="charts need the extra 'report'")


def page_of(report: Report, folder: Path, **options: Any) -> str:
    file = folder / "page.html"
    write_page(of_report(report, "int8"), file, **options)
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    return Parsed(page_of(make_report(TEXTS), tmp_path_factory.mktemp("page")))


def test_every_disagreement_is_shown_and_no_other(parsed: Parsed) -> None:
    assert [each["data-audio"] for each in parsed.all("article")] == ["3.wav", "1.wav", "2.wav"]
    assert "3 of 4 utterances got other tokens" in parsed.text
    (worst, *_, last) = (dict(json.loads(each["data-differences"])) for each in parsed.all("article"))
    assert worst["int8"] == {"worse": 2, "apart": 2, "rate": 100.0, "kinds": ["deletion", "nothing", "worse"]}
    assert last["int8"] == {"worse": 0, "apart": 2, "rate": pytest.approx(100 / 3), "kinds": ["insertion"]}
    words = " ".join(parsed.text.split())
    assert "S 1 D 1 I 0 of 4 words" in words
    assert "int8 differs from fp32 from token 1, frame 1: 346 → 338; FP32’s margin 0.125" in words
    assert "int8 differs from fp32 from token 0: 426 → end" in words


def test_headline_numbers_are_the_reports(parsed: Parsed) -> None:
    report, words = make_report(TEXTS), " ".join(parsed.text.split())
    assert report.wer is not None
    assert report.reference_wer is not None
    assert report.wer_delta is not None
    for shown in (f"{report.wer:.2f}", f"{report.reference_wer:.2f}", f"{report.wer_delta:+.2f}", "25.0"):
        assert shown in words
    assert {True: "passed", False: "FAILED", None: "NOT DECIDED"}[report.passed] in words
    assert "9.011.711.9" in words  # p50, p95, p99 of 8, 9 and 12 ms


def test_an_interval_stands_on_one_line(tmp_path: Path) -> None:
    words = [f"word{number} and more" for number in range(20)]
    report = make_report([(text, text, text if number else "other") for number, text in enumerate(words)])
    assert report.wer_between_interval is not None
    low, high = report.wer_between_interval
    parsed = Parsed(page_of(report, tmp_path))
    assert f"({low:.2f}\u00a0to\u00a0{high:.2f})" in parsed.text
    assert "(95\u00a0% interval)" in parsed.text


def test_counts_of_the_table_add_up_to_the_reports() -> None:
    report = make_report(TEXTS)
    rows = list(table_rows(of_report(report, "int8").comparisons))
    score = report.per_language["en-US"]
    assert score.errors is not None
    for kind in ("substitutions", "deletions", "insertions"):
        total = sum(row[kind] for row in rows)
        assert 100 * total / score.units == pytest.approx(getattr(score.errors, kind))
    assert sum(not row["same_tokens"] for row in rows) == len(disagreements(of_report(report, "x").comparisons)) == 3


def test_rows_without_language_or_text_are_counted_as_the_report_counts_them(tmp_path: Path) -> None:
    """Such rows are scored in the language of the reference's tag, and apart from rows with text."""
    report = make_report([("你好吗", "你好吗", "你坏吗"), ("", "你好", "你坏")], language="auto", hostile="zh-CN")
    sources = of_report(report, "int8")
    rows = list(table_rows(sources.comparisons))
    assert {score.units for score in report.per_language.values()} == {3, 0}
    assert [(row["metric"], row["units"], row["substitutions"], row["rate"]) for row in rows] == [
        ("cer", 3, 1, pytest.approx(100 / 3)),
        ("cer", None, None, None),
    ]
    assert [row["between_units"] for row in rows] == [3, 2]
    shown = disagreements(sources.comparisons)
    assert {(each.language, each.metric, each.has_text) for each in shown} == {
        ("zh-CN", "cer", True),
        ("zh-CN", "cer", False),
    }
    assert all(found.worse == 1 for each in shown for found in each.differences.values())
    line = "Difference from the reference’s text, because there is no other text: zh-CN (auto) without text."
    assert line in Parsed(page_of(report, tmp_path)).text
    assert "because there is no other text" not in Parsed(page_of(make_report(TEXTS), tmp_path)).text


@pytest.mark.parametrize("metric", ["wer", "cer"])
def test_alignment_is_the_scorers(metric: Metric) -> None:
    rng = random.Random(3)
    joint = "" if metric == "cer" else " "
    for _ in range(200):
        before, after = ([rng.choice("abcd") * rng.randint(1, 2) for _ in range(rng.randint(0, 9))] for _ in range(2))
        parts, score = align(before, after, metric)
        assert score == score_words(before, after, metric)
        assert joint.join(part.before for part in parts if part.before) == joint.join(before)
        assert joint.join(part.after for part in parts if part.after) == joint.join(after)


def test_languages_without_spaces_are_aligned_by_characters(tmp_path: Path) -> None:
    page = page_of(make_report([("你好吗", "你好吗", "你坏吗")], language="zh-CN"), tmp_path)
    assert "<del>好</del>" in page
    assert "<ins>坏</ins>" in page
    assert "of 3 characters" in page


def test_without_text_the_references_stands_for_it(tmp_path: Path) -> None:
    page = Parsed(page_of(make_report([("", "one two", "one too"), ("", "a", "a")]), tmp_path))
    words = " ".join(page.text.split())
    assert "Aligned with the reference’s text" in words
    assert "S 1 D 0 I 0 of 2 words" in words
    assert "error rate points more" not in words


def check_harmless(page: str) -> Parsed:
    """Nothing runs, loads or leads out, and what was hostile is only text."""
    parsed = Parsed(page)
    assert len(parsed.all("script")) == 2
    assert len(parsed.all("style")) == 1
    assert not parsed.all("img")
    assert page.count("</script>") == 2
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "style" not in attributes, tag
        for name in ("src", "href", "action", "xlink:href", "srcset", "poster", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:audio/flac;base64,", "./")), (tag, attributes)
    outside = re.sub(r"\sxmlns(:xlink)?=\"http://www\.w3\.org/[^\"]*\"", "", page)
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", outside)
    (policy,) = (each["content"] for each in parsed.all("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    return parsed


def test_hostile_text_in_every_field_is_text(tmp_path: Path) -> None:
    texts = [(f"text {HOSTILE}", f"reference {HOSTILE}", f"build {HOSTILE}"), ("a", "a", "b")]
    report = make_report(texts, language=f"xx{HOSTILE}", audio=f"/x/{HOSTILE.replace('{', '{{').replace('}', '}}')}",
                         hostile=HOSTILE)  # fmt: skip
    file = tmp_path / "page.html"
    write_page(of_report(report, f"title {HOSTILE}"), file)
    parsed = check_harmless(file.read_text(encoding="utf-8"))
    for what in ("title", "text", "a.nemo", "A Processor", "a recipe", "no audio", "int8", "fp32"):
        assert what in parsed.text
    assert parsed.text.count(HOSTILE) > 15
    for article in parsed.all("article"):
        assert article["data-language"] == f"xx{HOSTILE}"
        assert article["data-audio"].endswith(f"{HOSTILE}.wav")
        ((build, _),) = json.loads(article["data-differences"])
        assert HOSTILE in build
    values = [each["value"] for each in parsed.all("option")]
    assert f"xx{HOSTILE}" in values


def test_hostile_reports_of_sweep_and_regenerate(tmp_path: Path) -> None:
    row = {"name": HOSTILE, "mb": 4.0, "wer_between": 1.0, "exact_match": 0.5, "within_limits": False, "report": None}
    rows = [row | {"name": f"{number}{HOSTILE}", "mb": float(number)} for number in range(3)]
    content: dict[str, Any] = {"rows": rows, "failed": {HOSTILE: HOSTILE}, "text_scored": False, "notes": [HOSTILE]}
    content |= {"machine": {"cpu": HOSTILE}, "checkpoint": {"source": HOSTILE}}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    folder = {"recipe": HOSTILE, "reference": HOSTILE, "reasons": [HOSTILE], "passed": False, "report": f"../{HOSTILE}"}
    content = {"folders": [folder], "notes": [HOSTILE], "checkpoint": {"source": HOSTILE}}
    (tmp_path / "report.json").write_text(json.dumps(content))
    sources = read_sources([tmp_path / "sweep.json", tmp_path / "report.json"])
    write_page(sources, tmp_path / "page.html")
    parsed = check_harmless((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert parsed.text.count(HOSTILE) > 8
    assert "its utterances are not shown" in parsed.text
    assert "No transcripts are stored" in parsed.text


@needs_charts
def test_charts_are_drawn_and_harmless(tmp_path: Path) -> None:
    page = page_of(make_report(TEXTS, language=f"xx{HOSTILE}", hostile=HOSTILE), tmp_path)
    parsed = check_harmless(page)
    labels = [each["aria-label"] for each in parsed.all("div") if each.get("role") == "img"]
    assert len(labels) == 4  # two charts, for phones and for wide screens
    assert len(parsed.all("svg")) == 4
    assert 'fill="currentColor"' in page
    assert 'stroke="var(--series-1)"' in page


@needs_charts
def test_the_pareto_front_is_the_sweeps(tmp_path: Path) -> None:
    names = {"fp32": (15.0, 0.0), "int8": (6.0, 0.8), "int4": (4.0, 1.6), "nf4": (5.0, 9.0)}
    rows = [{"name": name, "mb": mb, "wer_between": between} for name, (mb, between) in names.items()]
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": rows, "failed": {}, "text_scored": False}))
    chart = charts.pareto_chart(read_sources([tmp_path]).builds)
    assert chart is not None
    assert "by size: int4, int8, fp32." in chart.text
    assert all(f">{name}</text>" in svg for svg in chart.drawings.values() for name in names)


@needs_charts
def test_a_chart_that_cannot_show_all_builds_says_so(tmp_path: Path) -> None:
    for number in range(8):
        make_report(TEXTS, build=f"build-{number}").save(tmp_path / f"{number}.json")
    write_page(read_sources([tmp_path]), tmp_path / "page.html")
    text = Parsed((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert text.count("The chart shows the first 8 of 9 builds.") == 2
    (tmp_path / "7.json").unlink()
    write_page(read_sources([tmp_path]), tmp_path / "page.html")
    assert "The chart shows the first" not in Parsed((tmp_path / "page.html").read_text(encoding="utf-8")).text


def test_names_stand_again_in_a_drawing_whatever_their_number() -> None:
    names = [f"name-{number}" for number in range(1200)]
    stand_ins = charts._StandIns(names)
    for name in (names[7], names[999], names[1000], names[1199]):
        assert stand_ins.replaced(stand_ins.of(name)) == name


def test_without_the_extra_there_are_tables_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(charts, "can_draw", lambda: False)
    parsed = Parsed(page_of(make_report(TEXTS), tmp_path))
    assert not parsed.all("svg")
    assert len(parsed.all("table")) == 3
    assert "pip install 'nemotron-ov[report]'" in capfd.readouterr().err


@needs_charts
def test_a_chart_that_cannot_be_drawn_costs_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise ValueError("Vega-Lite to SVG conversion failed:\nno memory")

    monkeypatch.setattr("vl_convert.vegalite_to_svg", fails)
    make_report(TEXTS).save(tmp_path / "r.json")
    done = run_here(capfd, "verify", "--rescore", tmp_path / "r.json", "--report", tmp_path / "again.json")
    assert done.returncode in (0, 1, 3)
    assert "no charts, because they could not be drawn (Vega-Lite to SVG conversion failed: no memory)" in done.stderr
    parsed = Parsed((tmp_path / "again.html").read_text())
    assert not parsed.all("svg")
    assert len(parsed.all("table")) == 3


@pytest.fixture
def recordings(tmp_path: Path) -> str:
    folder = tmp_path / 'a #1 "b"'
    folder.mkdir()
    for number in range(len(TEXTS)):
        soundfile.write(folder / f"{number}.wav", speech(2.0, seed=number), 16000)
    return str(folder / "{number}.wav")


def test_audio_is_embedded_as_it_was_transcribed(tmp_path: Path, recordings: str) -> None:
    """Half a second from 1 s on."""
    parsed = Parsed(page_of(make_report(TEXTS, audio=recordings, seconds=0.5, offset=1.0), tmp_path))
    players = parsed.all("audio")
    assert len(players) == 3
    signal, rate = soundfile.read(io.BytesIO(base64.b64decode(players[0]["src"].split(",", 1)[1])), dtype="float32")
    assert (rate, len(signal)) == (16000, 8000)
    np.testing.assert_allclose(signal, np.clip(speech(2.0, seed=3)[16000:24000], -1, 1), atol=1e-4)
    assert "3 inside this page" in parsed.text


def test_audio_beyond_the_limit_is_played_from_its_file(tmp_path: Path, recordings: str) -> None:
    (tmp_path / "pages").mkdir()
    report = make_report(TEXTS, audio=recordings, seconds=2.0)
    sources = [each["src"] for each in Parsed(page_of(report, tmp_path / "pages", audio_mb=0.1)).all("audio")]
    assert [source.startswith("data:") for source in sources] == [True, False, False]
    for source, number in zip(sources[1:], (1, 2), strict=True):
        path, _, part = source.partition("#")
        assert path.startswith("./../a%20%231%20%22b%22/")
        assert (tmp_path / "pages" / unquote(path)).resolve() == Path(recordings.format(number=number)).resolve()
        assert part == "t=0,2"


def test_what_is_no_such_recording_is_not_in_the_page(tmp_path: Path, recordings: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a password\n" * 100)
    files = {0: secret, 1: Path(recordings.format(number=1)), 2: tmp_path / "gone.wav"}
    report = make_report([("a", "a", "b")] * 4, seconds=9.0)
    files[3] = tmp_path / ("long" * 100)  # no system has such a name
    rows = [row.model_copy(update={"audio_filepath": str(files[number])}) for number, row in enumerate(report.rows)]
    parsed = Parsed(page_of(report.model_copy(update={"rows": rows}), tmp_path))
    assert not parsed.all("audio")
    for what in ("secret.txt: ", "holds 2.0 s where 9.0 s were compared", "recording not found"):
        assert what in parsed.text
    assert "4 not found" in parsed.text


def test_a_limit_leaves_out_the_least_severe_and_says_so(tmp_path: Path) -> None:
    parsed = Parsed(page_of(make_report(TEXTS), tmp_path, limit=1))
    assert [each["data-audio"] for each in parsed.all("article")] == ["3.wav"]
    assert "The 1 most severe are here; 2 were left out." in parsed.text


def test_all_agree(tmp_path: Path) -> None:
    parsed = Parsed(page_of(make_report(TEXTS[:1]), tmp_path))
    assert not parsed.all("article")
    assert "None: all builds gave their reference’s tokens on all 1 utterances." in parsed.text


def test_several_reports_are_one_page(tmp_path: Path) -> None:
    other = [(text, reference, reference) for text, reference, _ in TEXTS[:3]] + [("nine ten", "nine ten", "nine")]
    for name, texts in (("int8", TEXTS), ("fp16", other)):
        make_report(texts, build=name).save(tmp_path / f"{name}.json")
    sources = read_sources([tmp_path])
    assert [build.name for build in sources.builds] == ["fp32", "fp16", "int8"]
    found = {each.audio: each for each in disagreements(sources.comparisons)}
    assert set(found) == {"1.wav", "2.wav", "3.wav"}
    assert set(found["3.wav"].differences) == {"fp16", "int8"}
    assert [each.names for each in found["1.wav"].hypotheses] == [["fp32", "fp16"], ["int8"]]


def test_reports_of_two_normalizers_need_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("nfkc", "none"):
        report = make_report(TEXTS, build=name)
        report.model_copy(update={"normalizer": name}).save(tmp_path / f"{name}.json")
    arguments = ("page", tmp_path, "-o", tmp_path / "page.html")
    assert_user_error(run_here(capfd, *arguments), "has normalizer none", "give --normalizer")
    assert run_here(capfd, *arguments, "--normalizer", "nfkc").returncode == 0


def test_a_build_compared_twice_has_two_lines(tmp_path: Path) -> None:
    for language in ("en-US", "de-DE"):
        make_report(TEXTS, language=language).save(tmp_path / f"{language}.json")
    sources = read_sources([tmp_path])
    assert [build.label for build in sources.builds] == ["fp32", "int8 – de-DE", "int8 – en-US"]
    write_page(sources, tmp_path / "page.html")
    assert "6 of 8 utterances got other tokens" in Parsed((tmp_path / "page.html").read_text()).text


@pytest.mark.parametrize("stored", [True, False])
def test_rows_of_one_name_in_two_outputs_have_two_lines(tmp_path: Path, stored: bool) -> None:
    """Also where the second output's comparisons are gone, or both outputs'."""
    for name, megabytes in (("a", 10.0), ("b", 99.0)):
        rows = [
            {"recipe": recipe, "bytes": megabytes * 1e6, "passed": name == "a", "report": f"{recipe}.json"}
            for recipe in ("fp32", "int8")
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"folders": rows, "notes": [], "checkpoint": {}}))
    if stored:
        make_report(TEXTS).save(tmp_path / "a" / "int8.json")
    builds = {each.name: each for each in read_sources([tmp_path / "a", tmp_path / "b"]).builds}
    other = f"({tmp_path / 'b' / 'report.json'})"
    assert list(builds) == ["fp32", "int8", f"fp32 {other}", f"int8 {other}"]
    assert [each.mb for each in builds.values()] == [10.0, 10.0, 99.0, 99.0]
    assert [builds[name].verdict for name in ("int8", f"int8 {other}")] == ["passed", "FAILED"]


def test_about_names_every_checkpoint(tmp_path: Path) -> None:
    for name in ("a", "b", "a2"):
        (tmp_path / name).mkdir()
        rows, checkpoint = [{"recipe": "int8", "bytes": 1}], {"source": f"{name[0]}.nemo"}
        document = {"folders": rows, "notes": [], "checkpoint": checkpoint}
        (tmp_path / name / "report.json").write_text(json.dumps(document))
    facts = read_sources([tmp_path / name for name in ("a", "b", "a2")]).facts
    assert facts == [("checkpoint", "a.nemo, b.nemo")]


def test_sides_of_one_name_have_two(tmp_path: Path) -> None:
    make_report(TEXTS, build="a/int8", reference="b/int8").save(tmp_path / "r.json")
    names = [build.name for build in read_sources([tmp_path / "r.json"]).builds]
    assert names == ["int8 (b/int8)", "int8 (a/int8)"]


def test_every_kind_of_error_can_be_found() -> None:
    report = make_report([
        *TEXTS, ("one two", "one", "one two"), ("one.", "one", "one"),
    ])  # fmt: skip
    rows = list(report.rows)
    rows[4] = rows[4].model_copy(
        update={"margin": 0.001, "target": rows[4].target.model_copy(update={"language": "de"})}
    )
    rows[5] = rows[5].model_copy(update={"target": rows[5].target.model_copy(update={"tokens": [9]})})
    found = disagreements(of_report(report.model_copy(update={"rows": rows}), "x").comparisons)
    assert {kind for each in found for kind in each.differences["int8"].kinds} == set(KINDS)


def test_verify_writes_a_page_beside_its_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_report(TEXTS).save(tmp_path / "stored.json")
    arguments = ("verify", "--rescore", tmp_path / "stored.json", "--report", tmp_path / "again.json")
    assert run_here(capfd, *arguments).returncode in (0, 1, 3)
    assert Parsed((tmp_path / "again.html").read_text()).all("article")
    (tmp_path / "again.html").write_text("<p>mine")
    assert_user_error(run_here(capfd, *arguments), "again.html: exists and is no page of ours", "--no-page")
    assert (tmp_path / "again.html").read_text() == "<p>mine"
    assert run_here(capfd, *arguments, "--no-page").returncode in (0, 1, 3)
    assert run_here(capfd, *arguments, "--page", tmp_path / "other.html").returncode in (0, 1, 3)
    assert Parsed((tmp_path / "other.html").read_text()).all("article")
    assert (tmp_path / "again.html").read_text() == "<p>mine"
    assert_user_error(run_here(capfd, *arguments, "--no-page", "--page", tmp_path / "x.html"), "--no-page")


def test_a_real_verification_has_a_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folders: list[Bundle] = [tiny_bundle(tmp_path / name, encoder_gain=gain) for name, gain in (("a", 1), ("b", 3.0))]
    soundfile.write(tmp_path / "1.flac", speech(1.5), 16000)
    line = {"audio_filepath": "1.flac", "text": "ab", "target_lang": "en-US"}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n")
    done = run_here(capfd, "verify", folders[1].path, "--reference", folders[0].path, "--manifest",
                    tmp_path / "m.jsonl", "--report", tmp_path / "b.json")  # fmt: skip
    assert done.returncode in (1, 3), done.stderr
    parsed = check_harmless((tmp_path / "b.html").read_text())
    assert len(parsed.all("article")) == len(parsed.all("audio")) == 1


def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_report(TEXTS).save(tmp_path / "r.json")
    (tmp_path / "text.json").write_text("no json")
    (tmp_path / "other.json").write_text('{"name": 1}')
    (tmp_path / "empty").mkdir()
    sweep = {"rows": [{"name": "a", "mb": "large"}], "failed": {}, "text_scored": True}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "mine.csv").write_text("a,b\n")
    page = tmp_path / "page.html"
    for given, message in (
        (("page", tmp_path / "r.json"), "nothing to write"),
        (("page", tmp_path / "gone.json", "-o", page), "gone.json: cannot be read"),
        (("page", tmp_path / "text.json", "-o", page), "text.json: is no JSON"),
        (("page", tmp_path / "other.json", "-o", page), "other.json: is no report of verify, regenerate or sweep"),
        (("page", tmp_path / "empty", "-o", page), "empty: holds no report.json"),
        (("page", tmp_path / "sweep.json", "-o", page), "sweep.json: rows.0.mb"),
        (("page", tmp_path / "r.json", "-o", tmp_path / "mine.html"), "mine.html: exists and is no page of ours"),
        (("page", tmp_path / "r.json", "-o", tmp_path), "is a folder"),
        (("page", tmp_path / "r.json", "--table", tmp_path / "mine.csv"), "mine.csv: exists and is no table of ours"),
        (("page", tmp_path / "r.json", "-o", tmp_path / "a.csv", "--table", tmp_path / "a.csv"), "is the --output too"),
        (("page", tmp_path / "r.json", "--table", tmp_path / "t.xlsx"), "t.xlsx: is neither .csv nor .parquet"),
        (("page", tmp_path / "r.json", "-o", page, "--normalizer", "x"), "--normalizer x"),
    ):
        assert_user_error(run_here(capfd, *given), message)
    assert not page.exists()
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert (tmp_path / "mine.csv").read_text() == "a,b\n"


def test_the_table_as_csv(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [*TEXTS, ('a "quoted",\nline\rfeed', HOSTILE, "a"), ("=1+1", "-2", "@a")]
    make_report(texts).save(tmp_path / "r.json")
    for _ in range(2):  # one of ours is replaced
        done = run_here(capfd, "page", tmp_path / "r.json", "--table", tmp_path / "t.csv", "--json")
        assert json.loads(done.stdout)["table"]["rows"] == len(texts)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == table.COLUMNS
    assert [row["text"] for row in rows] == [each[0] for each in texts]
    assert [row["reference_text"] for row in rows] == [each[1] for each in texts]
    assert (rows[1]["substitutions"], rows[1]["deletions"], rows[1]["insertions"], rows[1]["units"]) == (
        "1",
        "1",
        "0",
        "4",
    )


def test_a_witness_has_columns() -> None:
    witness = make_report([("a", "a", "b")]).rows[0].target
    report = make_report([("a", "a", "b")], witness=witness)
    (row,) = table_rows(of_report(report, "int8").comparisons)
    assert (row["witness_text"], row["witness_language"], row["agree"]) == ("b", "en-US", "target_and_witness")
    assert set(row) == set(table.COLUMNS)
    (row,) = table_rows(of_report(make_report([("a", "a", "b")]), "int8").comparisons)
    assert (row["witness_text"], row["agree"]) == (None, None)


@pytest.mark.parametrize("field", ["tokens", "frames"])
def test_a_number_that_is_no_token_is_refused(field: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Parquet could not hold it."""
    content = make_report([("a", "b", "c")]).model_dump(mode="json")
    content["rows"][0]["target"][field] = [1 << 80]
    (tmp_path / "r.json").write_text(json.dumps(content))
    done = run_here(capfd, "page", tmp_path / "r.json", "--table", tmp_path / "t.parquet")
    assert_user_error(done, "r.json")


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="Parquet needs the extra 'data'")
def test_the_table_as_parquet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet

    make_report([(HOSTILE, "a", "b"), ("", "a", "a")]).save(tmp_path / "r.json")
    for _ in range(2):
        done = run_here(capfd, "page", tmp_path / "r.json", "--table", tmp_path / "t.parquet", "--json")
        assert done.returncode == 0, done.stderr
    rows = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [(row["text"], row["same_tokens"], row["margin"]) for row in rows] == [
        (HOSTILE, False, 0.125),
        ("", True, None),
    ]
    (tmp_path / "t.parquet").write_bytes(b"PAR1 mine")
    assert_user_error(
        run_here(capfd, "page", tmp_path / "r.json", "--table", tmp_path / "t.parquet"), "no table of ours"
    )
