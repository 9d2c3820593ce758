"""The embedded demo checkpoint, evaluation and calibration sets: sizes, class, configuration, completeness."""

import itertools
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from export.demo import CALIBRATION, CHECKPOINT, MANIFEST
from scripts.checkpoints.demo.corpus import LANGUAGES, Split, split_of
from scripts.checkpoints.demo.speech import VARIANTS

MAX_BYTES = 15_000_000
MAX_CALIBRATION_BYTES = 2_000_000
MAX_PARAMETERS = 4_000_000


def read(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    return read(MANIFEST)


@pytest.fixture(scope="module")
def calibration() -> list[dict[str, Any]]:
    return read(CALIBRATION)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with tarfile.open(CHECKPOINT) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def config(unpacked: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((unpacked / "model_config.yaml").read_text(encoding="utf-8"))
    return loaded


def test_module_needs_neither_torch_nor_nemo() -> None:
    code = "import sys, export.demo; print({'torch', 'nemo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_checkpoint_is_small(unpacked: Path) -> None:
    import torch

    assert CHECKPOINT.stat().st_size <= MAX_BYTES
    weights = torch.load(unpacked / "model_weights.ckpt", weights_only=True)
    learned = {name: value for name, value in weights.items() if not name.startswith("preprocessor.")}
    assert sum(value.numel() for value in learned.values()) <= MAX_PARAMETERS
    assert {name.split(".")[0] for name in learned} == {"encoder", "decoder", "joint", "prompt_kernel"}


def test_checkpoint_is_the_real_class(config: dict[str, Any]) -> None:
    assert config["target"].endswith(".EncDecRNNTBPEModelWithPrompt")
    encoder, preprocessor = config["encoder"], config["preprocessor"]
    assert encoder["att_context_style"] == "chunked_limited"
    assert encoder["att_context_size"] == [[56, 3], [56, 0], [56, 6], [56, 13]]
    assert (encoder["subsampling"], encoder["subsampling_factor"]) == ("dw_striding", 8)
    assert (encoder["causal_downsampling"], encoder["conv_context_size"]) == (True, "causal")
    assert (encoder["conv_kernel_size"], encoder["conv_norm_type"]) == (9, "layer_norm")
    assert (encoder["use_bias"], encoder["xscaling"], encoder["untie_biases"]) == (False, False, True)
    assert (preprocessor["features"], preprocessor["normalize"], preprocessor["n_fft"]) == (128, "NA", 512)


def test_checkpoint_has_prompts_and_tags(config: dict[str, Any]) -> None:
    prompts = config["model_defaults"]["prompt_dictionary"]
    assert config["model_defaults"]["num_prompts"] == 128
    assert prompts["auto"] == 101
    for language in LANGUAGES:
        assert prompts[language.tag] == language.prompt_id
        assert language.piece in config["labels"]
    assert config["tokenizer"]["type"] == "bpe"


def test_evaluation_set_is_complete(entries: list[dict[str, Any]]) -> None:
    assert len(entries) >= 150
    assert {entry["target_lang"] for entry in entries} == {language.tag for language in LANGUAGES}
    names = {entry["audio_filepath"] for entry in entries}
    assert names == {f"audio/{path.name}" for path in (MANIFEST.parent / "audio").iterdir()}
    assert sum((MANIFEST.parent / name).stat().st_size for name in names) <= MAX_BYTES


def test_evaluation_audio_is_readable(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        info = soundfile.info(MANIFEST.parent / entry["audio_filepath"])
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert info.frames / info.samplerate == pytest.approx(entry["duration"], abs=1e-4)
        assert 1.0 <= entry["duration"] <= 25.0
    assert sum(entry["duration"] > 20.0 for entry in entries) >= 3


def test_evaluation_sentences_and_voices_are_unseen(entries: list[dict[str, Any]]) -> None:
    by_length = sorted(entries, key=lambda entry: entry["duration"])
    for entry in by_length:
        assert entry["voice"] in VARIANTS[Split.EVALUATION]
        assert "<" not in entry["text"]
        assert any(split_of(text) is Split.EVALUATION for text in prefixes(entry["text"]))


def test_evaluation_voices_cover_each_language(entries: list[dict[str, Any]]) -> None:
    for language, group in itertools.groupby(entries, key=lambda entry: entry["target_lang"]):
        assert len({entry["voice"] for entry in group}) >= 4, language


def test_calibration_set_is_complete(calibration: list[dict[str, Any]]) -> None:
    assert Counter(entry["target_lang"] for entry in calibration) == {language.tag: 5 for language in LANGUAGES}
    files = [CALIBRATION.parent / entry["audio_filepath"] for entry in calibration]
    assert sorted(files) == sorted((CALIBRATION.parent / "calibration").iterdir())
    assert sum(file.stat().st_size for file in files) <= MAX_CALIBRATION_BYTES
    for file, entry in zip(files, calibration, strict=True):
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert info.frames / info.samplerate == pytest.approx(entry["duration"], abs=1e-4)


def test_calibration_is_neither_training_nor_evaluation(
    calibration: list[dict[str, Any]], entries: list[dict[str, Any]]
) -> None:
    for entry in calibration:
        assert entry["voice"] in VARIANTS[Split.DEVELOPMENT]
        assert any(split_of(text) is Split.DEVELOPMENT for text in prefixes(entry["text"]))
    assert not {entry["text"] for entry in calibration} & {entry["text"] for entry in entries}
    signals = [
        {soundfile.read(manifest.parent / entry["audio_filepath"], dtype="int16")[0].tobytes() for entry in listed}
        for manifest, listed in ((CALIBRATION, calibration), (MANIFEST, entries))
    ]
    assert not signals[0] & signals[1]


def prefixes(text: str) -> list[str]:
    """Every beginning of `text` that ends a sentence: the first sentence may itself hold a full stop."""
    return [text[: place + 1] for place, letter in enumerate(text) if letter in ".?。"]
