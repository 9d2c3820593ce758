"""Whole verifications: tiny folders in milliseconds, then the demo checkpoint's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import soundfile

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import NOT_DECIDED, UserError
from export.host import machine, peak_rss_mb
from quantize.recipe import Tolerance
from scripts.page.sources import read_sources
from scripts.page.utterances import disagreements
from tests.helpers.command import assert_user_error, run_here
from tests.helpers.tiny_bundle import CHUNK, speech, tiny_bundle, tiny_metadata
from verify import runs
from verify.collect import audio_sha256
from verify.data.audio import load_audio
from verify.data.manifest import Utterance, default_manifest, read_manifest
from verify.data.selection import choose_utterances, spread, usable
from verify.limits import IDENTICAL, Limits
from verify.pipeline import runtime_for, verify_bundle
from verify.report import Report
from verify.runs import checkpoint_side, record_bundle
from verify.runtimes.generation1 import Generation1
from verify.runtimes.transcript import Transcript
from verify.scoring.divergence import divergence_between
from verify.unfinished import Unfinished


@pytest.fixture
def spoken(tmp_path: Path) -> list[Utterance]:
    """Three noises, two languages."""
    lines = []
    for index, language in enumerate(("en-US", "de-DE", "en-US")):
        soundfile.write(tmp_path / f"{index}.flac", speech(0.5 + index / 4, seed=index), 16000)
        lines.append(json.dumps({"audio_filepath": f"{index}.flac", "text": "a b", "target_lang": language}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    return read_manifest(tmp_path / "manifest.jsonl")


def test_a_folder_equals_its_copy(tmp_path: Path, spoken: list[Utterance]) -> None:
    report = verify_bundle(tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b"), spoken)
    assert report.passed is None, "six words decide nothing"
    assert (report.exact_match, report.wer_delta, report.wer_between, report.utterances) == (1.0, 0.0, 0.0, 3)
    assert set(report.per_language) == {"en-US", "de-DE"}
    assert any(row.target.tokens for row in report.rows)
    assert report.target.versions["openvino"]
    assert report.target.config["INFERENCE_PRECISION_HINT"] == "f32"
    assert report.speed.rtfx > 0


def test_a_broken_encoder_fails(tmp_path: Path, spoken: list[Utterance]) -> None:
    report = verify_bundle(tiny_bundle(tmp_path / "a", encoder_gain=0.2), tiny_bundle(tmp_path / "b"), spoken)
    assert report.passed is False
    assert report.exact_match < 1.0
    assert report.reasons
    assert report.first_divergences


def test_a_preprocessor_that_returns_one_frame_more_is_noticed(tmp_path: Path, spoken: list[Utterance]) -> None:
    target = tiny_bundle(tmp_path / "a", mel_frames=CHUNK + 1)
    assert verify_bundle(target, tiny_bundle(tmp_path / "b"), spoken).exact_match < 1.0


def test_a_folder_does_not_set_its_own_limits(tmp_path: Path, spoken: list[Utterance]) -> None:
    lenient = {"name": "x", "hash": "h", "tolerance": {"exact_match": 0.0, "wer_delta": 1000.0}}
    target = tiny_bundle(tmp_path / "a", encoder_gain=0.2, recipe=lenient)
    reference = tiny_bundle(tmp_path / "b")
    report = verify_bundle(target, reference, spoken)
    assert report.passed is False
    assert (report.limits, report.limits_of) == (IDENTICAL, "ours for an unknown recipe, x: name yours with --limits")
    mine = Limits(Tolerance(exact_match=0.0, wer_delta=1000.0), "mine")
    report = verify_bundle(target, reference, spoken, limits=mine)
    assert report.passed is None, "six words decide nothing"
    assert report.limits_of == "mine"


def test_prompts_come_from_the_manifest_or_the_caller(tmp_path: Path, spoken: list[Utterance]) -> None:
    bundle = tiny_bundle(tmp_path / "a")
    own, german, auto = (
        record_bundle(bundle, spoken, language=language).transcripts for language in ("manifest", "de-DE", "auto")
    )
    tokens = [[each.tokens for each in run] for run in (own, german, auto)]
    assert tokens[0][1] == tokens[1][1]
    assert tokens[0][0] != tokens[1][0]
    assert tokens[0][0] != tokens[2][0]


def test_a_recorded_run_can_be_the_reference(tmp_path: Path, spoken: list[Utterance]) -> None:
    bundle = tiny_bundle(tmp_path / "a")
    recorded = record_bundle(bundle, spoken)
    assert verify_bundle(bundle, recorded, spoken).exact_match == 1.0
    with pytest.raises(UserError, match="another manifest"):
        verify_bundle(bundle, recorded.model_copy(update={"transcripts": recorded.transcripts[:2]}), spoken)
    with pytest.raises(UserError, match="another manifest"):
        verify_bundle(bundle, record_bundle(bundle, spoken[:2]), spoken)


def test_the_reference_decides_the_runtime(
    tmp_path: Path, spoken: list[Utterance], small_checkpoint: Checkpoint, small_fp32: Bundle
) -> None:
    tiny = tiny_bundle(tmp_path / "a")
    assert runtime_for(small_fp32, small_checkpoint) == "streaming"
    assert runtime_for(tiny, small_checkpoint) == "generation1", "its graph cannot begin as NeMo does"
    assert runtime_for(small_fp32, tiny) == "generation1"
    run = record_bundle(tiny, spoken)
    assert runtime_for(small_fp32, run) == "generation1"
    with pytest.raises(UserError, match=r"recorded in the generation1 loop, .* --runtime generation1"):
        verify_bundle(tiny, run, spoken, runtime="generation2")
    second = record_bundle(tiny, spoken, runtime="generation2")
    assert runtime_for(tiny, second) == "generation2"
    assert verify_bundle(tiny, second, spoken).target.runtime == "generation2"
    nemo = run.model_copy(update={"side": checkpoint_side(small_checkpoint, 0, 14)})
    assert runtime_for(small_fp32, nemo) == "streaming"
    assert nemo.side.chunk_ms == 1120
    assert checkpoint_side(small_checkpoint, 3).chunk_ms == 320, "NeMo's own"


def test_foreign_references_are_refused_before_any_work(
    tmp_path: Path, spoken: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "transcribe_build", None)
    target = tiny_bundle(tmp_path / "a")
    foreign = tiny_bundle(tmp_path / "foreign", checkpoint={"sha256": "d" * 64})
    with pytest.raises(UserError, match="checkpoint dddddddddddd"):
        verify_bundle(target, foreign, spoken)
    with pytest.raises(UserError, match="lookahead 1"):
        verify_bundle(target, tiny_bundle(tmp_path / "other", att_context_size=[4, 1]), spoken)


def test_the_references_run_is_reused(tmp_path: Path, spoken: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    reference, cache = tiny_bundle(tmp_path / "a"), tmp_path / "cache"
    first = record_bundle(reference, spoken, cache=cache)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(runs, "transcribe_build", None)
    assert record_bundle(reference, spoken, cache=cache) == first
    monkeypatch.undo()
    # Anything that may change the result makes a new run: the prompt, a graph, the manifest, the runtime's properties.
    record_bundle(reference, spoken, cache=cache, language="auto")
    record_bundle(reference, spoken[:2], cache=cache)
    record_bundle(reference, spoken, cache=cache, config={"INFERENCE_PRECISION_HINT": "bf16"})
    other = tiny_bundle(tmp_path / "b", seed=2).graph_path("joint").with_suffix(".bin")
    other.replace(reference.graph_path("joint").with_suffix(".bin"))
    record_bundle(reference, spoken, cache=cache)
    assert len(list(cache.iterdir())) == 5


class StoppedError(Exception):
    """What ends a run in the middle."""


@pytest.mark.parametrize("hashes", [5, None, [[1]], "abc", {"a": 1}])
def test_calibration_hashes_that_are_none_are_refused(tmp_path: Path, spoken: list[Utterance], hashes: object) -> None:
    folder = tiny_bundle(tmp_path / "a")
    changed = folder.metadata.model_copy(update={"recipe": {"calibration_audio_sha256": hashes}})
    with pytest.raises(UserError, match="something else than hashes"):
        verify_bundle(Bundle(folder.path, changed), folder, spoken)


def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, spoken: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with another manifest of the same recordings, and after a kill in the middle of a line."""
    reference, cache = tiny_bundle(tmp_path / "a"), tmp_path / "cache"
    whole = record_bundle(reference, spoken)
    transcribe, lengths = Generation1.transcribe, list[int]()

    def stopping(self: Generation1, audio: np.ndarray, *arguments: str) -> Transcript:
        lengths.append(len(audio))
        if len(lengths) == 3:
            raise StoppedError
        return transcribe(self, audio, *arguments)

    monkeypatch.setattr(Generation1, "transcribe", stopping)
    with pytest.raises(StoppedError):
        record_bundle(reference, spoken, cache=cache)
    (unfinished,) = cache.iterdir()
    assert unfinished.suffix == ".jsonl"
    with unfinished.open("a") as file:
        file.write('{"utterance": "abc", "tran')
    again = record_bundle(reference, [spoken[1], spoken[2]], cache=cache)
    assert lengths == [len(load_audio(each.audio_filepath, 16000)) for each in (*spoken, spoken[2])]
    assert [each.tokens for each in again.transcripts] == [each.tokens for each in whole.transcripts[1:]]
    assert [file.suffix for file in cache.iterdir()] == [".json"], "a whole run needs no list"


def test_a_recording_that_cannot_be_used_does_not_end_a_verification(
    tmp_path: Path, spoken: list[Utterance], capfd: pytest.CaptureFixture[str]
) -> None:
    target, reference = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b")
    (tmp_path / "bad.wav").write_text("no audio")
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('\n{"audio_filepath": "bad.wav", "text": "a b", "duration": 1.0, "target_lang": "en-US"}\n')
    arguments = ["verify", target.path, "--reference", reference.path, "--manifest", tmp_path / "manifest.jsonl"]
    done = run_here(capfd, *arguments, "--json", "--report", tmp_path / "report.json")
    assert done.returncode == NOT_DECIDED
    assert [line for line in done.error_lines if "bad.wav" in line]
    result = json.loads(done.stdout)
    assert (result["utterances"], list(result["unusable"])) == (3, [str(tmp_path / "bad.wav")])
    assert "1 recordings could not be used: bad.wav" in result["reasons"]
    assert Report.load(tmp_path / "report.json").reasons == result["reasons"]
    (tmp_path / "manifest.jsonl").write_text('{"audio_filepath": "bad.wav", "text": "a", "duration": 1.0}\n')
    none = run_here(capfd, *arguments)
    assert none.returncode == 2
    assert "none of 1 recordings can be used" in none.error_lines[-1]


def test_a_part_that_cannot_be_used_leaves_the_other_parts_of_its_file(
    tmp_path: Path, spoken: list[Utterance], capfd: pytest.CaptureFixture[str]
) -> None:
    manifest, file = tmp_path / "parts.jsonl", spoken[0].audio_filepath
    part = {"audio_filepath": str(file), "duration": 0.2, "text": "a", "target_lang": "en-US"}
    manifest.write_text("\n".join(json.dumps(part | {"offset": offset}) for offset in (0.0, 0.1, 70.0, 80.0)))
    chosen = choose_utterances(manifest, prompts=None)
    good, bad = usable(chosen, 16000)
    assert [each.offset for each in good] == [0.0, 0.1]
    assert list(bad) == [f"{file} from 70.0 s", f"{file} from 80.0 s"]
    assert choose_utterances(manifest, prompts=None, left_out=bad) == good
    _, nothing = usable([good[1].model_copy(update={"duration": 9.0})], 16000)
    assert nothing == {}
    assert re.search(r"warning: .* from 0\.1 s: lasts 8\.\d\d s less than the manifest says", capfd.readouterr().err)
    usable(chosen, 16000)
    report = verify_bundle(tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b"), good).without(bad)
    assert "2 recordings could not be used: " in report.reasons[-1]
    assert capfd.readouterr().err.count("error:") == 2


def test_what_passed_without_a_recording_is_not_decided(tmp_path: Path, spoken: list[Utterance]) -> None:
    report = verify_bundle(tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b"), spoken)
    for passed, expected in ((True, None), (False, False), (None, None)):
        judged = report.model_copy(update={"passed": passed})
        assert judged.without({}).passed is passed
        assert judged.without({"x.wav": "is damaged"}).passed is expected


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "edited text": lambda data: re.sub(rb'"text": "', b'"text": "not ', data, count=1),
    "edited token": lambda data: re.sub(rb'"tokens": \[', b'"tokens": [1', data, count=1),
    "flipped bit": lambda data: re.sub(rb'"text": ".', b'"text": "\xff', data, count=1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, spoken: list[Utterance], capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    """And refused as a reference, for which nothing is made again."""
    reference, cache = tiny_bundle(tmp_path / "a"), tmp_path / "cache"
    first = record_bundle(reference, spoken, cache=cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    assert file.read_bytes() != whole
    with pytest.raises(UserError, match=rf"{file.name}: is no recorded run of this version, or was edited or damaged"):
        runs.load_transcripts(file)
    capfd.readouterr()
    again = record_bundle(reference, spoken, cache=cache)
    assert f"{file}: cannot be read, or was edited or damaged; it is made again" in capfd.readouterr().err
    assert [each.tokens for each in again.transcripts] == [each.tokens for each in first.transcripts]
    assert runs.load_transcripts(file) == again


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_of_an_unfinished_run_is_made_again(
    tmp_path: Path, spoken: list[Utterance], capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    """And costs no other line."""
    file = tmp_path / "list.jsonl"
    whole = record_bundle(tiny_bundle(tmp_path / "a"), spoken).transcripts
    for name, transcript in zip("abc", whole, strict=True):
        Unfinished(file).add(name, transcript)
    lines = file.read_bytes().split(b"\n\n")
    lines[1] = DAMAGES[damage](lines[1])
    file.write_bytes(b"\n\n".join(lines))
    capfd.readouterr()
    found = Unfinished(file)
    assert [found.find(name) for name in "abc"] == [whole[0], None, whole[2]]
    assert f"{file}: 1 of 3 lines are half-written or damaged; they are made again" in capfd.readouterr().err
    file.rename(tmp_path / "other.jsonl")
    assert not len(Unfinished(tmp_path / "other.jsonl")), "a list of other inputs"


def test_a_cached_run_of_fewer_utterances_is_made_again(tmp_path: Path, spoken: list[Utterance]) -> None:
    """Somebody edited the file."""
    reference, cache = tiny_bundle(tmp_path / "a"), tmp_path / "cache"
    first = record_bundle(reference, spoken, cache=cache)
    (file,) = cache.iterdir()
    runs.save_transcripts(file, first.model_copy(update={"transcripts": first.transcripts[1:]}))
    again = record_bundle(reference, spoken, cache=cache)
    assert [each.tokens for each in again.transcripts] == [each.tokens for each in first.transcripts]


def test_options_of_a_checkpoint_are_refused_for_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, reference = tiny_bundle(tmp_path / "a").path, tiny_bundle(tmp_path / "b").path
    for option, value in (("--revision", "v2"), ("--checkpoint-format", "nemo")):
        done = run_here(capfd, "verify", folder, "--reference", reference, option, value)
        assert_user_error(done, f"{option} {value}: {reference} is no checkpoint")


def test_partings_are_named_by_pieces(tmp_path: Path, spoken: list[Utterance]) -> None:
    target, reference = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", seed=2)
    report = verify_bundle(target, reference, spoken)
    found = report.first_divergences[0]
    assert found.actual is not None
    assert report.token_words(found.actual) == f"{found.actual} “{target.vocabulary[found.actual]}”"
    assert report.token_words(None) == "end"
    report.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json").pieces == report.pieces
    sources = read_sources([tmp_path / "r.json"])
    (first, *_) = (each for each in disagreements(sources.comparisons) if each.audio == found.audio)
    assert first.divergences[0].actual == report.token_words(found.actual)


def test_no_head_is_shortened_in_a_pipe(
    tmp_path: Path, spoken: list[Utterance], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    folders = [tiny_bundle(tmp_path / name).path for name in "ab"]
    manifest = spoken[0].audio_filepath.parent / "manifest.jsonl"
    done = run_here(capfd, "verify", folders[0], "--reference", folders[1], "--manifest", manifest, "--limit", "1")
    assert "…" not in done.stdout
    for head in ("language", "utterances", "same tokens %", "reference %", "95 %"):
        assert head in done.stdout


def test_resources() -> None:
    assert 10 < peak_rss_mb() < 1e6
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert tiny_metadata().has_prompt


@pytest.mark.xdist_group("demo runs")  # FP32 is transcribed once for both
def test_demo_fp16_is_fp32_token_for_token(demo_fp16: Bundle, demo_fp32: Bundle, shared: Path) -> None:
    report = verify_bundle(demo_fp16, demo_fp32, read_manifest(default_manifest()), cache=shared / "runs")
    assert report.passed, report.reasons
    assert report.exact_match == 1.0


@pytest.mark.xdist_group("demo runs")  # FP32 is transcribed once for both
def test_demo_int8_is_within_its_limits(demo_int8: Bundle, demo_fp32: Bundle, shared: Path) -> None:
    report = verify_bundle(demo_int8, demo_fp32, read_manifest(default_manifest()), cache=shared / "runs")
    assert report.passed, report.reasons
    assert report.wer_delta is not None
    assert report.wer_delta <= 0.3


def test_a_broken_scale_makes_int8_fail(demo_int8: Bundle, demo_fp32: Bundle, tmp_path: Path) -> None:
    """One layer's scales, eight times too large, as a quantizer's slip would leave them."""
    broken = copy_with_broken_scale(demo_int8, tmp_path / "broken")
    report = verify_bundle(broken, demo_fp32, read_manifest(default_manifest())[:20])
    assert report.passed is False
    assert report.reasons


def copy_with_broken_scale(bundle: Bundle, folder: Path) -> Bundle:
    import shutil

    import numpy as np

    shutil.copytree(bundle.path, folder)
    core = ov.Core()
    model = core.read_model(bundle.graph_path("encoder"))
    for node in model.get_ordered_ops():
        # weights (i8) -> Convert -> Multiply by the scales (f16, one a row): the pattern that compression writes
        if node.get_type_name() != "Multiply":
            continue
        source, scale = (node.input_value(index).get_node() for index in (0, 1))
        compressed = source.get_type_name() == "Convert" and source.input_value(0).get_element_type() == ov.Type.i8
        if compressed and scale.get_type_name() == "Constant":
            wrong = ov.opset13.constant(np.asarray(scale.data * 8, dtype=scale.data.dtype))
            node.input(1).replace_source_output(wrong.output(0))
            break
    else:
        pytest.fail("the int8 encoder holds no compressed weights")
    ov.save_model(model, folder / bundle.graph_path("encoder").name, compress_to_fp16=False)
    return Bundle.open(folder)


def test_verification_loads_neither_torch_nor_nemo() -> None:
    code = "import sys, verify.pipeline; print(*({'torch', 'nemo', 'nncf'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


def test_the_divergence_of_logits_is_a_level_of_the_report(
    demo_fp32: Bundle, demo_int8: Bundle, tmp_path: Path
) -> None:
    utterances = spread(read_manifest(default_manifest()), 6)
    same = divergence_between(demo_fp32, demo_fp32, spread(utterances, 3))
    assert (same.agreement, same.agreed_until) == (1.0, 1.0)
    assert abs(same.kl) < 1e-6
    report = verify_bundle(demo_int8, demo_fp32, utterances, divergence=3)
    assert report.divergence is not None
    assert report.divergence.utterances == 3
    assert 1e-6 < report.divergence.kl < 0.1
    assert report.divergence.cells == same.cells > 50
    half = verify_bundle(demo_int8, demo_fp32, utterances, divergence=3, config={"INFERENCE_PRECISION_HINT": "bf16"})
    assert half.divergence is not None
    in_half = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # else the hint changes nothing
    assert (half.divergence.kl != report.divergence.kl) == in_half, "in the precision that the folder is verified in"
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").divergence == report.divergence
    with pytest.raises(UserError, match="--divergence 3: needs a folder as --reference"):
        verify_bundle(demo_int8, record_bundle(demo_fp32, utterances), utterances, divergence=3)


def test_audio_that_a_folder_was_calibrated_with_does_not_judge_it(tmp_path: Path, spoken: list[Utterance]) -> None:
    """In whatever file it lies: the hash is that of the samples."""
    samples = load_audio(spoken[1].audio_filepath, 16000)
    calibrated = {"name": "w8a8", "hash": "h", "calibration_audio_sha256": ["0" * 64, audio_sha256(samples)]}
    target, reference = tiny_bundle(tmp_path / "a", recipe=calibrated), tiny_bundle(tmp_path / "b")
    soundfile.write(tmp_path / "copy.wav", samples, 16000, subtype="FLOAT")
    copy = spoken[1].model_copy(update={"audio_filepath": tmp_path / "copy.wav"})
    with pytest.raises(UserError, match=r"was calibrated with audio that it would be judged by, copy\.wav; leave"):
        verify_bundle(target, reference, [spoken[0], copy])
    assert verify_bundle(target, reference, [spoken[0], spoken[2]]).exact_match == 1.0


def test_what_a_verdict_does_not_say_is_noted(tmp_path: Path, spoken: list[Utterance]) -> None:
    target = tiny_bundle(tmp_path / "a")
    reference = tiny_bundle(tmp_path / "b", seed=2, recipe={"name": "int8", "hash": "h"})
    random = target.metadata.model_copy(update={"checkpoint": target.metadata.checkpoint | {"random_weights": True}})
    report = verify_bundle(Bundle(target.path, random), reference, spoken)
    assert [note.split(":")[0] for note in report.notes[:2]] == [
        "the checkpoint's weights are random",
        f"{reference.path} was made by the recipe int8",
    ]
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").notes == report.notes
    plain = verify_bundle(target, tiny_bundle(tmp_path / "c", seed=2), spoken).notes
    *unrecognized, last = plain
    assert [note.split(":")[0] for note in unrecognized] == ["de-DE", "en-US"], (
        "tiny graphs recognize nothing of the text"
    )
    assert last.endswith("may not show in so few sentences")
