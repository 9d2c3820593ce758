"""Collecting calibration samples: real streams, balanced, seeded, and never the evaluation audio."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import soundfile

from export.bundle import Bundle
from export.contract import expected_ports
from export.demo import CALIBRATION, MANIFEST
from export.errors import NOT_DECIDED, UserError
from quantize.samples import CALIBRATED, INDEX, CalibrationData, Inputs, Origin
from tests.helpers.command import assert_user_error, run_here, run_process
from tests.helpers.tiny_bundle import speech, tiny_bundle
from verify import collect as calibration
from verify.collect import audio_sha256, collect, default_utterances, matching_recordings, with_noise
from verify.data.audio import load_audio
from verify.data.layouts import folder_utterances
from verify.data.manifest import Utterance, read_manifest
from verify.reservoirs import Reservoir, Reservoirs, generator


def utterance(folder: Path, name: str, language: str, seconds: float, seed: int) -> Utterance:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, speech(seconds, seed), 16_000, subtype="PCM_16")
    return Utterance(audio_filepath=file, text="", target_lang=language)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A tiny folder; the evaluation set is one recording."""
    evaluated = utterance(tmp_path, "evaluated.wav", "en-US", 0.5, 99)
    manifest = tmp_path / "evaluation.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(evaluated.audio_filepath), "text": ""}))
    monkeypatch.setattr(calibration, "default_manifest", lambda: manifest)
    return tiny_bundle(tmp_path / "fp32")


@pytest.fixture
def audio(tmp_path: Path) -> list[Utterance]:
    """Six recordings of two languages, 0.8 s (5 steps) each, one language twice as often."""
    languages = ("en-US", "en-US", "de-DE") * 2
    return [utterance(tmp_path, f"{seed}.wav", language, 0.8, seed) for seed, language in enumerate(languages)]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def balance(data: CalibrationData, graph: str, count: int) -> Sequence[int]:
    return list(Counter(origin.language for origin in data.origins(graph)[:count]).values())


def test_every_prefix_is_balanced(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    data = collect(tiny, audio, tmp_path / "set", samples=17)
    assert data.size("encoder") == 17
    for graph in CALIBRATED:
        assert data.size(graph) >= 17
        for count in range(2, 18):
            shares = balance(data, graph, count)
            assert len(shares) == 2
            assert max(shares) - min(shares) <= 1, (graph, count)
    firsts = [origin.call == 0 for origin in data.origins("encoder")]
    assert sum(firsts) == 3, "one in five"
    assert any(firsts[:5])


def test_seed_decides(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    sets = [
        collect(tiny, audio, tmp_path / f"set{place}", samples=8, seed=seed) for place, seed in enumerate((3, 3, 4))
    ]
    same, again, other = (contents(each.path) for each in sets)
    assert same == again
    assert sets[0].sha256 == sets[1].sha256 != sets[2].sha256
    assert all(same[name] != other[name] for name in other if name.endswith(".npz"))


def test_some_streams_have_noise(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    noisy, clean = (collect(tiny, audio, tmp_path / f"{noise}", samples=60, noise=noise) for noise in (True, False))
    ratios = [origin.snr_db for origin in noisy.origins("encoder")]
    met = {origin.audio for origin in noisy.origins("encoder") if origin.snr_db is not None}
    assert 0.1 < sum(ratio is not None for ratio in ratios) / len(ratios) < 0.5
    assert {ratio for ratio in ratios if ratio is not None} <= {round(0.1 * tenth, 1) for tenth in range(50, 301)}
    assert all(origin.snr_db is None for origin in clean.origins("encoder"))
    mels = [
        {(origin.runtime, origin.audio, origin.call): sample["mel"] for origin, sample in paired(data, "encoder")}
        for data in (noisy, clean)
    ]
    changed = {key[1] for key in mels[0].keys() & mels[1].keys() if not np.array_equal(mels[0][key], mels[1][key])}
    assert changed == met


def test_noise_has_the_ratio_that_it_is_said_to_have() -> None:
    audio = speech(2.0, 1)
    for snr_db in (5.0, 30.0):
        noise = with_noise(audio, snr_db, np.random.default_rng(0)) - audio
        assert 10 * np.log10(np.mean(audio**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.1)
    silence = np.zeros(1000, np.float32)
    assert not with_noise(silence, 5.0, np.random.default_rng(0)).any()


def test_a_reservoir_is_a_fair_draw(tmp_path: Path) -> None:
    """Each of 12 samples is kept in about 4 of 12 draws."""
    kept: Counter[int] = Counter()
    for seed in range(120):
        reservoir = Reservoir(tmp_path / str(seed), 4, generator(seed))
        for call in range(12):
            origin = Origin(language="auto", audio=0, runtime="streaming", prompt="auto", call=call)
            reservoir.offer({"x": np.array([call])}, origin)
        held = reservoir.kept()
        assert len(held) == 4
        assert all(int(np.load(file)["x"][0]) == origin.call for file, origin in held)
        kept.update(origin.call for _, origin in held)
    # 40 expected, with a standard deviation of 5; a draw that only ever keeps the first or last has 120 and 0.
    assert all(20 <= kept[call] <= 60 for call in range(12)), kept


def test_evaluation_audio_is_never_used(
    tiny: Bundle, audio: list[Utterance], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found by its samples, so that copies in other files and formats are found too."""
    samples, rate = soundfile.read(tmp_path / "evaluated.wav", dtype="int16")
    soundfile.write(tmp_path / "copy.flac", samples, rate)
    copy = Utterance(audio_filepath=tmp_path / "copy.flac", text="", target_lang="de-DE")
    data = collect(tiny, [*audio, copy], tmp_path / "set", samples=8)
    assert data.index.excluded == 1
    assert {each["name"] for each in data.index.audio} == {each.audio_filepath.name for each in audio}
    assert "left out 1 recordings that belong to an evaluation set, copy.flac among them" in capfd.readouterr().err

    with pytest.raises(UserError, match=r"copy\.flac: belongs to an evaluation set, and so does all other audio"):
        collect(tiny, [copy], tmp_path / "none")
    assert not (tmp_path / "none").exists()

    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"audio_filepath": str(audio[0].audio_filepath), "text": ""}))
    data = collect(tiny, audio, tmp_path / "set2", samples=8, exclude=[mine])
    assert audio[0].audio_filepath.name not in {each["name"] for each in data.index.audio}
    kept_out = json.loads((data.path / INDEX).read_text())["evaluation"]
    assert [each["name"] for each in kept_out] == ["evaluation.jsonl", "mine.jsonl"]
    assert kept_out[1]["sha256"] == hashlib.sha256(mine.read_bytes()).hexdigest()


def test_evaluation_audio_that_cannot_be_read_is_said_and_the_rest_still_left_out(
    tiny: Bundle, audio: list[Utterance], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sweep leaves such a recording out, so its calibration does not end at it."""
    bad, mine = tmp_path / "bad.wav", tmp_path / "mine.jsonl"
    bad.write_bytes(b"RIFF")
    listed = [{"audio_filepath": str(file), "text": ""} for file in (bad, audio[0].audio_filepath)]
    mine.write_text("\n".join(map(json.dumps, listed)))
    data = collect(tiny, audio, tmp_path / "set", samples=8, exclude=[mine])
    assert list(data.unusable) == [str(bad)]
    assert data.index.excluded == 1
    assert f"warning: {bad}" in capfd.readouterr().err
    mine.write_text(json.dumps(listed[0]))
    with pytest.raises(UserError, match=r"mine\.jsonl: none of its 1 recordings can be read; the first: .*bad\.wav"):
        collect(tiny, audio, tmp_path / "none", exclude=[mine])
    assert not (tmp_path / "none").exists()


def test_parts_of_evaluation_audio_are_never_used(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    """Whichever of the two manifests cuts the file."""
    evaluated = Utterance(audio_filepath=tmp_path / "evaluated.wav", offset=0.1, duration=0.2)
    data = collect(tiny, [*audio, evaluated], tmp_path / "set", samples=8)
    assert data.index.excluded == 1
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"audio_filepath": str(audio[0].audio_filepath), "offset": 0.4, "duration": 0.2}))
    halves = [audio[0].model_copy(update={"offset": begin, "duration": 0.4}) for begin in (0.0, 0.4)]
    data = collect(tiny, [*audio[1:], audio[0], *halves], tmp_path / "set2", samples=8, exclude=[mine])
    assert audio[0].audio_filepath.name not in {each["name"] for each in data.index.audio}
    assert data.index.excluded == 3


def test_parts_of_a_file_are_recordings_of_their_own(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    parts = [audio[0].model_copy(update={"offset": begin, "duration": 0.32}) for begin in (0.0, 0.32)]
    data = collect(tiny, parts, tmp_path / "set", samples=8)
    assert len({each["sha256"] for each in data.index.audio}) == 2
    steps = {origin.call for origin in data.origins("encoder") if origin.runtime == "generation1"}
    assert max(steps) == 1, "0.32 s are two steps, the file has five"
    whole = audio_sha256(load_audio(audio[0].audio_filepath, 16000))
    assert set(data.audio_sha256) == {whole, *(each["sha256"] for each in data.index.audio)}
    assert matching_recordings(data.audio_sha256, audio, 16000) == audio[0].audio_filepath.name, (
        "the whole holds what was used"
    )


def test_a_recording_counts_once(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    data = collect(tiny, [*audio, *audio], tmp_path / "set", samples=8)
    assert len(data.index.audio) == len(audio)


def test_only_as_much_audio_is_run_as_is_needed(tiny: Bundle, tmp_path: Path) -> None:
    many = [utterance(tmp_path / "many", f"{seed}.wav", "auto", 0.8, seed) for seed in range(20)]
    few, others = (collect(tiny, many, tmp_path / f"set{seed}", samples=5, seed=seed) for seed in (0, 1))
    assert len(few.index.audio) == len(others.index.audio) == 4, "4 × 5 steps of 5 each"
    assert few.index.audio != others.index.audio


def test_a_folder_of_audio(tiny: Bundle, tmp_path: Path) -> None:
    for name in ("b/2.WAV", "1.flac"):
        utterance(tmp_path / "folder", name, "auto", 0.6, len(name))
    (tmp_path / "folder" / "notes.txt").write_text("no audio")
    found = folder_utterances(tmp_path / "folder", language="auto", text=False)
    assert [each.audio_filepath.name for each in found] == ["1.flac", "2.WAV"]
    data = collect(tiny, found, tmp_path / "set", samples=4)
    assert {origin.prompt for origin in data.origins("encoder")} == {"auto"}
    with pytest.raises(UserError, match="fp32: holds no audio"):
        folder_utterances(tiny.path)


def test_a_recipes_folder_is_refused(tmp_path: Path, audio: list[Utterance]) -> None:
    with pytest.raises(UserError, match="was made by recipe int8; give the fp32 folder"):
        collect(tiny_bundle(tmp_path / "int8", recipe={"name": "int8"}), audio, tmp_path / "set")


def test_a_damaged_folder_is_refused(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    weights = tiny.graph_path("encoder").with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"nemotron_encoder\.bin differ from what was written; regenerate the folder"):
        collect(tiny, audio, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_force_replaces_nothing_but_calibration_sets(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    out = tmp_path / "set"
    collect(tiny, audio, out, samples=4)
    first = contents(out)
    with pytest.raises(UserError, match="already exists; add --force"):
        collect(tiny, audio, out, samples=8)
    collect(tiny, audio, out, samples=8, force=True)
    assert contents(out) != first
    (out / INDEX).unlink()
    collect(tiny, audio, out, samples=4, force=True)
    assert contents(out) == first, "half a set is ours too"
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which is no part of a calibration set"):
        collect(tiny, audio, out, force=True)
    assert (out / "thesis.txt").read_text() == "mine"


def test_the_source_is_never_replaced(tiny: Bundle, audio: list[Utterance], tmp_path: Path) -> None:
    before = contents(tiny.path)
    (tmp_path / "link").symlink_to(tiny.path)
    for target in (tiny.path, tiny.path.parent, tmp_path / "link", tiny.path / ".." / tiny.path.name):
        with pytest.raises(UserError, match="is or holds the source folder"):
            collect(tiny, audio, target, force=True)
    other = tiny_bundle(tmp_path / "other")
    with pytest.raises(UserError, match=r"holds metadata\.json, which is no part of a calibration set"):
        collect(tiny, audio, other.path, force=True)
    assert contents(tiny.path) == before


def test_only_frames_that_decide_are_joint_samples(tiny: Bundle) -> None:
    """The streaming runtime shows the joint all frames left; those behind an emission get another state."""
    offered: list[Inputs] = []

    class Keep(Reservoirs):
        def __init__(self) -> None: ...

        def offer(self, *sample: Any) -> None:
            offered.append(sample[1])

    sampler = calibration._Sampler(tiny, Keep())
    sampler.begin(Origin(language="auto", audio=0, runtime="streaming", prompt="auto", call=0))
    meta = tiny.metadata
    given = {
        "encoder": np.arange(5 * meta.encoder_dim, dtype=np.float32).reshape(1, meta.encoder_dim, 5),
        "decoder": np.zeros((1, meta.decoder_hidden, 1), np.float32),
    }
    logits = np.zeros((1, 5, 1, meta.vocab_size + 1), np.float32)
    logits[0, :, 0, meta.blank_idx] = 1.0

    class Ran:
        name = "joint"

        def output(self, name: str) -> Any:
            return logits if name == "logits" else given[name]

    ran: Any = Ran()
    sampler.after(ran)
    assert len(offered) == 5, "all blank"
    logits[0, 2, 0, 1] = 2.0
    sampler.after(ran)
    assert len(offered) == 5 + 3, "the third emits"
    np.testing.assert_array_equal(offered[-1]["encoder"], given["encoder"][:, :, 2:3])


def test_a_full_disk_is_one_line(
    tiny: Bundle, audio: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"set: cannot be written \(No space left on device\); make room"):
        collect(tiny, audio, tmp_path / "set")
    assert not [file for file in tmp_path.iterdir() if "set" in file.name]


# The demo checkpoint: what is stored is what a stream holds.


@pytest.fixture(scope="module")
def demo_set(demo_fp32: Bundle, tmp_path_factory: pytest.TempPathFactory) -> CalibrationData:
    """Four recordings of two languages."""
    chosen = [each for each in default_utterances() if each.audio_filepath.stem in ("003-en-US", "004-en-US")]
    chosen += [each for each in default_utterances() if each.audio_filepath.stem in ("018-de-DE", "019-de-DE")]
    return collect(demo_fp32, chosen, tmp_path_factory.mktemp("calibration") / "set", samples=40, threads=1)


def paired(data: CalibrationData, graph: str) -> list[tuple[Any, Inputs]]:
    return list(zip(data.origins(graph), data.samples(graph), strict=True))


def test_samples_are_the_graphs_inputs(demo_fp32: Bundle, demo_set: CalibrationData) -> None:
    ports = expected_ports(demo_fp32.metadata)
    for graph in CALIBRATED:
        assert demo_set.size(graph) >= 30
        for sample in demo_set.samples(graph):
            found = {(name, array.shape, array.dtype) for name, array in sample.items()}
            numpy_types = {"f32": np.dtype(np.float32), "i32": np.dtype(np.int32)}
            assert found == {(port.name, port.shape, numpy_types[port.dtype]) for port in ports[graph].inputs}
    demo_set.check_fits(demo_fp32)


def test_both_runtimes_and_prompts_are_met(demo_fp32: Bundle, demo_set: CalibrationData) -> None:
    prompts, lead = demo_fp32.metadata.prompt_dictionary, demo_fp32.metadata.lead_mel_frames
    assert prompts
    met = set()
    for origin, sample in paired(demo_set, "encoder"):
        assert sample["prompt_id"][0] == prompts[origin.prompt]
        assert origin.prompt in ("auto", origin.language)
        met.add((origin.runtime, origin.prompt == "auto"))
        if origin.call == 0:
            assert sample["cache_len"][0] == (-lead if origin.runtime == "streaming" else 0)
            assert not sample["cache_channel"].any()
            assert not sample["cache_time"].any()
        else:
            assert sample["cache_len"][0] > 0
            assert sample["cache_channel"].any()
            assert sample["cache_time"].any()
    assert len(met) == 4
    assert max(int(sample["cache_len"][0]) for sample in demo_set.samples("encoder")) == 56, "a full cache"


def test_an_encoder_step_leads_to_the_next(demo_fp32: Bundle, demo_set: CalibrationData) -> None:
    compiled = ov.Core().compile_model(
        demo_fp32.graph_path("encoder"), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    )
    steps = {(origin.runtime, origin.audio, origin.call): sample for origin, sample in paired(demo_set, "encoder")}
    pairs = 0
    for (runtime, recording, call), sample in steps.items():
        following = steps.get((runtime, recording, call + 1))
        if following is not None:
            outputs = compiled(sample)
            for name in ("cache_channel", "cache_time", "cache_len"):
                np.testing.assert_allclose(outputs[f"{name}_out"], following[name], atol=1e-5)
            pairs += 1
    assert pairs >= 5


def test_decoder_and_joint_inputs_come_from_decoding(demo_fp32: Bundle, demo_set: CalibrationData) -> None:
    meta = demo_fp32.metadata
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    decoder, joint = (
        ov.Core().compile_model(demo_fp32.graph_path(name), "CPU", config) for name in ("decoder", "joint")
    )
    tokens = Counter(int(sample["token"][0, 0]) for sample in demo_set.samples("decoder"))
    assert len(tokens) > 20
    begun = [sample for sample in demo_set.samples("decoder") if sample["token"][0, 0] == meta.blank_idx]
    assert all(not sample["h_in"].any() for sample in begun), "blank begins a stream and never comes again"
    predicted = [decoder(sample)["decoder_out"].copy() for sample in demo_set.samples("decoder")]
    best = []
    for sample in demo_set.samples("joint"):
        best.append(int(joint(sample)["logits"].argmax()))
        assert np.abs(sample["decoder"]).max() <= 1.0, "an LSTM's output"
    known = sum(
        any(np.allclose(sample["decoder"], one, atol=1e-5) for one in predicted) for sample in demo_set.samples("joint")
    )
    assert known > 40, "outputs of stored decoder inputs"
    emitted = sum(token != meta.blank_idx for token in best)
    assert 0 < emitted < len(best), "frames of both kinds"
    assert {token for token in best if token != meta.blank_idx} & set(tokens)


# The command.


def test_the_verb(demo_fp32: Bundle, tmp_path: Path) -> None:
    lines = CALIBRATION.read_text(encoding="utf-8").splitlines()
    short = tmp_path / "short.jsonl"
    chosen = [json.loads(lines[place]) for place in (5, 16)]
    for each in chosen:
        each["audio_filepath"] = str(CALIBRATION.parent / each["audio_filepath"])
        del each["text"]  # nothing is scored
    short.write_text("\n".join(map(json.dumps, chosen)))
    out = tmp_path / "set"
    done = run_process("calibrate", demo_fp32.path, out, "--manifest", short, "--samples", "6", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    data = CalibrationData.open(out)
    assert printed["sha256"] == data.sha256
    assert printed["languages"]["encoder"] == {"de-DE": 3, "es-US": 3}
    assert printed["bytes"] == sum(len(content) for content in contents(out).values())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["set", "short.jsonl"]


def test_the_verbs_errors(tiny: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    both = run_here(capfd, "calibrate", tiny.path, out, "--manifest", MANIFEST, "--audio", tmp_path)
    assert_user_error(both, "--manifest", "choose one")
    assert_user_error(run_here(capfd, "calibrate", tiny.path, out, "--audio", tmp_path / "x"), "x: no such folder")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.wav").write_bytes(b"RIFF")
    assert_user_error(run_here(capfd, "calibrate", tiny.path, out, "--audio", broken), "a.wav")
    assert_user_error(run_here(capfd, "calibrate", tiny.path, out, "--exclude", tmp_path / "y"), "y: no such manifest")
    assert_user_error(run_here(capfd, "calibrate", tiny.path, tiny.path, "--force"), "is or holds the source folder")
    assert not out.exists()
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]


def test_recordings_that_cannot_be_used_are_in_the_result_and_the_status(
    tiny: Bundle, audio: list[Utterance], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    listed = [{"audio_filepath": str(each.audio_filepath), "target_lang": each.target_lang} for each in audio]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, [*listed, {"audio_filepath": str(bad)}])))
    arguments = ["calibrate", tiny.path, tmp_path / "set", "--manifest", tmp_path / "m.jsonl", "--samples", "8"]
    done = run_here(capfd, *arguments, "--json")
    assert done.returncode == NOT_DECIDED
    assert list(json.loads(done.stdout)["unusable"]) == [str(bad)]
    people = run_here(capfd, *arguments, "--force")
    assert people.returncode == NOT_DECIDED
    assert "bad.wav" in people.stdout


def test_the_demo_evaluation_set_is_refused(demo_fp32: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="belongs to an evaluation set, and so does all other audio given"):
        collect(demo_fp32, read_manifest(MANIFEST)[:3], tmp_path / "set")
