"""From tokens to text, and from texts to rates, with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from export.languages import prompt_id_for
from tests.helpers.tiny_bundle import PIECES
from verify.compare import exact_match, first_divergence, text_diff
from verify.runtimes.transcript import Timings, decode, detokenize, written
from verify.scoring.normalization import normalize
from verify.scoring.rates import Score, macro_average, metric_for, score_text, total

TAGS = [1, 2]


@pytest.mark.parametrize(
    ("tokens", "text", "language"),
    [
        ([], "", None),
        ([3, 4, 5, 6], "ab cd", None),
        ([3, 4, 1, 5, 2, 6], "ab cd", "en-US"),  # a tag can come anywhere, the first one counts
        ([2], "", "de-DE"),
        ([3, 8, 99, 4, -1], "ab", None),  # blank and whatever lies past the vocabulary
        ([7, 7, 3], "a", None),  # ends are trimmed …
        ([3, 7, 4], "a b", None),
        ([3, 7, 5], "a  c", None),  # … the middle is left as it came
        ([0, 3], "<unk> a", None),  # only the tags of the metadata are tags
    ],
)
def test_detokenize(tokens: list[int], text: str, language: str | None) -> None:
    assert detokenize(tokens, PIECES, TAGS) == (text, language)


PROMPTS = {"es-US": 3, "es": 13, "en-US": 0, "en-GB": 1, "zh-TW": 5, "zh-CN": 4, "auto": 101, "deu-X": 9}


@pytest.mark.parametrize(
    ("language", "row"),
    [
        ("en-US", 0),
        ("es", 13),  # an exact key wins over es-US
        ("en", 1),  # en-GB comes first in byte order, not in the dictionary
        ("zh", 4),
        ("auto", 101),
        ("de", 101),  # deu- is no de-
        ("EN", 1),  # nor does case count
        ("en-AU", 101),
        ("", 101),
    ],
)
def test_prompt_rule_of_the_clients(language: str, row: int) -> None:
    assert prompt_id_for(language, PROMPTS, 101) == row


def test_metric_by_language() -> None:
    assert [metric_for(each) for each in ("ja-JP", "ja", "zh-CN", "yue-HK", "th-TH", "ZH_TW")] == ["cer"] * 6
    assert [metric_for(each) for each in ("en-US", "ko-KR", "vi-VN", "auto", "")] == ["wer"] * 5


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Hello,   World! ", "hello world"),
        ("Don\u2019t don't", "dont dont"),
        ("Straße STRASSE", "strasse strasse"),
        ("well-known", "well known"),
        ("¿Qué? «Sí»", "qué sí"),
        ("e\u0301te", "éte"),
        ("１２ ﬁn", "12 fin"),
        ("3 + 4 = 7 €", "3 + 4 = 7 €"),  # symbols are no punctuation
        ("。、「今日」", "今日"),
        ("", ""),
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("reference", "hypothesis", "metric", "edits", "units"),
    [
        ("the cat sat down", "the hat sat", "wer", 2, 4),  # one substituted, one deleted
        ("one", "one two three", "wer", 2, 1),  # more than 100 %
        ("A, b.", "a b", "wer", 0, 2),
        ("", "", "wer", 0, 0),
        ("", "noise here", "wer", 2, 0),
        ("two words", "", "wer", 2, 2),
        ("今日は 晴れ。", "今日は晴", "cer", 1, 5),
        ("今日", "明日", "cer", 1, 2),
        ("", "は", "cer", 1, 0),
    ],
)
def test_score(reference: str, hypothesis: str, metric: str, edits: int, units: int) -> None:
    score = score_text(reference, hypothesis, "cer" if metric == "cer" else "wer")
    assert (score.edits, score.units) == (edits, units)


def test_raw_score_keeps_case_and_punctuation() -> None:
    assert score_text("Yes, it is.", "yes it is", "wer").edits == 0
    assert score_text("Yes, it is.", "yes it is", "wer", normalizer="none") == Score(substitutions=2, units=3)
    assert score_text("は。", "は", "cer", normalizer="none") == Score(deletions=1, units=2)


def test_total_is_weighted_by_length() -> None:
    scores = [score_text("a b c d e f g h i", "a b c d e f g h i", "wer"), score_text("x", "y", "wer")]
    assert total(scores).rate == pytest.approx(10.0)  # not the mean of 0 and 100
    assert total([]).rate == 0.0
    assert Score(insertions=3).rate == 100.0


def test_languages_weigh_alike_in_their_average() -> None:
    """Words of one are not mixed with the characters of another, and many utterances of one hide no other."""
    good = [("en-US", Score(units=10))] * 99
    assert macro_average([*good, ("ja-JP", Score(substitutions=2, deletions=1, insertions=1, units=20))]) == 10.0
    assert macro_average([("en-US", Score(substitutions=1, units=2)), ("en-US", Score(units=8))]) == 10.0
    assert macro_average([]) == 0.0


@pytest.mark.parametrize(
    ("reference", "target", "position"),
    [
        ([], [], None),
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3], [1, 2], 2),
        ([1, 2], [1, 2, 3], 2),
        ([], [5], 0),
    ],
)
def test_first_divergence(reference: list[int], target: list[int], position: int | None) -> None:
    assert first_divergence(reference, target) == position


def test_exact_match_is_a_share() -> None:
    assert exact_match([None, 3, None, 0]) == 0.5
    assert exact_match([]) == 1.0


def test_text_diff() -> None:
    assert text_diff("the cat sat", "the hat sat up") == "the [-cat-]{+hat+} sat {+up+}"
    assert text_diff("今日 晴", "今晴", "cer") == "今[-日-]晴"
    assert text_diff("a", "a") == "a"
    assert text_diff("", "") == ""


def test_timings_add_up() -> None:
    assert Timings(wall=1.0, encoder_calls=2) + Timings(wall=0.5, mel=0.1, encoder_calls=3) == Timings(
        wall=1.5, mel=0.1, encoder_calls=5
    )


BYTES = ["<unk>", "<s>", "▁a", "b", *(f"<0x{value:02X}>" for value in range(256)), "▁", "</s>"]


def test_special_pieces_are_decoded_as_sentencepiece_does() -> None:
    from sentencepiece import SentencePieceProcessor

    from tests.helpers.archives import sentencepiece

    model = SentencePieceProcessor(model_proto=sentencepiece(BYTES))
    rng = np.random.default_rng(5)
    byte = {value: 4 + value for value in range(256)}
    handmade = [[byte[value] for value in "é日😀".encode()], [2, 0, 3], [0], [byte[0xE3], 2], [byte[0xF0], 3]]
    drawn = [rng.integers(0, len(BYTES), 8).tolist() for _ in range(200)]
    spelled = [[byte[each] for each in "aé日".encode()[start:]] + [3] for start in range(6)]
    for tokens in (*handmade, *drawn, *spelled):
        assert decode(tokens, BYTES)[0] == model.decode(tokens).strip(), tokens


def test_the_clients_write_special_pieces_as_they_are() -> None:
    assert detokenize([2, 0, 4 + 0xC3, 4 + 0xA9], BYTES)[0] == "a<unk><0xC3><0xA9>"
    assert decode([2, 4 + 0xC3, 4 + 0xA9], BYTES)[0] == "aé"


def test_a_character_stands_at_its_first_byte() -> None:
    assert written([2, 4 + 0xC3, 4 + 0xA9, 4 + 0xE3, 3], BYTES, [3]) == ["▁a", "é", "", "\ufffd", ""]
