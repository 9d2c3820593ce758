"""Scores by normalizer, against a reimplementation of the published scorer and by hand."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from export.errors import UserError
from quantize.recipe import Tolerance
from tests.helpers.command import assert_user_error, run_here
from verify.report import Output, Report, Row, Speed, latency_of, score_rows
from verify.runs import Side
from verify.scoring import normalization
from verify.scoring.models import ErrorParts
from verify.scoring.normalization import NORMALIZERS, get_normalizer
from verify.scoring.rates import score_text
from verify.scoring.rows import compare_distances

LIMITS = Tolerance(exact_match=0.0, wer_delta=100.0)

# Sentences in the manner of FLEURS, and what two builds could have recognized.
SET: dict[str, list[tuple[str, str, str]]] = {
    "en-US": [
        ("The U.S. team won 3-2, didn't it?", "the US team won 3 2 didn't it", "The U.S. team won 32, did it?"),
        ("It cost £5.50 in Café Noir.", "it cost £5.50 in Café Noir", "It cost 5.50 in cafe noir."),
        ("A", "a an", ""),
    ],
    "es-US": [
        ("¿Qué pasó en Ávila?", "Qué pasó en ávila", "¿qué paso en Ávila"),
        ("Él no está… aquí.", "el no está aquí", "Él no está… aquí y allí."),
        ("Niño pequeño", "niño pequeño", "Nino pequeño"),
    ],
    "zh-CN": [
        ("今天天气很好。", "今天天气很好", "今天 天气很好。"),
        ("我有3本书，你呢？", "我有三本书你呢", "我有 3 本书，你呢"),
        ("全角\u3000空格", "全角空格", "全角 空格"),
    ],
    "ja-JP": [
        ("カタカナとひらがな。", "かたかなとひらがな", "カタカナとひらがな"),
        ("ＮＨＫのニュース", "NHKのニュース", "ＮＨＫの ニュ-ス"),
        ("パーティー", "パーテイー", "ハ゜ーティー"),
    ],
    "hi-IN": [
        ("यह किताब अच्छी है।", "यह किताब अच्छी है", "यह किताबें अच्छी हैं।"),
        ("मैं दिल्ली में रहता हूँ", "में दिल्ली मे रहता हूं", "मैं दिल्ली में रहता हूँ"),
    ],
    "ar-AR": [
        ("ذهبَ الولدُ إلى المدرسة.", "ذهب الولد الى المدرسة", "ذهبَ الولدُ إلى المدرسة"),
        ("هل أنتَ بخير؟", "هل انت بخير", "هل أنتَ بخير؟ نعم"),
    ],
}
CHARACTERS = ("zh-CN", "ja-JP")


def rows() -> list[Row]:
    def output(text: str, number: int) -> Output:
        return Output(tokens=[number, len(text)], text=text, seconds=0.5, step_ms=[10.0, 20.0])

    return [
        Row(
            audio=f"{language}-{number}.wav",
            audio_filepath=f"/audio/{language}-{number}.wav",
            audio_seconds=2.0,
            language=language,
            text=text,
            target=output(ours, number),
            reference=output(theirs, number),
        )
        for language, sentences in SET.items()
        for number, (text, theirs, ours) in enumerate(sentences)
    ]


def report(**more: Any) -> Report:
    made = rows()
    sides = {name: Side(name=f"out/{name}", runtime="generation1", lang_tag_token_ids=[1]) for name in ("int8", "fp32")}
    speed = Speed(
        audio_seconds=2.0 * len(made), wall_seconds=0.5 * len(made), rtfx=4.0, rtf=0.25,
        latency=latency_of([10.0, 20.0] * len(made)),
    )  # fmt: skip
    return Report(
        **dict(score_rows(made, LIMITS, [1], **more)), limits=LIMITS, target=sides["int8"], reference=sides["fp32"],
        language="manifest", manifest_sha256="m", speed=speed, reference_speed=speed, rows=made,
    )  # fmt: skip


# The published scorer, written from its description alone: no code of verify/ is used.


def published_text(text: str) -> str:
    made = ""
    for character in text:
        if ord(character) < 128:
            if "a" <= character <= "z" or "0" <= character <= "9":
                made += character
            elif "A" <= character <= "Z":
                made += chr(ord(character) + 32)
            elif not made.endswith(" "):
                made += " "
        else:
            made += character
    return made


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    before = list(range(len(second) + 1))
    for row, wanted in enumerate(first, start=1):
        now = [row]
        for column, given in enumerate(second, start=1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (wanted != given)))
        before = now
    return before[-1]


def published_number(language: str, side: int) -> float:
    rates = []
    for sentence in SET[language]:
        texts = [published_text(sentence[0]), published_text(sentence[side])]
        units: list[list[str]]
        if language in CHARACTERS:
            units = [[character for character in text if character != " "] for text in texts]
        else:
            units = [[word for word in text.split(" ") if word != ""] for text in texts]
        rates.append(100.0 * edit_distance(*units) / len(units[0]))
    return sum(rates) / len(rates)


def test_the_published_scorer_gives_the_same_numbers() -> None:
    scores = score_rows(rows(), LIMITS, normalizer="published")
    assert (scores.normalizer, scores.rate) == ("published", "mean")
    expected = {language: (published_number(language, 2), published_number(language, 1)) for language in SET}
    assert len(set(expected.values())) == len(SET), "each tells something"
    for language, (ours, theirs) in expected.items():
        found = scores.per_language[language]
        assert (found.wer, found.reference_wer) == pytest.approx((ours, theirs), abs=0.01), language
        assert found.wer_delta == pytest.approx(ours - theirs, abs=0.01)
        assert found.rates["target"][found.metric].mean == found.wer
        errors = found.errors
        assert errors is not None
        assert errors.substitutions + errors.deletions + errors.insertions == pytest.approx(found.wer)
    sizes = {language: len(SET[language]) for language in SET}
    for side, weighted in enumerate((scores.wer_weighted, scores.reference_wer_weighted)):
        by_hand = sum(expected[each][side] * sizes[each] for each in SET) / sum(sizes.values())
        assert weighted == pytest.approx(by_hand, abs=0.01)


@pytest.mark.parametrize("other", ["nfkc", "none", "whisper"])
def test_only_the_published_normalizer_gives_the_published_numbers(other: str) -> None:
    """Or the test above would say nothing."""
    if other == "whisper":
        pytest.importorskip("whisper_normalizer")
    scores = score_rows(rows(), LIMITS, normalizer=other)
    assert (scores.normalizer, scores.rate) == (other, "corpus")
    for language in ("en-US", "es-US", "zh-CN", "ja-JP", "hi-IN", "ar-AR"):
        found = scores.per_language[language].reference_wer
        assert found is not None
        assert abs(found - published_number(language, 1)) > 0.01, language


@pytest.mark.parametrize(
    ("name", "language", "text", "words"),
    [
        ("published", "es-US", "¿Qué, ÉL?", ["¿qué", "Él"]),
        ("published", "ja-JP", "。\u3000A\u00a0b -- C", ["。\u3000a\u00a0b", "c"]),
        ("nfkc", "ja-JP", "。\u3000A\u00a0b -- C", ["a", "b", "c"]),
        ("none", "en-US", " Don't  stop. ", ["Don't", "stop."]),
        (
            "whisper",
            "en-US",
            "Mr. Smith didn't pay twenty dollars, um",
            ["mister", "smith", "did", "not", "pay", "$20"],
        ),
        ("whisper", "de-DE", "Straße (laut), Ähm", ["straße", "ähm"]),
    ],
)
def test_normalizers(name: str, language: str, text: str, words: list[str]) -> None:
    if name == "whisper":
        pytest.importorskip("whisper_normalizer")
    assert get_normalizer(name).words(text, language) == words


def test_normalizers_that_are_not_there(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert_user_error(run_here(capfd, "verify", "--rescore", "r", "--normalizer", "nfc"), "nfc", ", ".join(NORMALIZERS))
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("whisper_normalizer"):
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments, **more)

    normalization._whisper_normalizer.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'nemotron-ov\[whisper\]'"):
        get_normalizer("whisper").words("text", "en-US")


def test_both_rates_in_words_and_characters() -> None:
    made = [
        Row(audio=f"{number}.wav", audio_seconds=1.0, language="en-US", text=text,
            target=Output(tokens=[1], text=found), reference=Output(tokens=[1], text=text))
        for number, (text, found) in enumerate([("ab cd ef gh", "ab cd ef gx"), ("ij", "ik lm")])
    ]  # fmt: skip
    found = score_rows(made, LIMITS).per_language["en-US"]
    words, characters = found.rates["target"]["wer"], found.rates["target"]["cer"]
    assert (words.corpus, words.mean, words.units) == pytest.approx((60.0, (25.0 + 200.0) / 2, 5))
    assert (characters.corpus, characters.mean, characters.units) == pytest.approx((40.0, (12.5 + 150.0) / 2, 10))
    assert (words.errors.substitutions, words.errors.deletions, words.errors.insertions) == pytest.approx((40, 0, 20))
    # Two sentences, resampled, and up to two of five words that the set may have missed; without an error up to three.
    assert (words.corpus_interval, words.mean_interval) == ((25.0, 240.0), (25.0, 262.5)), "an utterance of one word"
    assert found.rates["reference"]["wer"].corpus_interval == (0.0, 60.0)
    assert found.differences["cer"].mean == characters.mean
    assert found.wer == words.corpus, "ours is the corpus rate"


def test_paired_differences_are_surer_than_their_sides() -> None:
    """What both sides lose on hard sentences is not uncertain about their difference."""

    def output(errors: int) -> Output:
        return Output(tokens=[1], text=" ".join(["x"] * errors + ["a"] * (10 - errors)))

    made = [
        Row(audio=f"{number}.wav", audio_seconds=1.0, language="en-US", text=" ".join("a" * 10), sentence=str(number),
            target=output(min(10, number % 10 + 1)), reference=output(number % 10))
        for number in range(60)
    ]  # fmt: skip
    found = score_rows(made, LIMITS).per_language["en-US"]
    width = {name: interval[1] - interval[0] for name, interval in {
        "side": found.rates["target"]["wer"].corpus_interval, "difference": found.differences["wer"].corpus_interval,
        "mean": found.differences["wer"].mean_interval,
    }.items() if interval}  # fmt: skip
    assert width["side"] > 10.0
    assert width["difference"] == width["mean"] == pytest.approx(2 * 3 * 100 / 600), "three words missed on each side"
    assert found.wer_delta == pytest.approx(10.0)


def rows_of(targets: Sequence[str], reference: str = "one two three four five six seven eight nine ten") -> list[Row]:
    """Recordings of which the reference always has the same text."""
    same = Output(tokens=[1], text=reference)
    return [
        Row(audio=f"{number}.wav", audio_seconds=1.0, language="en-US", text=f"text {number}",
            target=Output(tokens=[2], text=target), reference=same)
        for number, target in enumerate(targets)
    ]  # fmt: skip


def test_two_targets_are_compared_on_the_same_recordings() -> None:
    """Errors that both make cancel, however many they are; deletions are told apart from what else is wrong."""
    both = ["one two three", "one two three four five six seven eight nine ten"] * 20  # every second loses seven words
    more = [f"{text} more" if number % 4 == 0 else text for number, text in enumerate(both)]
    less = [text.removesuffix(" ten") for text in both]
    same, wrong, lost = (compare_distances(rows_of(texts), rows_of(both)) for texts in (both, more, less))
    assert same.points == same.deletions == 0.0
    assert same.interval is not None
    assert same.interval[0] < 0.0 < same.interval[1]  # what so few recordings cannot show
    assert wrong.points == 0.0, "a substitution in place of a deletion"
    assert wrong.deletions == pytest.approx(-2.5)
    assert lost.points == lost.deletions == pytest.approx(5.0)
    assert lost.interval is not None
    assert lost.interval[0] > 0.0
    assert score_rows(rows_of(less), Tolerance(exact_match=0.0, wer_delta=0.0)).between_errors == ErrorParts(
        substitutions=0.0, deletions=40.0, insertions=0.0
    )
    with pytest.raises(ValueError, match="same recordings"):
        compare_distances(rows_of(both), rows_of(both[1:]))
    with pytest.raises(ValueError, match="same recordings"):
        compare_distances(rows_of(both), [row.model_copy(update={"reference": row.target}) for row in rows_of(both)])


def test_confusion_of_languages() -> None:
    made = [
        each.model_copy(update={"target": each.target.model_copy(update={"language": tag})})
        for each, tag in zip(rows()[:6], ["en-US", "en-US", "es-US", None, "es-US", "es-US"], strict=True)
    ]
    scores = score_rows(made, LIMITS, [1])
    assert scores.language_confusion == {"en-US": {"en-US": 2, "es-US": 1}, "es-US": {"es-US": 2, "": 1}}
    assert scores.language_accuracy == pytest.approx(4 / 6)
    assert scores.reference_language_confusion == {"en-US": {"": 3}, "es-US": {"": 3}}
    assert score_rows(made, LIMITS).language_confusion == {}


def test_auto_shows_the_confusion(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = report()
    rows = [row.model_copy(update={"target": row.target.model_copy(update={"language": "en-US"})}) for row in made.rows]
    for language, shown in (("auto", True), ("manifest", False)):
        made.model_copy(update={"rows": rows, "language": language}).save(tmp_path / "r.json")
        done = run_here(capfd, "verify", "--rescore", tmp_path / "r.json")
        assert ("languages found: ar-AR 0/2 (en-US 2); en-US 3/3; es-US 0/3 (en-US 3)" in done.stdout) == shown


def test_latency_of_chunks() -> None:
    found = latency_of([float(each) for each in range(1, 102)])
    assert found is not None
    assert (found.chunks, found.p50, found.p95, found.p99) == (101, 51.0, 96.0, 100.0)
    assert latency_of([]) is None


def test_times_are_computed_from_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    made = report()
    wrong = made.speed.model_copy(update={"rtfx": 99.0, "rtf": 9.0, "wall_seconds": 1.0, "latency": None})
    made.model_copy(update={"speed": wrong}).save(file)
    assert Report.load(file) == made
    untimed = [row.model_copy(update={"target": row.target.model_copy(update={"seconds": None})}) for row in made.rows]
    made.model_copy(update={"speed": wrong, "rows": untimed}).save(file)
    assert Report.load(file).speed == wrong, "reports of before have none"


def test_rescoring_by_another_normalizer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stored, again = tmp_path / "stored.json", tmp_path / "again.json"
    report().save(stored)
    done = run_here(capfd, "verify", "--rescore", stored, "--normalizer", "published", "--report", again, "--json")
    printed = json.loads(done.stdout)
    assert printed["normalizer"] == "published"
    assert printed["per_language"]["ja-JP"]["wer"] == pytest.approx(published_number("ja-JP", 2), abs=0.01)
    assert Report.load(again) == report(normalizer="published"), "the normalizer is kept with its report"
    assert Report.load(again, "nfkc") == report()
    table = run_here(capfd, "verify", "--rescore", again).stdout
    assert "normalizer: published, means of the utterances' rates" in table
    assert "a chunk takes 15.0 ms (p50)" in table


def test_reports_of_before_are_read(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    old = json.loads(report().model_dump_json())
    new = ["normalizer", "rate", "wer_weighted", "language_confusion", "reference_language_confusion"]
    old = {key: value for key, value in old.items() if key not in new} | {"report_version": 2}
    for row in old["rows"]:
        del row["audio_filepath"], row["offset"]
        for side in ("target", "reference"):
            del row[side]["seconds"], row[side]["step_ms"]
    for score in old["per_language"].values():
        del score["rates"], score["differences"]
    for speed in ("speed", "reference_speed"):
        del old[speed]["latency"], old[speed]["rtf"]
    file.write_text(json.dumps(old))
    read = Report.load(file)
    assert read.report_version == 3
    assert read.per_language == report().per_language
    assert (read.checks, read.normalizer) == (report().checks, "nfkc")
    file.write_text(json.dumps(old | {"report_version": 4}))
    with pytest.raises(UserError, match="later version"):
        Report.load(file)
    file.write_text(json.dumps(old | {"normalizer": "mine"}))
    with pytest.raises(UserError, match="mine"):
        Report.load(file)


def test_transcripts_for_other_tools(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = report()
    part = made.rows[0].model_copy(update={"offset": 1.5})
    made.model_copy(update={"rows": [part, *made.rows[1:]]}).save(tmp_path / "report.json")
    folder = tmp_path / "transcripts"
    done = run_here(capfd, "verify", "--rescore", tmp_path / "report.json", "--transcripts", folder)
    assert f"12 files in {folder}" in done.stderr.replace("\n", " ")
    expected = {f"MODEL_nemotron-out-{side}_DATASET_{each}-m_test.jsonl" for side in ("int8", "fp32") for each in SET}
    assert {file.name for file in folder.iterdir()} == expected
    lines = (folder / "MODEL_nemotron-out-int8_DATASET_es-US-m_test.jsonl").read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[0]) == {
        "audio_filepath": "/audio/es-US-0.wav", "duration": 2.0, "time": 0.5, "text": "¿Qué pasó en Ávila?",
        "pred_text": "¿qué paso en Ávila",
    }  # fmt: skip
    first = (folder / "MODEL_nemotron-out-fp32_DATASET_en-US-m_test.jsonl").read_text(encoding="utf-8").split("\n")[0]
    assert json.loads(first)["offset"] == 1.5
    (tmp_path / "file").write_text("")
    refused = run_here(capfd, "verify", "--rescore", tmp_path / "report.json", "--transcripts", tmp_path / "file")
    assert_user_error(refused, "--transcripts", tmp_path / "file")


def test_a_witness_has_transcripts_too(tmp_path: Path) -> None:
    from verify.transcripts import write_transcripts

    made = report()
    witness = made.reference.model_copy(update={"runtime": "transformers-streaming"})
    rows = [row.model_copy(update={"witness": row.reference}) for row in made.rows]
    files = write_transcripts(made.model_copy(update={"rows": rows, "witness": witness}), tmp_path)
    theirs = [file for file in files if "_DATASET_" in file.name and "transformers" in file.name]
    assert len(theirs) == len(SET)
    english = next(file for file in theirs if "en-US" in file.name)
    lines = [json.loads(line) for line in english.read_text(encoding="utf-8").splitlines()]
    assert [line["pred_text"] for line in lines] == [r.reference.text for r in rows if r.language == "en-US"]


def test_two_languages_are_never_one_file(tmp_path: Path) -> None:
    from verify.transcripts import write_transcripts

    made = report()
    made = made.model_copy(update={"per_language": made.per_language | {"en_US": made.per_language["en-US"]}})
    with pytest.raises(UserError, match="en-US and en_US would be one file"):
        write_transcripts(made, tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_same_folder_name_twice_gives_two_files(tmp_path: Path) -> None:
    from verify.transcripts import write_transcripts

    made = report()
    made = made.model_copy(update={"reference": made.target.model_copy(update={"name": "elsewhere/int8"})})
    assert len(set(write_transcripts(made, tmp_path))) == 2 * len(SET)


def test_scores_are_of_what_a_language_separates() -> None:
    assert score_text("a\u00a0b", "a b", "wer", normalizer="published").edits == 2
    assert score_text("a\u00a0b", "a b", "wer").edits == 0
