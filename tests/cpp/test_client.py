"""The C++ client's tokens are those of the Python runtimes: both generations, both precisions, FP32 and INT8."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino.utils
import pytest
import soundfile
from numpy.typing import NDArray

from export.bundle import Bundle
from tests.helpers.tiny_bundle import speechlike
from verify.data.audio import load_audio
from verify.data.manifest import default_manifest, read_manifest
from verify.runtimes.generation1 import Generation1
from verify.runtimes.generation2 import Generation2
from verify.runtimes.graph import CLIENTS_CONFIG, FP32_CONFIG

SOURCE = Path(__file__).parent
RUNTIMES = {1: Generation1, 2: Generation2}
CONFIGS = {"default": CLIENTS_CONFIG, "f32": FP32_CONFIG}
RATE = 16000

pytestmark = pytest.mark.xdist_group("cpp")  # built once


def build(source: Path, folder: Path) -> Path:
    """Compile a copy of the client; skips where a tool is missing."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    openvino_dir = openvino.utils.get_cmake_path()
    configure: list[str | Path] = ["cmake", "-S", source, "-B", folder, f"-DOpenVINO_DIR={openvino_dir}"]
    configured = subprocess.run(configure, capture_output=True, text=True, check=False)
    if "nlohmann_json" in configured.stderr:
        pytest.skip("nlohmann_json is not installed (Debian: nlohmann-json3-dev)")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(["cmake", "--build", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stderr
    return folder / "nemotron_client"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SOURCE, tmp_path_factory.mktemp("cpp"))


def run(client: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([client, *map(str, arguments)], capture_output=True, text=True, check=False)


def transcribe(client: Path, folder: Bundle, files: Sequence[Path], *options: object) -> list[dict[str, object]]:
    done = run(client, folder.path, *files, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def recordings(folder: Path, count: int) -> dict[Path, NDArray[np.float32]]:
    """Demo recordings, spread over the languages, as WAV files of exactly the samples that Python reads."""
    every = read_manifest(default_manifest())
    found = {}
    for index, utterance in enumerate(every[:: len(every) // count][:count]):
        samples = load_audio(utterance.audio_filepath, RATE)
        file = folder / f"{index}.wav"
        soundfile.write(file, samples, RATE, subtype="FLOAT")
        found[file] = samples
    return found


def differences(
    client: Path, folder: Bundle, audio: dict[Path, NDArray[np.float32]], generation: int, precision: str
) -> list[str]:
    """Recordings whose tokens, text or language are not those of the Python runtime."""
    options = ("--language", "de", "--generation", generation, "--precision", precision)
    lines = transcribe(client, folder, list(audio), *options)
    runtime = RUNTIMES[generation](folder, config=CONFIGS[precision])
    wrong = []
    for (file, samples), line in zip(audio.items(), lines, strict=True):
        expected = runtime.transcribe(samples, "de")
        tag = None if expected.language is None else f"<{expected.language}>"  # this client keeps the brackets
        if (line["tokens"], line["text"], line["language"]) != (expected.tokens, expected.text, tag):
            wrong.append(file.name)
    return wrong


@pytest.mark.parametrize(("generation", "precision"), [(1, "default"), (2, "f32")])
def test_tokens_are_those_of_the_python_runtimes(
    client: Path, demo_int8: Bundle, tmp_path: Path, generation: int, precision: str
) -> None:
    audio = recordings(tmp_path, 3)
    assert differences(client, demo_int8, audio, generation, precision) == []
    assert len({tuple(line["tokens"]) for line in transcribe(client, demo_int8, list(audio))}) == 3  # type: ignore[arg-type]


@pytest.mark.heavy
@pytest.mark.parametrize("precision", CONFIGS)
@pytest.mark.parametrize("generation", RUNTIMES)
@pytest.mark.parametrize("folder", ["demo_fp32", "demo_int8"])
def test_every_combination_gives_the_python_runtimes_tokens(
    client: Path, request: pytest.FixtureRequest, tmp_path: Path, folder: str, generation: int, precision: str
) -> None:
    bundle: Bundle = request.getfixturevalue(folder)
    assert differences(client, bundle, recordings(tmp_path, 12), generation, precision) == []


MUTATIONS = {
    "one frame more is carried": ('carried_frames_(metadata_.at("pre_encode_cache"))', "carried_frames_(10)"),
    "state moves on blank": ("if (token == blank_)", "if (token == blank_ && symbol > 0)"),
    "caches stay cold": ('encoder_.output(name + "_out").copy_to(cache);', "(void)cache;"),
}
"""Errors of a loop, each a change of one place of the client."""


@pytest.mark.heavy
@pytest.mark.parametrize("error", MUTATIONS)
def test_a_wrong_loop_is_found(demo_fp32: Bundle, tmp_path: Path, error: str) -> None:
    wrong = tmp_path / "source"
    shutil.copytree(SOURCE, wrong, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (wrong / "client.cpp").read_text(encoding="utf-8")
    right, mutated = MUTATIONS[error]
    assert text.count(right) == 1
    (wrong / "client.cpp").write_text(text.replace(right, mutated), encoding="utf-8")
    broken = build(wrong, tmp_path / "build")
    assert differences(broken, demo_fp32, recordings(tmp_path, 12), 1, "f32")


@pytest.mark.parametrize("fixture", ["small_english_fp32", pytest.param("small_80ms_fp32", marks=pytest.mark.heavy)])
def test_no_prompt_and_short_chunks(client: Path, request: pytest.FixtureRequest, tmp_path: Path, fixture: str) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    file = tmp_path / "noise.wav"
    samples = speechlike(2.0, 3)
    soundfile.write(file, samples, RATE, subtype="FLOAT")
    for generation in RUNTIMES:
        assert differences(client, bundle, {file: samples}, generation, "f32") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FOLDER"], "nemotron_client FOLDER AUDIO.wav"),
        (["FOLDER", "no.wav"], "no.wav: cannot be opened"),
        (["FOLDER", "text.wav"], "text.wav: is no WAV file"),
        (["FOLDER", "stereo.wav"], "stereo.wav: has 2 channels at 16000 Hz in 16 bits"),
        (["FOLDER", "8k.wav"], "8k.wav: has 1 channels at 8000 Hz"),
        (["FOLDER", "cut.wav"], "cut.wav: ends after 56 of 200 bytes"),
        (["FOLDER", "silent.wav"], "silent.wav: holds no audio"),
        (["empty", "8k.wav"], "nemotron_encoder.xml"),
        (["FOLDER", "8k.wav", "--precision", "f16"], "--precision f16: give default or f32"),
        (["FOLDER", "8k.wav", "--generation", "3"], "--generation 3: give 1 or 2"),
        (["FOLDER", "8k.wav", "--languages", "de"], "--languages: no such option"),
        (["nowhere", "8k.wav"], "nowhere/metadata.json: cannot be opened"),
    ],
)
def test_bad_input_is_one_line(
    client: Path,
    small_fp32: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.wav").write_text("RIFF, but not really")
    soundfile.write("stereo.wav", np.zeros((16, 2)), RATE)
    soundfile.write("8k.wav", np.zeros(16), 8000)
    soundfile.write("whole.wav", np.zeros(100), RATE)
    Path("cut.wav").write_bytes(Path("whole.wav").read_bytes()[:100])
    soundfile.write("silent.wav", np.zeros(0), RATE)
    Path("empty").mkdir()
    for name in ("metadata.json", "nemotron_vocab.json"):
        shutil.copy(small_fp32.path / name, "empty")
    done = run(client, *(str(small_fp32.path) if each == "FOLDER" else each for each in arguments))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_integer_formats_are_read_as_soundfile_reads_them(client: Path, small_fp32: Bundle, tmp_path: Path) -> None:
    samples = speechlike(1.0, 5)
    read = {}
    for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT"):
        file = tmp_path / f"{subtype}.wav"
        soundfile.write(file, samples, RATE, subtype=subtype)
        read[file] = soundfile.read(file, dtype="float32")[0]
    assert differences(client, small_fp32, read, 1, "f32") == []
