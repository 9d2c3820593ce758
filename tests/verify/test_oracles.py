"""Two oracles: Transformers' streaming of the same weights beside NeMo's, their recorded runs, and who agrees."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import export.checkpoint.transformers as transformers_checkpoint
from export.bundle import Bundle
from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.weights import read_weights
from export.errors import UserError
from scripts.cli.verdict import comparison
from scripts.extras import missing_extra
from scripts.page.sources import of_report
from scripts.page.utterances import disagreements
from tests.helpers.command import run_here
from tests.helpers.tiny_bundle import speech, tiny_bundle
from tests.test_imports import module_imports
from verify import runs, shards
from verify.data.identity import utterance_sha256
from verify.data.manifest import Utterance, default_manifest, load_utterance, read_manifest
from verify.pipeline import compare_runs, verify_bundle
from verify.references.nemo import NemoStreaming
from verify.references.transformers import TransformersStreaming
from verify.report import Report
from verify.runs import ORACLE_CODE, Run, record_bundle, record_checkpoint
from verify.runtimes.transcript import Transcript
from verify.scoring.agreement import agreeing, count_agreement
from verify.unfinished import Unfinished

LENGTHS = (0.1, 0.84, 2.43)
"""Seconds: less than a chunk, a partial one at the end, several."""

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def by_nemo(small_checkpoint: Checkpoint, small_nemo: Any) -> Callable[[int], list[Transcript]]:
    """NeMo's transcripts of the signals at a lookahead, in clean steps."""

    def of(lookahead: int) -> list[Transcript]:
        return transcripts(NemoStreaming(small_checkpoint, lookahead, small_nemo, chunk_frames=max(lookahead + 1, 2)))

    return of


def transcripts(recognizer: NemoStreaming | TransformersStreaming) -> list[Transcript]:
    return [recognizer.transcribe(speech(seconds, seed=index), "de") for index, seconds in enumerate(LENGTHS)]


def defined(transcript: Transcript, lookahead: int) -> list[tuple[int, int]]:
    """Tokens and frames of whole chunks: NeMo ends a signal with a frame of 0.0, Transformers needs appended zeros."""
    signal = round(transcript.audio_seconds * 100)
    whole = max(0, (signal - 1 - 8 * lookahead) // (8 * (lookahead + 1)) + 1) * (lookahead + 1)
    return [each for each in zip(transcript.tokens, transcript.frames, strict=True) if each[1] < whole]


@pytest.mark.parametrize("lookahead", [0, 3, 13])
def test_transformers_gives_nemos_tokens(
    lookahead: int, small_checkpoint: Checkpoint, by_nemo: Callable[[int], list[Transcript]]
) -> None:
    found = transcripts(TransformersStreaming(small_checkpoint, lookahead))
    ours = [defined(each, lookahead) for each in found]
    assert ours == [defined(each, lookahead) for each in by_nemo(lookahead)]
    assert sum(map(len, ours)) > 10
    # 2.43 s are 244 mel frames: one and 8 R in the first chunk, 8 (R + 1) in every other.
    rest = 244 - 1 - 8 * lookahead
    assert found[-1].timings.encoder_calls == len(found[-1].timings.steps) == 1 - (-rest // (8 * (lookahead + 1)))


def test_a_scrambled_weight_is_a_disagreement(
    small_checkpoint: Checkpoint,
    by_nemo: Callable[[int], list[Transcript]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = read_weights(small_checkpoint)
    name = "encoder.layers.1.self_attn.linear_q.weight"
    weights[name] = weights[name][torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    monkeypatch.setattr(transformers_checkpoint, "read_weights", lambda _: weights)
    found = transcripts(TransformersStreaming(small_checkpoint, 3))
    assert [defined(each, 3) for each in found] != [defined(each, 3) for each in by_nemo(3)]


def test_the_english_sibling_agrees_and_needs_no_prompt(small_english_checkpoint: Checkpoint) -> None:
    both = [transcripts(opened(small_english_checkpoint, 13)) for opened in (NemoStreaming, TransformersStreaming)]
    nemo, transformers = ([defined(each, 13) for each in found] for found in both)
    assert nemo == transformers
    assert any(nemo)


def test_who_agrees() -> None:
    assert agreeing([1], [1], [1]) == "all"
    assert agreeing([1], [1], [2]) == "target_and_reference"
    assert agreeing([1], [2], [1]) == "target_and_witness"
    assert agreeing([2], [1], [1]) == "reference_and_witness"
    assert agreeing([1], [2], [3]) == "none"
    found = count_agreement(["all", "none", "all", "target_and_witness"])
    assert found
    assert found.model_dump() == {
        "all": 2, "target_and_reference": 0, "target_and_witness": 1, "reference_and_witness": 0, "none": 1,
    }  # fmt: skip
    assert count_agreement([None, None]) is None


@pytest.fixture
def spoken(tmp_path: Path) -> list[Utterance]:
    """Three noises."""
    lines = []
    for index in range(3):
        soundfile.write(tmp_path / f"{index}.flac", speech(0.5 + index / 4, seed=index), 16000)
        lines.append(json.dumps({"audio_filepath": f"{index}.flac", "text": "a b", "target_lang": "de-DE"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    return read_manifest(tmp_path / "manifest.jsonl")


def test_a_report_says_who_agrees_and_says_it_again_when_rescored(tmp_path: Path, spoken: list[Utterance]) -> None:
    target = record_bundle(tiny_bundle(tmp_path / "a"), spoken)
    other = replace(target.transcripts[1], tokens=[*target.transcripts[1].tokens, 1])
    changed = [target.transcripts[0], other, target.transcripts[2]]

    def oracle(name: str, transcripts: list[Transcript]) -> Run:
        side = target.side.model_copy(update={"name": "x.nemo", "runtime": f"{name}-streaming", "files": {}})
        return target.model_copy(update={"side": side, "transcripts": transcripts})

    report = compare_runs(target, oracle("nemo", changed), spoken, witness=oracle("transformers", target.transcripts))
    assert report.agreement
    assert [row.agree for row in report.rows] == ["all", "target_and_witness", "all"]
    report.save(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [row["agree"] for row in stored["rows"]] == ["all", "target_and_witness", "all"]
    stored["agreement"] = None
    (tmp_path / "report.json").write_text(json.dumps(stored))
    again = Report.load(tmp_path / "report.json")
    assert again.agreement == report.agreement
    shown = [line for line in comparison(again) if isinstance(line, str)]
    assert "same tokens: all three 2; a and Transformers, not NeMo 1" in shown
    assert "  1.flac: a and Transformers, not NeMo" in shown
    page = of_report(again, "a")
    assert "a: same tokens: all three 2; a and Transformers, not NeMo 1" in page.notes
    (listed,) = disagreements(page.comparisons)
    assert [each.agree for each in listed.divergences] == ["a and Transformers, not NeMo"]
    without = compare_runs(target, oracle("nemo", changed), spoken)
    assert without.agreement is None
    assert not any("same tokens:" in line for line in comparison(without) if isinstance(line, str))


def test_an_oracle_runs_once_for_all_comparisons(
    small_checkpoint: Checkpoint, spoken: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the checkpoint's hash, whatever its name; another version, lookahead or prompt is another run."""
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    first = record_checkpoint(small_checkpoint, 3, spoken, oracle="transformers")
    home = tmp_path / "cache" / "oracles"
    assert len(list(home.iterdir())) == 1
    moved = shutil.copy(small_checkpoint.path, tmp_path / "renamed.nemo")
    monkeypatch.setattr(runs, "transcribe_manifest", None)
    again = record_checkpoint(open_checkpoint(moved), 3, spoken, oracle="transformers", cache=tmp_path / "here")
    assert again.transcripts == first.transcripts
    assert [file.name for file in home.iterdir()] == [file.name for file in (tmp_path / "here").iterdir()]
    for options in ({"language": "auto"}, {"oracle": "nemo"}):
        with pytest.raises(TypeError):
            record_checkpoint(small_checkpoint, 3, spoken, **({"oracle": "transformers"} | options))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        record_checkpoint(small_checkpoint, 13, spoken, oracle="transformers")
    monkeypatch.setattr(runs, "version", lambda name: "0.1" if name == "transformers" else version(name))
    with pytest.raises(TypeError):
        record_checkpoint(small_checkpoint, 3, spoken, oracle="transformers")


def test_transcripts_of_a_checkpoint_that_is_written_meanwhile_are_kept_nowhere(
    small_checkpoint: Checkpoint, spoken: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run, of the same file made whole again, would go on from them."""
    path = Path(shutil.copy(small_checkpoint.path, tmp_path / "mine.nemo"))
    taken: list[str] = []

    class WrittenAfterOne:
        def transcribe(self, audio: object, language: str) -> Transcript:  # noqa: ARG002
            taken.append(language)
            if len(taken) == 2:
                path.touch()
            return Transcript([], [], "", None, 1.0)

    monkeypatch.setattr("verify.references.transformers.TransformersStreaming", lambda *_: WrittenAfterOne())
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"mine\.nemo: was changed or replaced while it was in use; run again"):
        record_checkpoint(open_checkpoint(path), 3, spoken, oracle="transformers")
    (kept,) = (tmp_path / "cache" / "oracles").iterdir()
    assert len(Unfinished(kept)) == 1


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    assert runs.oracle_runs() is None


def no_room(path: Path, mode: str = "r", **_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_audio_that_changes_while_it_is_transcribed_is_kept_nowhere(tmp_path: Path, spoken: list[Utterance]) -> None:
    """Else its transcript would be taken for that of what was there before, or comes there again."""
    whole = record_bundle(tiny_bundle(tmp_path / "a"), spoken)
    own = [each.model_copy(update={"audio_filepath": tmp_path / f"{n}.wav"}) for n, each in enumerate(spoken)]
    for ours, theirs in zip(own, spoken, strict=True):
        shutil.copyfile(theirs.audio_filepath, ours.audio_filepath)

    def changing(unfinished: Unfinished | None) -> list[Transcript]:
        def each(numbers: Sequence[int]) -> Generator[tuple[int, Transcript]]:
            for number in numbers:
                if number == 1:
                    soundfile.write(own[1].audio_filepath, speech(0.5, seed=7), 16_000)
                yield number, whole.transcripts[number]

        return shards._collected(each, own, "transcribing", unfinished)

    for cache in (tmp_path / "cache", None):
        shutil.copyfile(spoken[1].audio_filepath, own[1].audio_filepath)
        with pytest.raises(UserError, match=r"1\.wav: changed while it was transcribed"):
            runs._record(whole.side, own, "manifest", changing, lambda: 1, cache)
    (kept,) = (tmp_path / "cache").iterdir()
    assert len(Unfinished(kept)) == 1


def test_a_home_that_is_full_costs_no_transcripts(
    tmp_path: Path, spoken: list[Utterance], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "a")
    whole = record_bundle(bundle, spoken)
    here, home = tmp_path / "here", tmp_path / "home"
    save = runs.save_transcripts

    def full(path: Path, run: Run) -> None:
        if path.parent == home:
            raise UserError(f"{path}: cannot be written (No space left on device)")
        save(path, run)

    monkeypatch.setattr(runs, "save_transcripts", full)

    def recorded(cache: Path) -> Run:
        return runs._record(whole.side, spoken, "manifest", lambda _: whole.transcripts, lambda: 1, cache, home=home)

    def recorded_one_by_one(unfinished: Unfinished | None) -> list[Transcript]:
        assert unfinished is not None
        for each, transcript in zip(spoken, whole.transcripts, strict=True):
            unfinished.add(utterance_sha256(each), transcript)
        return whole.transcripts

    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", no_room)
        alone = runs._record(whole.side, spoken, "manifest", recorded_one_by_one, lambda: 1, None, home=home)
    assert alone.transcripts == whole.transcripts
    assert capfd.readouterr().err.count("a run that is stopped begins anew") == 1
    runs._record(whole.side, spoken, "manifest", recorded_one_by_one, lambda: 1, None, home=home)
    (list_of_transcripts,) = home.iterdir()
    assert len(Unfinished(list_of_transcripts)) == len(spoken), "stays where the run could not be kept"
    assert "No space left on device" in capfd.readouterr().err
    assert recorded(here).transcripts == whole.transcripts
    assert "No space left on device" in capfd.readouterr().err
    assert len(list(here.iterdir())) == 1
    with pytest.raises(UserError, match="No space left"):
        recorded(home)


def test_a_stored_run_of_something_else_is_refused(
    small_fp32: Bundle, small_checkpoint: Checkpoint, spoken: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record_checkpoint(small_checkpoint, 0, spoken, oracle="transformers")
    assert verify_bundle(small_fp32, run, spoken).utterances == 3

    def changed(**facts: object) -> Run:
        return run.model_copy(update={"side": run.side.model_copy(update=facts)})

    for other, message in (
        (changed(checkpoint={"sha256": "d" * 64}), "comes from checkpoint dddddddddddd"),
        (
            changed(versions={"transformers": "5.13.0", "torch": version("torch")}),
            "transformers 5.13.0, and .* install",
        ),
        (changed(versions={}), "with transformers an unknown version"),
        (changed(chunk_ms=1120.0), "in chunks of 1120 ms, .* asks for 80 ms"),
        (changed(lookahead=3, chunk_ms=320.0), "has lookahead 3"),
    ):
        with pytest.raises(UserError, match=message):
            verify_bundle(small_fp32, other, spoken)

    monkeypatch.setattr("verify.runs.installed_version", lambda _: None)
    runs.require_as_installed(changed(versions={"transformers": "5.13.0"}))


def reached(*names: str) -> set[str]:
    """All of our modules that these import."""
    imports = module_imports()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        if (each := waiting.pop()) not in seen:
            seen.add(each)
            waiting += imports[each]
    return seen


def test_transformers_comes_without_our_way_to_nemo() -> None:
    assert "export.checkpoint.nemo" in reached("verify.references.nemo")
    assert "export.checkpoint.nemo" not in reached("verify.references.transformers")


def test_an_oracles_code_is_all_that_it_imports() -> None:
    """And none of what judges, so that edits there keep the recorded runs."""
    seen = reached("verify.references.nemo", "verify.references.transformers", "verify.data.manifest")
    files = {file for pattern in ORACLE_CODE for file in ROOT.glob(pattern)}
    covered = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    rooms = {"export", "export.graphs", "verify", "verify.runtimes"}  # folders' own files, which say nothing
    assert seen - covered <= rooms
    assert not any(name.startswith(("verify.scoring", "export.graphs")) for name in covered - {"export.graphs.modules"})


def test_transformers_where_it_is_missing_is_named_with_its_extra(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(runs, "version", absent)
    with pytest.raises(ModuleNotFoundError) as failure:
        runs.checkpoint_side(small_checkpoint, 0, oracle="transformers")
    assert missing_extra(failure.value) == "transformers is not installed; pip install 'nemotron-ov[transformers]'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run-by", "both"], "is no checkpoint; give one as --reference, or leave it out"),
        (["--run-by", "whisper"], "--run-by"),
    ],
)
def test_run_by_needs_a_checkpoint_and_one_of_its_names(
    tmp_path: Path, arguments: Sequence[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, reference = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b")
    done = run_here(capfd, "verify", folder.path, "--reference", reference.path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lookahead", [0, 3, 6, 13])
def test_on_the_demo_set_transformers_differs_from_nemo_in_80_ms_steps_only(
    lookahead: int, demo_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/oracles.md is what this prints."""
    from export.pipeline import export_checkpoint

    utterances = read_manifest(default_manifest())
    chunk_ms = 80 * (lookahead + 1)
    bundle = export_checkpoint(demo_checkpoint, tmp_path / "fp32", lookahead=lookahead, chunk_ms=chunk_ms)
    rows = {}
    for start, nemo_start in (("clean", False), ("NeMo's", True)):
        report = verify_bundle(
            bundle, demo_checkpoint, utterances, oracles=["nemo", "transformers"], nemo_start=nemo_start
        )
        rows[start] = report
        assert report.agreement
        assert report.witness_speed
        with capsys.disabled():
            print(  # noqa: T201
                f"\n| {lookahead} | {report.reference.chunk_ms:g} | {start} | "
                + " | ".join(str(count) for count in report.agreement.model_dump().values())
                + f" | {report.wer:.2f} | {report.reference_wer:.2f} |"
            )
        assert report.exact_match == 1.0, "NeMo and ours agree whatever the start"
    assert rows["clean"].agreement
    assert rows["clean"].agreement.all == len(utterances), "in clean steps all three agree"
    begun = rows["NeMo's"].agreement
    assert begun
    if lookahead:
        assert begun.all == len(utterances)
    else:
        assert begun.target_and_reference > 0, "eight zero frames that NeMo's second window sees"
        assert begun.all + begun.target_and_reference == len(utterances)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_recordings_that_end_in_the_middle_of_a_word(
    demo_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole chunks are the same; the zeros that make the last chunk whole may change the tokens of that."""
    transformers, nemo = TransformersStreaming(demo_checkpoint, 13), NemoStreaming(demo_checkpoint, 13)
    same = 0
    utterances = read_manifest(default_manifest())
    for utterance in utterances:
        audio = load_utterance(utterance, 16000)
        cut = np.ascontiguousarray(audio[: len(audio) * 2 // 3 // 160 * 160])
        both = [each.transcribe(cut, utterance.target_lang) for each in (transformers, nemo)]
        assert defined(both[0], 13) == defined(both[1], 13)
        same += both[0].tokens == both[1].tokens
    with capsys.disabled():
        print(f"\n{same} of {len(utterances)} recordings that end in mid-word have the same tokens")  # noqa: T201
