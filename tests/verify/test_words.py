"""Words from tokens and frames, and the audio that steps take: no graph is needed for either."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.tiny_bundle import tiny_metadata
from verify.runtimes.streaming.signal import MARGIN, SignalBuffer, StepGeometry
from verify.runtimes.streaming.words import LONGEST_WORD, Word, group_words

PIECES = ["", "▁good", "▁mor", "ning", ".", "今", "日", "ー", "▁", "ไ", "ป", "ำ", "ສ", "ວ", "က", "ា", "ខ"]


def words(*emitted: tuple[str, int]) -> list[tuple[str, float, float, bool]]:
    tokens = [(PIECES.index(piece), frame) for piece, frame in emitted]
    found, _ = group_words(tokens, lambda token: PIECES[token], 0.08)
    return [(word.text, word.start, word.end, word.spaced) for word in found]


def test_a_word_lasts_to_the_end_of_its_last_frame() -> None:
    assert words(("▁good", 2), ("▁mor", 10), ("ning", 12), (".", 12), ("", 13)) == [
        ("good", 0.16, 0.24, True),
        ("morning.", 0.8, 1.04, True),
    ]


def test_a_word_ends_no_later_than_the_next_begins() -> None:
    assert words(("▁good", 2), ("▁mor", 2), ("ning", 3)) == [("good", 0.16, 0.16, True), ("morning", 0.16, 0.32, True)]


@pytest.mark.parametrize(("first", "second"), [("今", "日"), ("ไ", "ป"), ("ສ", "ວ"), ("က", "က"), ("ខ", "ខ")])
def test_scripts_without_spaces_have_a_word_a_piece(first: str, second: str) -> None:
    assert words((first, 0), (second, 4)) == [(first, 0.0, 0.08, False), (second, 0.32, 0.4, False)]


def test_marks_stay_with_their_letter() -> None:
    assert [word[0] for word in words(("ខ", 0), ("ា", 1), ("今", 2), ("ー", 3))] == ["ខា", "今ー"]


def test_a_lone_space_is_no_word_of_its_own() -> None:
    found, before_last = group_words([(1, 0), (8, 1)], lambda token: PIECES[token], 0.08)
    assert found == [Word("good", 0.0, 0.08), Word("", 0.08, 0.16)]
    assert before_last == 1


def test_a_word_that_never_ends_is_cut() -> None:
    assert [len(word[0]) for word in words(*[(".", frame) for frame in range(LONGEST_WORD + 2)])] == [LONGEST_WORD, 2]


GEOMETRY = StepGeometry(tiny_metadata(lead_mel_frames=2))


def windows(blocks: list[int]) -> list[tuple[list[float], int, int]]:
    """What a signal of 1, 2, 3, … gives to its steps, pushed in blocks of these sizes."""
    buffer, first, found = SignalBuffer(GEOMETRY), 0, []
    for size in blocks:
        buffer.append(np.arange(first + 1, first + size + 1, dtype=np.float32))
        first += size
        while buffer.due():
            window = buffer.window()
            found.append((window.samples.tolist(), window.lead, window.mel_length))
    buffer.end()
    while buffer.due():
        window = buffer.window()
        found.append((window.samples.tolist(), window.lead, window.mel_length))
    return found


def test_windows_do_not_depend_on_the_blocks() -> None:
    total = 5 * GEOMETRY.new * GEOMETRY.hop + 2077
    whole = windows([total])
    assert len(whole) == 6
    assert windows([1, 2, 3, 4000, total - 4006]) == whole
    assert windows([100] * (total // 100) + [total % 100]) == whole
    margin = (GEOMETRY.lead - GEOMETRY.carried + MARGIN) * GEOMETRY.hop
    assert whole[0][0][:margin] == [0.0] * margin
    assert whole[0][0][margin : margin + 3] == [1.0, 2.0, 3.0]
    step = GEOMETRY.new * GEOMETRY.hop
    assert whole[1][0][0] == step - margin + 1, "windows begin a step apart"
    assert [window[1] for window in whole] == [GEOMETRY.lead, 0, 0, 0, 0, 0]


def test_small_blocks_cost_what_their_samples_do(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = 0
    concatenate = np.concatenate

    def counting(arrays: list[np.ndarray]) -> np.ndarray:
        nonlocal joined
        joined += sum(map(len, arrays))
        return concatenate(arrays)

    monkeypatch.setattr(np, "concatenate", counting)
    for stepping in (False, True):
        buffer, joined = SignalBuffer(GEOMETRY), 0
        for _ in range(1000):
            buffer.append(np.zeros(160, np.float32))
            while stepping and buffer.due():
                buffer.window()
        while buffer.due():
            buffer.window()
        assert joined < 2 * 160_000
