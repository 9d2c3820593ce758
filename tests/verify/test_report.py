"""Comparing recorded transcripts: every number by hand, judged by limits, saved and scored again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.errors import NOT_DECIDED, UserError
from quantize.recipe import Tolerance
from tests.helpers.command import ROOT, assert_user_error, run_here
from tests.helpers.tiny_bundle import transcript
from verify.limits import IDENTICAL, Limits
from verify.pipeline import compare_runs
from verify.report import Report, Row, score_rows
from verify.runs import Run, Side, load_transcripts, save_transcripts
from verify.runtimes.transcript import Transcript

TEXTS = [("en-US", "The cat sat down."), ("en-US", "Hello there"), ("ja-JP", "今日は晴れ"), ("es", "Sí")]
REFERENCE = [
    transcript([1, 3, 4], "The cat sat down.", "en-US"),
    transcript([1, 5], "hello there", "en-US"),
    transcript([6, 6], "今日は晴", None),
    transcript([7], "si", "es-US"),
]
TARGET = [
    transcript([1, 3, 4], "The cat sat down.", "en-US"),
    transcript([1, 6], "hello their", "en-US", [0, 9]),
    transcript([6, 6, 7], "昨日は晴", "ja-JP"),
    transcript([7], "si", "en-US"),
]


def utterances(folder: Path) -> list:  # type: ignore[type-arg]
    from verify.data.manifest import Utterance

    return [
        Utterance(audio_filepath=folder / f"{index}.wav", text=text, target_lang=language)
        for index, (language, text) in enumerate(TEXTS)
    ]


def run(transcripts: list[Transcript], **side: object) -> Run:
    facts: dict[str, object] = {"name": "a folder", "runtime": "generation1", "lang_tag_token_ids": [1, 2]}
    return Run(
        side=Side.model_validate(facts | side), manifest_sha256="m", language="manifest", transcripts=transcripts
    )


def compared(folder: Path, tolerance: Tolerance | None = None, **side: object) -> Report:
    limits = None if tolerance is None else Limits(tolerance, "the test")
    return compare_runs(run(TARGET, **side), run(REFERENCE, **side), utterances(folder), limits=limits)


def test_numbers_by_hand(tmp_path: Path) -> None:
    report = compared(tmp_path)
    # Units: 4 words, 2 words, 5 characters, 1 word. Errors of the target: 0, 1, 2 + 0, 1; of the reference: 0, 0, 1, 1.
    assert report.utterances == 4
    assert report.exact_match == 0.5
    # No language has enough speech, so that the rates average all three: en-US, es, ja-JP.
    assert report.wer == pytest.approx((100 / 6 + 100 + 40) / 3)
    assert report.reference_wer == pytest.approx((0 + 100 + 20) / 3)
    assert report.wer_delta == pytest.approx((100 / 6 + 0 + 20) / 3)
    assert report.wer_between == pytest.approx((100 / 6 + 0 + 25) / 3)
    assert report.wer_raw == pytest.approx((200 / 6 + 100 + 40) / 3)  # and "Hello" with its capital
    assert report.reference_wer_raw == pytest.approx((100 / 6 + 100 + 20) / 3)
    assert report.languages == ["en-US", "es", "ja-JP"]
    assert report.language_accuracy == 0.75
    assert report.reference_language_accuracy == 0.75
    assert list(report.per_language) == ["en-US", "es", "ja-JP"]
    english, japanese = report.per_language["en-US"], report.per_language["ja-JP"]
    assert (english.metric, english.utterances, english.exact_match) == ("wer", 2, 0.5)
    assert [english.wer, english.reference_wer] == pytest.approx([100 / 6, 0.0])
    assert japanese.metric == "cer"
    assert [japanese.wer, japanese.wer_delta] == pytest.approx([40.0, 20.0])


def test_divergences_and_examples(tmp_path: Path) -> None:
    report = compared(tmp_path)
    assert [
        (each.audio, each.position, each.expected, each.actual, each.frame) for each in report.first_divergences
    ] == [
        ("1.wav", 1, 5, 6, 9),
        ("2.wav", 2, None, 7, 2),
    ]
    assert [(each.audio, each.edits, each.wer, each.diff) for each in report.worst_examples] == [
        ("1.wav", 1, 50.0, "hello [-there-]{+their+}"),
        ("2.wav", 1, 25.0, "[-今-]{+昨+}日は晴"),
    ]


def test_nothing_compared_does_not_pass() -> None:
    scores = score_rows([], IDENTICAL)
    assert not scores.passed
    assert scores.reasons == ["no utterances were compared"]


def test_models_without_tags_have_no_language_accuracy(tmp_path: Path) -> None:
    assert compared(tmp_path, lang_tag_token_ids=[]).language_accuracy is None


def test_speed(tmp_path: Path) -> None:
    speed = compared(tmp_path).speed  # four utterances of 2 s, 0.5 s each, 0.2 s of it in 4 encoder steps
    assert (speed.audio_seconds, speed.wall_seconds, speed.rtfx) == (8.0, 2.0, 4.0)
    assert speed.encoder_ms == pytest.approx(50.0)
    assert speed.step_ms == pytest.approx(125.0)
    assert speed.calls["encoder"] == 16


def test_a_saved_report_scores_the_same_without_a_model(tmp_path: Path) -> None:
    report = compared(tmp_path, Tolerance(exact_match=0.9, wer_delta=1))
    file = tmp_path / "deep" / "report.json"
    report.save(file)
    assert Report.load(file) == report
    assert Report.load(file) == report
    assert [each.name for each in file.parent.iterdir()] == ["report.json"]
    for key in ("exact_match", "wer", "wer_delta", "utterances", "passed"):
        assert key in json.loads(file.read_text())


def test_scoring_again_computes(tmp_path: Path) -> None:
    """Numbers come from the rows, not from the numbers that were stored."""
    report = compared(tmp_path)
    rows: list[Row] = [row.model_copy(update={"target": row.reference}) for row in report.rows]
    file = tmp_path / "report.json"
    report.model_copy(update={"rows": rows}).save(file)
    again = Report.load(file)
    assert (again.exact_match, again.wer_delta, again.passed) == (1.0, 0.0, None), "and a few words decide nothing"
    assert not again.first_divergences
    assert not again.worst_examples


@pytest.mark.parametrize(
    ("limits", "times", "status", "word"),
    [((0.5, 30), 40, 0, "passed"), ((0.9, 1), 1, 1, "FAILED"), ((0.5, 30), 1, 3, "NOT DECIDED")],
)
def test_rescore_gives_what_was_stored(
    tmp_path: Path, limits: tuple[float, float], times: int, status: int, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """As often as it takes to decide; each time is a sentence of its own."""
    spoken = [
        each.model_copy(update={"audio_filepath": tmp_path / f"{number}.wav", "sentence_id": number})
        for number, each in enumerate(utterances(tmp_path) * times)
    ]
    tolerance = Limits(Tolerance(exact_match=limits[0], wer_delta=limits[1], wer_between=limits[1]), "the test")
    report = compare_runs(run(TARGET * times), run(REFERENCE * times), spoken, limits=tolerance)
    stored, copy = tmp_path / "stored.json", tmp_path / "copy.json"
    report.save(stored)
    before = stored.read_bytes()
    done = run_here(capfd, "verify", "--rescore", stored, "--report", copy, "--json")
    assert done.returncode == status, done.stderr
    printed = json.loads(done.stdout)
    assert printed.pop("peak_rss_mb") > 0
    assert printed == report.model_dump(mode="json", exclude={"rows"})
    assert copy.read_bytes() == stored.read_bytes() == before
    table = run_here(capfd, "verify", "--rescore", stored)
    assert table.returncode == status
    assert "hello [-there-]{+their+}" in table.stdout
    assert "error %" in table.stdout
    assert word in table.stdout


def test_rescore_shows_no_error_rate_where_text_was_ignored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    silent = [each.model_copy(update={"text": ""}) for each in utterances(tmp_path)]
    compare_runs(run(REFERENCE), run(REFERENCE), silent).save(tmp_path / "report.json")
    table = run_here(capfd, "verify", "--rescore", tmp_path / "report.json")
    assert table.returncode == NOT_DECIDED, table.stderr
    assert "error %" not in table.stdout


def test_rescore_believes_no_stored_number(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = compared(tmp_path)
    stored = tmp_path / "stored.json"
    lies = {"passed": True, "reasons": [], "wer": 0.0, "exact_match": 1.0, "per_language": {}, "worst_examples": []}
    report.model_copy(update=lies).save(stored)
    before = stored.read_bytes()
    done = run_here(capfd, "verify", "--rescore", stored, "--json")
    assert done.returncode == 1
    printed = json.loads(done.stdout)
    assert {name: printed[name] for name in lies} == {name: report.model_dump(mode="json")[name] for name in lies}
    assert stored.read_bytes() == before, "written only where --report names it"
    assert run_here(capfd, "verify", "--rescore", stored, "--report", stored).returncode == 1
    assert Report.load(stored) == report


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ([], ["DIR", "--rescore"]),
        (["--reference", "demo"], ["DIR", "--rescore"]),
        (["DIR"], ["DIR", "--reference"]),
        (["DIR", "--rescore", "R", "--limit", "1"], ["leave out DIR, --limit"]),
        (["--rescore", "R", "--reference", "demo"], ["leave out --reference"]),
        (["--rescore", "R", "--manifest", "m"], ["leave out --manifest"]),
        (["--rescore", "R", "--cache", "c"], ["leave out --cache"]),
        (["--rescore", "R", "--runtime", "streaming"], ["leave out --runtime"]),
        (["--rescore", "R", "--language", "auto"], ["leave out --language"]),
        (["--rescore", "R", "--ignore-text"], ["leave out --ignore-text"]),
        (["--rescore", "R", "--revision", "main"], ["leave out --revision"]),
        (["--rescore", "no/such.json"], ["no/such.json", "cannot be read"]),
        (["--rescore", __file__], [__file__, "no verification report"]),
    ],
)
def test_rescore_refuses(arguments: list[str], mentions: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert_user_error(run_here(capfd, "verify", *arguments), *mentions)


def test_rescore_loads_no_model_library(tmp_path: Path) -> None:
    compared(tmp_path, Tolerance(exact_match=0, wer_delta=100)).save(tmp_path / "report.json")
    code = (
        "import sys\nfrom scripts.cli import main\n"
        f"try:\n    main(['verify', '--rescore', {str(tmp_path / 'report.json')!r}])\n"
        "except SystemExit as ended:\n    assert ended.code == 3\n"
        "print('loaded:', *({'torch', 'nemo', 'openvino', 'nncf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_unusable_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing.json: cannot be read"):
        Report.load(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other.json: is no verification report"):
        Report.load(tmp_path / "other.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        compared(tmp_path).save(tmp_path / "file" / "report.json")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("-inf"), float("inf")])
@pytest.mark.parametrize("field", ["margin", "audio_seconds", "offset", "seconds"])
def test_numbers_that_nothing_can_measure_are_no_report(tmp_path: Path, field: str, value: float) -> None:
    """A margin below 0 was a near tie, so that no lost token counted."""
    compared(tmp_path).save(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    row = stored["rows"][0]
    (row["target"] if field == "seconds" else row)[field] = value
    (tmp_path / "report.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"report.json: is no verification report"):
        Report.load(tmp_path / "report.json")


def test_runs_survive_their_file(tmp_path: Path) -> None:
    save_transcripts(tmp_path / "run.json", run(TARGET))
    assert load_transcripts(tmp_path / "run.json") == run(TARGET)
    for other in ("[]", run(TARGET).model_dump_json()):  # as earlier versions wrote it, without its hash
        (tmp_path / "run.json").write_text(other)
        with pytest.raises(UserError, match=r"no recorded run of this version, .* record the reference again"):
            load_transcripts(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ({"checkpoint": {"sha256": "a" * 64}}, {"checkpoint": {"sha256": "b" * 64}}, "checkpoint bbbbbbbbbbbb"),
        ({"vocabulary_sha256": "a"}, {"vocabulary_sha256": "b"}, "another vocabulary"),
        ({"lookahead": 0}, {"lookahead": 13}, "lookahead 13"),
    ],
)
def test_sides_that_do_not_belong_together(
    tmp_path: Path, ours: dict[str, object], theirs: dict[str, object], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        compare_runs(run(TARGET, **ours), run(REFERENCE, **theirs), utterances(tmp_path))
    compare_runs(run(TARGET, **ours), run(REFERENCE), utterances(tmp_path))  # unknown on one side is no contradiction


def test_runs_of_other_inputs_are_refused(tmp_path: Path) -> None:
    other = run(REFERENCE).model_copy(update={"manifest_sha256": "n"})
    with pytest.raises(UserError, match="another manifest"):
        compare_runs(run(TARGET), other, utterances(tmp_path))
    with pytest.raises(UserError, match="4 transcripts for 3 utterances"):
        compare_runs(run(TARGET), run(REFERENCE), utterances(tmp_path)[:3])
    with pytest.raises(UserError, match="recorded with language auto"):
        compare_runs(run(TARGET), run(REFERENCE).model_copy(update={"language": "auto"}), utterances(tmp_path))
