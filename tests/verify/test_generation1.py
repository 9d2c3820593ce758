"""The generation-1 loop against the contract's words, on tiny seeded folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from export.bundle import Bundle
from export.errors import UserError
from export.languages import prompt_id_for
from tests.helpers.tiny_bundle import CHUNK, CHUNK_SAMPLES, FRAMES, LEAD, MEL, speech, tiny_bundle
from verify.runtimes.generation1 import Generation1
from verify.runtimes.graph import CLIENTS_CONFIG
from verify.runtimes.transcript import MAX_SYMBOLS, Timings


def compiled(bundle: Bundle) -> dict[str, ov.CompiledModel]:
    core = ov.Core()
    return {
        name: core.compile_model(bundle.graph_path(name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for name in ("preprocessor", "encoder", "decoder", "joint")
    }


def by_the_book(
    bundle: Bundle, graphs: dict[str, ov.CompiledModel], audio: NDArray[np.float32], language: str
) -> tuple[list[int], list[int]]:
    """The contract's seven points written down once more, as plainly as can be; tokens and their frames."""
    meta = bundle.metadata
    one = np.array([1], np.int32)
    cache = {
        "cache_channel": np.zeros(meta.cache_channel_shape, np.float32),
        "cache_time": np.zeros(meta.cache_time_shape, np.float32),
        "cache_len": np.zeros(1, np.int32),
    }
    h = c = np.zeros((meta.decoder_layers, 1, meta.decoder_hidden), np.float32)
    last, tokens, frames, frame = meta.blank_idx, [], [], 0
    carried = np.zeros((1, meta.mel_features, meta.pre_encode_cache), np.float32)
    token_type = graphs["decoder"].input("token").get_element_type().to_dtype()
    while audio.size:
        chunk, audio = audio[:CHUNK_SAMPLES], audio[CHUNK_SAMPLES:]
        chunk = np.pad(chunk, (0, CHUNK_SAMPLES - len(chunk)))
        mel = graphs["preprocessor"]({"audio": chunk[None], "audio_length": one * CHUNK_SAMPLES})["mel"]
        inputs: dict[str, Any] = {
            "mel": np.concatenate([carried, mel], axis=2)[:, :, : meta.total_mel_frames],
            "mel_length": one * meta.total_mel_frames,
            **cache,
        }
        if meta.prompt_dictionary:
            assert meta.default_prompt_id is not None
            inputs["prompt_id"] = one * prompt_id_for(language, meta.prompt_dictionary, meta.default_prompt_id)
        carried = mel[:, :, -meta.pre_encode_cache :]
        step = graphs["encoder"](inputs)
        cache = {name: step[f"{name}_out"].copy() for name in cache}
        for index in range(step["encoded"].shape[2]):
            for _ in range(10):
                predicted = graphs["decoder"](
                    {"token": np.array([[last]], token_type), "token_length": one, "h_in": h, "c_in": c}
                )
                logits = graphs["joint"](
                    {"encoder": step["encoded"][:, :, index : index + 1], "decoder": predicted["decoder_out"]}
                )["logits"]
                best = int(np.argmax(logits))
                if best == meta.blank_idx:
                    break
                last, h, c = best, predicted["h_out"].copy(), predicted["c_out"].copy()
                tokens.append(best)
                frames.append(frame)
            frame += 1
    return tokens, frames


@pytest.mark.parametrize(
    "options",
    [{}, {"mel_frames": CHUNK + 1}, {"token_type": ov.Type.i64}, {"prompt": False}, {"seed": 2}],
    ids=["plain", "one frame more", "i64 token", "no prompt", "other weights"],
)
def test_loop_is_the_contracts(tmp_path: Path, options: dict[str, Any]) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", **options)
    recognizer, graphs = Generation1(bundle), compiled(bundle)
    for seconds in (0.05, 0.16, 0.161, 0.9, 2.0):
        audio = speech(seconds)
        for language in ("de-DE", "auto"):
            result = recognizer.transcribe(audio, language)
            assert (result.tokens, result.frames) == by_the_book(bundle, graphs, audio, language), (seconds, language)
        assert result.audio_seconds == pytest.approx(len(audio) / 16000)


def test_tiny_folders_emit_tokens(tmp_path: Path) -> None:
    """Otherwise the comparison above would compare nothing."""
    recognizer = Generation1(tiny_bundle(tmp_path / "bundle"))
    tokens = recognizer.transcribe(speech(2.0)).tokens
    assert len(set(tokens)) >= 3
    assert tokens != recognizer.transcribe(speech(2.0, seed=9)).tokens
    assert tokens != recognizer.transcribe(speech(2.0), "de-DE").tokens


def test_nothing_leaks_from_one_utterance_to_the_next(tmp_path: Path) -> None:
    recognizer = Generation1(tiny_bundle(tmp_path / "bundle"))
    before = recognizer.transcribe(speech(1.0))
    recognizer.transcribe(speech(0.07, seed=3), "de-DE")
    after = recognizer.transcribe(speech(1.0))
    assert (before.tokens, before.frames, before.text) == (after.tokens, after.frames, after.text)


def test_carried_frames_are_the_last_of_the_tensor_that_came(tmp_path: Path) -> None:
    """A preprocessor that returns one frame too many makes the client carry its false zero frame."""
    _, second = Generation1(tiny_bundle(tmp_path / "bundle", mel_frames=CHUNK + 1)).steps(speech(0.3))
    assert second.mel.shape == (1, MEL, LEAD + CHUNK)
    assert not second.mel[:, :, :LEAD].any()
    inputs = [step.mel.copy() for step in Generation1(tiny_bundle(tmp_path / "exact")).steps(speech(0.3))]
    assert not inputs[0][:, :, :LEAD].any()
    np.testing.assert_array_equal(inputs[1][:, :, :LEAD], inputs[0][:, :, -LEAD:])
    assert inputs[1][:, :, :LEAD].any()


def test_symbols_of_a_frame_are_limited(tmp_path: Path) -> None:
    """A joint that never says blank."""
    bundle = tiny_bundle(tmp_path / "bundle", blank_bias=-1e9)
    result = Generation1(bundle).transcribe(speech(0.05))
    assert result.frames == [frame for frame in range(FRAMES) for _ in range(MAX_SYMBOLS)]


def test_timings_count_every_call(tmp_path: Path) -> None:
    spent = Generation1(tiny_bundle(tmp_path / "bundle")).transcribe(speech(0.5)).timings
    assert spent.mel_calls == spent.encoder_calls == len(spent.steps) == 4  # chunks of 160 ms
    assert spent.encoder < sum(spent.steps) < spent.wall
    assert spent.decoder_calls == spent.joint_calls >= 4 * FRAMES
    assert spent.wall >= spent.mel + spent.encoder + spent.decoder + spent.joint > 0
    assert isinstance(spent, Timings)


def test_no_audio_is_no_text(tmp_path: Path) -> None:
    result = Generation1(tiny_bundle(tmp_path / "bundle")).transcribe(np.zeros(0, np.float32))
    assert (result.tokens, result.text, result.language) == ([], "", None)


def test_fp32_is_asked_for_unless_overridden(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    assert Generation1(bundle).config == {"INFERENCE_PRECISION_HINT": "f32"}
    assert Generation1(bundle, threads=1, config={"INFERENCE_PRECISION_HINT": "bf16"}).config == {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": "1",
    }
    assert Generation1(bundle, threads=1, config=CLIENTS_CONFIG).config == {"INFERENCE_NUM_THREADS": "1"}


def test_broken_graphs_are_named(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    good = bundle.graph_path("decoder").read_bytes()
    bundle.graph_path("decoder").write_text("<net")
    with pytest.raises(UserError, match=r"nemotron_decoder.xml: CPU cannot load it"):
        Generation1(bundle)
    bundle.graph_path("decoder").write_bytes(good.replace(b"h_in", b"x_in"))
    with pytest.raises(UserError, match=r"nemotron_decoder.xml: has no h_in"):
        Generation1(bundle)
    bundle.graph_path("decoder").write_bytes(good.replace(b"h_out", b"x_out"))
    with pytest.raises(UserError, match=r"nemotron_decoder.xml: has no output h_out"):
        Generation1(bundle).transcribe(speech(2.0))
