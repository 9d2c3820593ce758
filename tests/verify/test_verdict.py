"""What passes: each answer shown on rows where it is right, and on rows where another is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from quantize.recipe import Tolerance
from quantize.recipes import RECIPES
from verify.limits import IDENTICAL, NEMO_IDENTITY, NEMO_TOLERANCE, limits_for
from verify.report import Output, Row, Scores, score_rows
from verify.runs import Side
from verify.scoring.bootstrap import RESAMPLES, Array, Sample, interval
from verify.scoring.rates import Score
from verify.verdict import MACRO, NOISE, TOO_FEW, TOO_FEW_ALIKE, TOO_LITTLE, Check

LIMITS = Tolerance(exact_match=0.0, wer_delta=0.5, language_wer_delta=1.0, wer_between=2.0)
WORDS = "a b c d e f g h i j"


def row(number: int, language: str = "en-US", *, wrong: int = 0, reference_wrong: int = 0, **more: Any) -> Row:
    """Ten words, so many of them wrong on each side."""

    def output(errors: int) -> Output:
        words = WORDS.split()
        words[:errors] = ["x"] * errors
        return Output(tokens=[ord(word) for word in words], frames=list(range(10)), text=" ".join(words))

    facts = {"audio": f"{number}.wav", "audio_seconds": 1.0, "language": language, "text": WORDS}
    facts |= {"sentence": str(number), "target": output(wrong), "reference": output(reference_wrong)}
    return Row.model_validate(facts | more)


def rows(count: int, language: str = "en-US", *, wrong: int = 0, every: int = 1, **more: Any) -> list[Row]:
    """Rows of which one in ``every`` has so many words wrong."""
    return [row(number, language, wrong=0 if number % every else wrong, **more) for number in range(count)]


def answers(scores: Scores) -> dict[str, str]:
    return {check.scope: check.answer for check in scores.checks}


def check_of(scores: Scores, scope: str) -> Check:
    return next(check for check in scores.checks if check.scope == scope)


def test_a_language_is_not_hidden_by_the_others() -> None:
    scores = score_rows(rows(990) + rows(10, "de-DE", wrong=2), LIMITS)
    assert scores.passed is False
    assert answers(scores) == {"all": "within", MACRO: "beyond", "de-DE": "beyond", "en-US": "within"}
    assert scores.wer_delta == pytest.approx(10.0), "the average over the two languages, not over 1,000 utterances"
    assert any("language_wer_delta of de-DE +20.000 (95 %:" in reason for reason in scores.reasons)


def test_a_small_language_that_is_worse_fails_even_where_it_is_too_small_for_the_average() -> None:
    right, lost = (Output(tokens=[1], text=text) for text in ("a b c d e", "a b c"))
    few = [row(number, "de-DE", text=right.text, target=lost, reference=right) for number in range(10)]
    scores = score_rows(rows(990) + few, LIMITS)
    assert (scores.languages, check_of(scores, "de-DE").units) == (["en-US"], 50)
    assert answers(scores)["de-DE"] == "beyond"
    assert scores.passed is False


def test_a_language_of_a_few_words_decides_nothing() -> None:
    scores = score_rows(rows(100) + rows(3, "de-DE"), LIMITS)
    assert scores.passed is True
    assert (check_of(scores, "de-DE").answer, check_of(scores, "de-DE").why) == ("undecided", TOO_LITTLE)
    assert not scores.reasons


def test_a_language_of_a_few_words_that_is_worse_is_not_passed_over() -> None:
    scores = score_rows(rows(990) + rows(9, "de-DE", wrong=10), LIMITS)
    assert scores.passed is None
    (reason,) = scores.reasons
    assert reason.startswith("language_wer_delta of de-DE +100.000")
    assert reason.endswith(TOO_LITTLE)


def test_a_language_without_text_beside_others_is_judged_by_its_distance() -> None:
    silent = [each.model_copy(update={"text": ""}) for each in rows(100, "de-DE", wrong=10)]
    scores = score_rows(rows(990) + silent, LIMITS)
    assert (check_of(scores, "de-DE").limit_name, answers(scores)["de-DE"]) == ("wer_between", "beyond")
    assert (scores.passed, scores.languages, scores.wer) == (False, ["en-US"], 0.0)
    same = [each.model_copy(update={"text": ""}) for each in rows(100, "de-DE")]
    assert score_rows(rows(990) + same, LIMITS).passed is True


def test_languages_vary_independently() -> None:
    """The same bad row in the same place of five languages is no more than five bad rows in other places."""
    names = ("en-US", "de-DE", "es-US", "fr-FR", "it-IT")

    def interval_of(places: Sequence[int]) -> tuple[float, float]:
        bad = zip(names, places, strict=True)
        found = score_rows([row(n, name, wrong=10 * (n == at)) for name, at in bad for n in range(33)], LIMITS)
        assert found.wer_delta_interval is not None
        return found.wer_delta_interval

    alike, apart = interval_of([0] * 5), interval_of([0, 7, 14, 21, 28])
    assert alike == pytest.approx(apart, abs=0.4)


def test_a_share_on_its_limit_is_within() -> None:
    """7 the same and 1 near tie of 10 are 0.8, and not 0.7 + 0.1."""
    tens = [row(n, wrong=int(n >= 7), margin=0.0 if n == 7 else None) for n in range(10)]
    scores = score_rows(tens, Tolerance(exact_match=0.8, wer_delta=100.0))
    assert (scores.ties, answers(scores)["all"]) == (1, "within")


@pytest.mark.parametrize(
    ("count", "every", "passed"),
    [
        (100, 100, None),  # one word in 1,000 more: 0.1 points, up to 0.3
        (20, 20, None),  # 0.5 points, up to 1.5
        (2000, 100, True),  # 0.1 points, up to 0.15
        (2000, 2, False),  # 5 points
    ],
)
def test_three_answers(count: int, every: int, passed: bool | None) -> None:
    limits = LIMITS.model_copy(update={"wer_delta": 0.2, "language_wer_delta": None})
    scores = score_rows(rows(count, wrong=1, every=every), limits)
    assert scores.passed is passed
    check = check_of(scores, MACRO)
    assert check.interval is not None
    low, high = check.interval
    assert low <= check.value <= high
    if passed is None:
        assert low <= 0.2 < high
        assert check.why == TOO_FEW


def test_little_speech_does_not_pass() -> None:
    scores = score_rows(rows(9), LIMITS)
    assert scores.passed is None
    (reason,) = scores.reasons
    assert reason.startswith("wer_delta of macro-average +0.000 (95 %: -3.333 to +3.333) may be above the limit 0.5: ")
    assert reason.endswith(TOO_LITTLE)


def test_no_difference_on_a_few_utterances_does_not_show_that_there_is_none() -> None:
    """A build that fails on 165 utterances must not pass on some of them that happen to be as before."""
    limits = RECIPES["int8"].tolerance
    spoken = rows(165, wrong=7, every=21)  # 8 of them lose 7 words of 10: 3.4 points
    assert score_rows(spoken, limits).passed is False
    generator = np.random.default_rng(0)
    draws = [generator.choice(165, count, replace=False) for count in (12, 16, 20, 30) for _ in range(10)]
    found = [score_rows([spoken[number] for number in draw], limits) for draw in draws]
    same = [each for each in found if each.exact_match == 1.0]
    assert len(same) > 10, "many draws show nothing"
    assert not any(each.passed for each in found)
    assert all(check_of(each, MACRO).why == TOO_FEW for each in same)
    assert score_rows(rows(165), limits).passed is True, "and 165 utterances without a difference do"


@pytest.mark.parametrize(("count", "passed"), [(12, None), (58, None), (59, True)])
def test_identical_tokens_are_a_promise_that_takes_59_sentences(count: int, passed: bool | None) -> None:
    scores = score_rows(rows(count), RECIPES["fp16"].tolerance)
    assert scores.passed is passed
    assert answers(scores)[MACRO] == "within", "a limit of 0.1 points needs no thousand words where tokens are the same"
    assert [TOO_FEW_ALIKE in reason for reason in scores.reasons] == [True] * (passed is None)
    assert score_rows([*rows(11), row(11, wrong=1)], RECIPES["fp16"].tolerance).passed is False


@pytest.mark.parametrize("recipe", ["fp16", "int8"])
def test_a_reason_shows_the_interval_that_decided(recipe: str) -> None:
    """Of a limit that promises the same tokens, the interval without errors that may have been missed."""
    check = check_of(score_rows(rows(60, wrong=1, every=6), RECIPES[recipe].tolerance), MACRO)
    assert check.interval is not None
    assert check.resampled is not None
    low, high = check.resampled if recipe == "fp16" else check.interval
    assert check.interval != check.resampled
    assert f"(95 %: {low:+.3f} to {high:+.3f})" in check.reason
    assert (check.answer == "beyond") == (check.limit is not None and low > check.limit)


def test_silence_keeps_no_tokens() -> None:
    """Silences of other names are not among the 59 sentences that show what a build keeps."""
    nothing = Output(tokens=[], text="")
    silent = [row(100 + number, text="", target=nothing, reference=nothing) for number in range(60)]
    scores = score_rows([*rows(15), *silent], RECIPES["fp16"].tolerance)
    assert (scores.passed, check_of(scores, "all").sentences) == (None, 15)
    assert TOO_FEW_ALIKE in scores.reasons[0]


def test_text_that_is_missing_hides_nothing() -> None:
    """Silence where there is no text is no gain: 80 recordings with text, and 20 without that the target drops."""
    lost = Output(tokens=[], text="")
    mixed = [*rows(400), *(row(1000 + n, text="", target=lost) for n in range(100))]
    scores = score_rows(mixed, LIMITS)
    assert (scores.passed, scores.wer_delta, scores.languages) == (False, 0.0, ["en-US"])
    assert (answers(scores)["en-US"], answers(scores)["en-US without text"]) == ("within", "beyond")
    nothing = Output(tokens=[], text="")
    silence = [row(2000 + n, text="", target=nothing, reference=nothing) for n in range(20)]
    assert score_rows([*rows(400), *silence], LIMITS).passed is True
    invented = [each.model_copy(update={"target": Output(tokens=[1], text="thank you")}) for each in silence]
    assert score_rows([*rows(400), *invented], LIMITS).passed is False


def test_a_language_that_neither_side_recognizes_is_not_passed_over() -> None:
    nothing = Output(tokens=[], text="")
    silent = [row(number, "de-DE", target=nothing, reference=nothing) for number in range(100)]
    scores = score_rows([*rows(400), *silent], LIMITS)
    assert (scores.passed, answers(scores)["de-DE"]) == (None, "undecided")


def test_one_recording_is_one_sentence_whatever_it_is_called() -> None:
    copies = [row(number, audio_filepath="a.wav") for number in range(100)]
    assert score_rows(copies, LIMITS).per_language["en-US"].sentences == 1
    parts = [row(number, audio_filepath="a.wav", offset=float(number)) for number in range(100)]
    assert score_rows(parts, LIMITS).per_language["en-US"].sentences == 100


def test_the_order_of_a_manifest_changes_nothing() -> None:
    spoken = rows(200, wrong=1, every=7)
    order = np.random.default_rng(0).permutation(200)
    assert score_rows([spoken[place] for place in order], LIMITS).checks == score_rows(spoken, LIMITS).checks


def test_what_may_be_lost_as_whole_sentences_is_noted() -> None:
    few, many = (score_rows(rows(count), LIMITS).notes for count in (60, 1000))
    assert few == ["up to 5.0 points that are lost as whole sentences may not show in so few sentences"]
    assert many == [], "0.3 points are within the limit of 0.5"


def test_copies_are_one_sentence_also_without_text() -> None:
    copies = [row(number, text="", sentence=None) for number in range(100)]
    scores = score_rows(copies, LIMITS)
    assert (scores.passed, scores.per_language["en-US"].sentences) == (None, 1)


def test_silence_decides_nothing() -> None:
    nothing = Output(tokens=[], text="")
    silent = [row(number, text="", sentence=None, target=nothing, reference=nothing) for number in range(200)]
    assert score_rows(silent, LIMITS).passed is None
    named = [each.model_copy(update={"sentence": str(number)}) for number, each in enumerate(silent)]
    assert score_rows(named, LIMITS).passed is None, "no words were recognized, whatever the sentences are called"
    told = [each.model_copy(update={"text": WORDS}) for each in named]
    assert score_rows(told, LIMITS).passed is None, "nor where there is text"


@pytest.mark.parametrize(("every", "passed"), [(1000, True), (2, False)])
def test_text_that_the_reference_gets_wrong_is_not_what_a_build_is_judged_by(every: int, passed: bool) -> None:
    """Shuffled texts: all is wrong before and after, and no points can be lost."""
    shuffled = [each.model_copy(update={"text": "k l m n o p q r s t"}) for each in rows(1000, wrong=5, every=every)]
    scores = score_rows(shuffled, LIMITS)
    assert scores.wer_delta == 0.0
    assert scores.passed is passed
    assert check_of(scores, MACRO).limit_name == "wer_between"
    assert "en-US: the reference gets 100 % of the text wrong" in scores.notes[0]
    mixed = score_rows([*shuffled, *rows(1000, "de-DE")], LIMITS)
    assert (mixed.passed, check_of(mixed, MACRO).value) == (passed, 0.0), "the average is over recognized languages"
    assert (mixed.wer, mixed.languages) == (50.0, ["de-DE", "en-US"]), "what is reported is over all"


def test_where_no_language_is_given_the_references_tag_says_how_to_count() -> None:
    def spoken(number: int, text: str, tag: str | None) -> Row:
        output = Output(tokens=[1], text=text, language=tag)
        return row(number, "auto", text=text, target=output, reference=output)

    scores = score_rows([spoken(0, "今日は晴れ", "ja-JP"), spoken(1, WORDS, "en-US"), spoken(2, WORDS, None)], LIMITS)
    found = {name: (score.metric, score.units) for name, score in scores.per_language.items()}
    assert found == {"ja-JP (auto)": ("cer", 5), "en-US (auto)": ("wer", 10), "auto": ("wer", 10)}


def test_recordings_of_one_sentence_are_drawn_together() -> None:
    """Two sentences of fifty recordings each say less than a hundred sentences."""
    apart = rows(100, wrong=1, every=2)
    together = [each.model_copy(update={"sentence": str(number % 2)}) for number, each in enumerate(apart)]
    wide, narrow = (score_rows(each, LIMITS).per_language["en-US"] for each in (together, apart))
    assert (wide.sentences, narrow.sentences) == (2, 100)
    assert wide.wer_delta_interval == pytest.approx((-0.2, 10.2))
    assert narrow.wer_delta_interval is not None
    assert 3.5 < narrow.wer_delta_interval[0] < 5.0 < narrow.wer_delta_interval[1] < 6.5
    by_text = [each.model_copy(update={"sentence": None}) for each in apart]
    assert score_rows(by_text, LIMITS).per_language["en-US"].sentences == 1, "the same text is the same sentence"


def resampled_rates(errors: Sequence[int], units: Sequence[int], sentences: Sequence[Hashable]) -> Array | None:
    scores = [Score(substitutions=each, units=count) for each, count in zip(errors, units, strict=True)]
    return Sample({"": scores}, sentences).resampled("", "corpus")


@pytest.mark.parametrize("rate", [0.2, 5.0])
def test_the_interval_covers_the_truth_as_often_as_it_says(rate: float) -> None:
    """Of 200 sets drawn from speech with so many errors in 100 words, 95 % have them in their interval."""
    generator, hits, resampled = np.random.default_rng(1), 0, 0
    for _ in range(200):
        rates = resampled_rates(generator.binomial(10, rate / 100, 100).tolist(), [10] * 100, range(100))
        assert rates is not None
        low, high = interval(rates, 100 / 1000, signed=False)
        hits += low <= rate <= high
        resampled += np.quantile(rates, 0.025) <= rate <= np.quantile(rates, 0.975)
    assert hits / 200 >= 0.93
    if rate < 1.0:
        assert resampled / 200 < 0.92, "where few errors are seen, resampling alone promises too much"
    else:
        assert hits / 200 <= 0.99


def test_resampling_is_reproducible_and_needs_two_sentences() -> None:
    first, second = (resampled_rates([0, 1, 2], [5, 5, 5], "abc") for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first == second).all()
    assert len(first) == RESAMPLES
    assert resampled_rates([1, 2], [5, 5], "aa") is None
    assert resampled_rates([], [], "") is None


def test_substitutions_deletions_and_insertions_are_apart() -> None:
    target = Output(tokens=[1], text="a b x d e f g h z z z")  # c substituted, i j deleted or z's: see below
    found = score_rows([row(1, target=target)], LIMITS).per_language["en-US"]
    assert found.errors is not None
    assert (found.errors.substitutions, found.errors.deletions, found.errors.insertions) == pytest.approx((30, 0, 10))
    gone = score_rows([row(1, target=Output(tokens=[1], text="a b c d e f g"))], LIMITS).per_language["en-US"]
    assert gone.errors is not None
    assert gone.reference_errors is not None
    assert (gone.errors.substitutions, gone.errors.deletions, gone.errors.insertions) == pytest.approx((0, 30, 0))
    assert (gone.wer, gone.reference_errors.deletions) == pytest.approx((30, 0))


@pytest.mark.parametrize(("margin", "passed"), [(NOISE / 2, True), (NOISE * 2, False), (None, False)])
def test_a_near_tie_does_not_count_as_a_lost_token(margin: float | None, passed: bool) -> None:
    limits = Tolerance(exact_match=1.0, wer_delta=0.1)
    scores = score_rows([*rows(4000), row(4000, wrong=1, margin=margin)], limits)
    assert scores.passed is passed
    assert scores.ties == int(passed)
    assert scores.exact_match == 4000 / 4001, "what is reported counts every token"
    (divergence,) = scores.first_divergences
    assert (divergence.margin, divergence.counts) == (margin, not passed)


def test_ties_do_not_excuse_errors() -> None:
    """A build that parts at ties only, and then goes wrong, is worse by its error rate all the same."""
    scores = score_rows(rows(200, wrong=5, margin=0.0), Tolerance(exact_match=1.0, wer_delta=0.1))
    assert scores.ties == 200
    assert answers(scores) == {"all": "within", MACRO: "beyond"}
    assert scores.passed is False


@pytest.mark.parametrize(("every", "passed"), [(1000, True), (2, False)])
def test_without_text_the_distance_to_the_reference_decides(every: int, passed: bool) -> None:
    silent = [each.model_copy(update={"text": ""}) for each in rows(1000, wrong=1, every=every)]
    scores = score_rows(silent, LIMITS)
    assert {check.limit_name for check in scores.checks} == {"exact_match", "wer_between"}
    assert scores.passed is passed
    assert (scores.wer, scores.reference_wer, scores.wer_delta, scores.wer_weighted) == (None,) * 4, "no text, no rate"


def test_without_text_and_without_a_limit_nothing_is_decided() -> None:
    silent = [each.model_copy(update={"text": ""}) for each in rows(1000)]
    scores = score_rows(silent, LIMITS.model_copy(update={"wer_between": None}))
    assert scores.passed is None
    assert "the limits name no wer_between" in scores.reasons[0]


def side(runtime: str = "generation1", **recipe: str) -> Side:
    return Side.model_validate({"name": "a folder", "runtime": runtime, "recipe": recipe})


@pytest.mark.parametrize(
    ("target", "reference", "limits", "whose"),
    [
        (lambda: side(name="int8", hash=RECIPES["int8"].hash), "generation1", RECIPES["int8"].tolerance, "built-in"),
        (lambda: side(name="int8", hash="0"), "generation1", IDENTICAL, "another recipe int8 than the built-in one"),
        (lambda: side(name="mine", hash="0"), "generation1", IDENTICAL, "unknown recipe, mine: name yours"),
        (side, "generation1", IDENTICAL, "no recipe is recorded"),
        (lambda: side("streaming"), "nemo-streaming", NEMO_IDENTITY, "unquantized folder against NeMo"),
        (side, "nemo-streaming", NEMO_TOLERANCE, "clients' loop against NeMo"),
        (
            lambda: side("streaming", name="int4", hash=RECIPES["int4"].hash), "nemo-streaming",
            RECIPES["int4"].tolerance, "the built-in recipe int4",
        ),
    ],
)  # fmt: skip
def test_whose_limits(target: Callable[[], Side], reference: str, limits: Tolerance, whose: str) -> None:
    found = limits_for(target(), side(reference))
    assert found.tolerance == limits
    assert whose in found.whose


def test_limits_of_built_in_recipes_are_ordered() -> None:
    """Fewer bits may lose more, and a language alone no less than the average."""
    order = [RECIPES[name].tolerance for name in ("fp32", "fp16", "int8", "int4")]
    for stricter, looser in pairwise(order):
        assert stricter.exact_match >= looser.exact_match
        assert stricter.wer_delta <= looser.wer_delta
        assert stricter.of_a_language <= looser.of_a_language
    assert all(recipe.tolerance.wer_between is not None for recipe in RECIPES.values())


@pytest.mark.heavy
def test_how_often_a_build_beyond_its_limit_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/design.md's table: words lost apart are found, whole sentences need more of them."""
    generator = np.random.default_rng(7)

    def share(recipe: str, points: float, words: int, count: int) -> float:
        """Of 100 sets of sentences with ten words, lost so many at a time; percent that passed."""
        lost = generator.binomial(1, points / 10 / words, (100, count)) * words
        limits = RECIPES[recipe].tolerance
        return float(
            np.mean(
                [
                    100 * (score_rows([row(n, wrong=w) for n, w in enumerate(each)], limits).passed is True)
                    for each in lost
                ]
            )
        )

    cells = [
        ("int8", 0.36, 1),
        ("int8", 0.36, 3),
        ("int8", 0.36, 10),
        ("int8", 1.2, 10),
        ("fp16", 1.0, 3),
        ("fp16", 1.0, 10),
    ]
    found = {cell: [share(*cell, count) for count in (60, 165, 400)] for cell in cells}
    with capsys.disabled():
        for (recipe, points, words), shares in found.items():
            print(f"\n{recipe}, {points} points lost {words} words at a time: {shares} % passed at 60, 165, 400")  # noqa: T201
    assert max(found["int8", 0.36, 1]) <= 5.0
    assert found["int8", 0.36, 10][1] > 10.0, "the assumption that the document states"
    assert all(shares[-1] <= 10.0 for cell, shares in found.items() if cell != ("int8", 0.36, 10))
