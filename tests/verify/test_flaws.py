"""Each flaw of the clients' loop, switched on alone, does what it says and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from export.bundle import Bundle, write_metadata
from export.checkpoint import Checkpoint
from export.errors import UserError
from tests.helpers.command import assert_user_error, run_here, run_process
from tests.helpers.tiny_bundle import speech, speechlike
from verify.data.manifest import Utterance
from verify.flaws import Deviations, Flaws, exported, flawed, old_beginning, with_encoder
from verify.runtimes.generation1 import Generation1
from verify.runtimes.graph import Graph
from verify.runtimes.streaming import Audio, Streaming

AUDIO = speechlike(4.0, 3)


NOISE = np.random.default_rng(3).normal(0, 0.1, 50_000).astype(np.float32)


def mel_windows(bundle: Bundle, flaws: Flaws) -> list[Audio]:
    """What the encoder is given, step by step."""
    windows: list[Audio] = []

    class Spy(Deviations):
        def after(self, graph: Graph) -> None:
            if graph.name == "encoder":
                windows.append(graph.output("mel")[0].copy())

    ours = Streaming(bundle, threads=1, observer=Spy(bundle, flaws))
    ours.transcribe(NOISE)
    return windows


def test_without_a_flaw_it_is_the_streaming_runtime(small_fp32: Bundle) -> None:
    plain = Streaming(small_fp32, threads=1).transcribe(AUDIO)
    assert flawed(small_fp32, Flaws(), threads=1).transcribe(AUDIO).tokens == plain.tokens


def test_chunk_edges_change_the_frames_there_only(small_fp32: Bundle) -> None:
    right, wrong = mel_windows(small_fp32, Flaws()), mel_windows(small_fp32, Flaws(edges=True))
    differs = np.abs(right[1] - wrong[1]).max(axis=0) > 1e-4
    new = differs[9:]
    assert new[0]
    assert new[-1]
    assert not new[2:-2].any()


def test_the_shifted_carry_ends_in_a_zero_frame(small_fp32: Bundle) -> None:
    right, wrong = mel_windows(small_fp32, Flaws()), mel_windows(small_fp32, Flaws(carry=True))
    np.testing.assert_array_equal(wrong[0], right[0])
    np.testing.assert_array_equal(wrong[1][:, :8], right[1][:, 1:9])
    assert not wrong[1][:, 8].any()
    np.testing.assert_array_equal(wrong[1][:, 9:], right[1][:, 9:])


def test_all_of_them_are_the_clients_loop(small_fp32: Bundle, small_nemo_fp32: Bundle, tmp_path: Path) -> None:
    """Whole chunks, so that the loop's padding of the last one plays no part."""
    audio = AUDIO[: 3 * 17_920]
    for bundle, flaws in (
        (old_beginning(small_fp32), Flaws(edges=True, begin=True)),
        (with_encoder(small_nemo_fp32, small_fp32, tmp_path / "mixed"), Flaws(edges=True, carry=True, begin=True)),
    ):
        loop = Generation1(small_nemo_fp32 if flaws.carry else small_fp32, threads=1).transcribe(audio)
        ours = flawed(bundle, flaws, threads=1).transcribe(audio)
        known = [token for token, frame in zip(loop.tokens, loop.frames, strict=True) if frame < 42]
        assert ours.tokens[: len(known)] == known
        assert known


@pytest.mark.parametrize(
    "changes",
    [{"lookahead": 13}, {"cache": "kv"}, {"encoder": "nemo"}, {"chunk_ms": 560.0}, {"knows_short_leads": False}],
)
def test_a_folder_of_other_settings_is_not_used(
    small_checkpoint: Checkpoint, small_fp32: Bundle, tmp_path: Path, changes: dict[str, Any]
) -> None:
    copy = shutil.copytree(small_fp32.path, tmp_path / "fp32-rewritten")
    assert exported(small_checkpoint, copy).path == copy
    write_metadata(copy, small_fp32.metadata.model_copy(update=changes))
    with pytest.raises(UserError, match="is not this checkpoint's rewritten encoder of lookahead 0; give another"):
        exported(small_checkpoint, copy)


def test_a_data_set_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", speech(1.0), 16000)
    (tmp_path / "audio" / "a.txt").write_text("hallo")
    heard: list[Utterance] = []

    def measure(_: object, utterances: list[Utterance], __: object) -> list[object]:
        heard.extend(utterances)
        return []

    monkeypatch.setattr("verify.flaws.measure", measure)
    arguments = ["flaws", "demo", "--data", f"{tmp_path / 'audio'}:de-DE"]
    done = run_here(capfd, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert [(each.audio_filepath.name, each.text, each.target_lang) for each in heard] == [("a.wav", "hallo", "de-DE")]
    assert_user_error(run_here(capfd, *arguments, "--manifest", tmp_path / "m.jsonl"), "both given")


@pytest.mark.heavy
def test_one_command_makes_the_table() -> None:
    done = run_process("flaws", "demo", "--limit", "2")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) > 10
    assert "NeMo's own streaming" in done.stdout
