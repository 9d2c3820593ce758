"""What a user can get wrong: exit status 2, one line that names the file and the remedy, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.demo import MANIFEST
from export.errors import NOT_DECIDED
from quantize.pipeline import quantize_bundle
from quantize.recipes import get_recipe
from tests.helpers.command import assert_user_error, run_here, run_process

AUDIO = min((MANIFEST.parent / "audio").iterdir())

Damage = Callable[[Path, Path], Path]


def text_file(folder: Path, _: Path) -> Path:
    file = folder / "notes.nemo"
    file.write_text("no archive")
    return file


def truncated(folder: Path, checkpoint: Path) -> Path:
    file = folder / "half.nemo"
    content = checkpoint.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


def a_folder(folder: Path, _: Path) -> Path:
    (folder / "folder.nemo").mkdir()
    return folder / "folder.nemo"


def missing(folder: Path, _: Path) -> Path:
    return folder / "absent.nemo"


@pytest.mark.parametrize("damage", [text_file, truncated, a_folder, missing], ids=lambda damage: str(damage.__name__))
@pytest.mark.parametrize("verb", ["export", "regenerate", "verify"])
def test_bad_checkpoint(
    verb: str,
    damage: Damage,
    tmp_path: Path,
    small_checkpoint: Checkpoint,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file, out = damage(tmp_path, small_checkpoint.path), tmp_path / "out"
    if verb == "export":
        done = run_here(capfd, "export", file, out)
    elif verb == "regenerate":
        done = run_here(capfd, "regenerate", file, "--output", out)
    else:
        bundle: Bundle = request.getfixturevalue("small_fp32")
        done = run_here(capfd, "verify", bundle.path, "--reference", file, "--limit", "1")
    assert_user_error(done, file)
    assert {path.name for path in tmp_path.iterdir()} <= {file.name}


@pytest.mark.parametrize("verb", ["export", "regenerate"])
@pytest.mark.parametrize(
    ("options", "mention"),
    [
        (["--chunk-ms", "100"], "multiple of 80"),
        (["--lookahead", "13", "--chunk-ms", "560"], "--chunk-ms 1120"),
        (["--lookahead", "5"], "--force-lookahead"),
        (["--lookahead", "-1"], "--lookahead -1"),
    ],
    ids=["odd chunk", "small chunk", "untrained lookahead", "negative lookahead"],
)
def test_geometry_that_does_not_fit(
    verb: str,
    options: list[str],
    mention: str,
    tmp_path: Path,
    small_checkpoint: Checkpoint,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    target = [out] if verb == "export" else ["--output", out]
    assert_user_error(run_here(capfd, verb, small_checkpoint.path, *target, *options), mention)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("old", "new"), [("fused", "rewritten"), ("nemo", "nemo")])
def test_the_old_spelling_of_encoder_names_the_new_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    for verb, target in (("export", [tmp_path / "out"]), ("regenerate", ["--output", tmp_path / "out"])):
        assert_user_error(run_here(capfd, verb, "demo", *target, "--graph", old), f"use --encoder {new}")
        assert not any(tmp_path.iterdir())


def test_unknown_encoder_is_a_usage_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_here(capfd, "export", "demo", tmp_path / "out", "--encoder", "onnx")
    assert done.returncode == 2
    assert "rewritten" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "CHECKPOINT", "OUT"],
        ["quantize", "FP32", "OUT", "--recipe", "fp16"],
        ["checkpoint", "random", "OUT/file"],
        ["regenerate", "CHECKPOINT", "--output", "OUT"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_existing_output_is_left_alone(
    arguments: list[str],
    tmp_path: Path,
    small_checkpoint: Checkpoint,
    small_fp32: Bundle,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("mine")
    replaced = {"CHECKPOINT": str(small_checkpoint.path), "FP32": str(small_fp32.path), "OUT": str(out)}
    done = run_here(capfd, *[replaced.get(word, word.replace("OUT/", f"{out}/")) for word in arguments])
    assert_user_error(done, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]
    assert (out / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", ["export", "quantize", "calibrate"])
def test_force_leaves_a_foreign_folder_alone(
    verb: str, tmp_path: Path, small_checkpoint: Checkpoint, small_fp32: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "thesis").mkdir(parents=True)
    (out / "thesis" / "chapter").write_text("mine")
    source = small_checkpoint.path if verb == "export" else small_fp32.path
    done = run_here(capfd, verb, source, out, *(["--recipe", "fp16"] if verb == "quantize" else []), "--force")
    assert_user_error(done, out, "holds thesis", "--force replaces nothing else")
    assert (out / "thesis" / "chapter").read_text() == "mine"


@pytest.mark.parametrize("verb", ["export", "quantize", "regenerate"])
def test_output_below_a_file_cannot_be_written(
    verb: str, tmp_path: Path, small_checkpoint: Checkpoint, small_fp32: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    """A path below a file is unwritable for everyone, root included."""
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    done = run_here(
        capfd,
        *{
            "export": ["export", small_checkpoint.path, out],
            "quantize": ["quantize", small_fp32.path, out, "--recipe", "fp16"],
            "regenerate": ["regenerate", small_checkpoint.path, "--output", out],
        }[verb],
    )
    assert_user_error(done, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output(tmp_path: Path, small_fp32: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o555)
    try:
        done = run_here(capfd, "quantize", small_fp32.path, tmp_path / "out", "--recipe", "fp16")
        assert_user_error(done, tmp_path / "out")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("verb", ["quantize", "regenerate"])
def test_unknown_recipe_names_the_known_ones(
    verb: str, tmp_path: Path, small_checkpoint: Checkpoint, small_fp32: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    first = (
        [small_fp32.path, tmp_path / "out"]
        if verb == "quantize"
        else [small_checkpoint.path, "--output", tmp_path / "out"]
    )
    done = run_here(capfd, verb, *first, "--recipe", "int3")
    assert_user_error(done, "int3", "fp16", "int8")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "", "not json\n", '{"audio_filepath": "absent.wav", "text": ""}\n'])
@pytest.mark.parametrize("verb", ["verify", "regenerate"])
def test_bad_manifest(
    verb: str,
    content: str | None,
    tmp_path: Path,
    small_checkpoint: Checkpoint,
    small_fp32: Bundle,
    capfd: pytest.CaptureFixture[str],
) -> None:
    manifest = tmp_path / "manifest.jsonl"
    if content is not None:
        manifest.write_text(content)
    first = (
        [small_fp32.path, "--reference", small_fp32.path]
        if verb == "verify"
        else [small_checkpoint.path, "--output", tmp_path / "out"]
    )
    assert_user_error(run_here(capfd, verb, *first, "--manifest", manifest), manifest)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["inspect", "transcribe", "verify", "quantize"])
@pytest.mark.parametrize("kind", ["absent", "empty", "half"])
def test_folder_that_is_no_bundle(
    verb: str,
    kind: str,
    tmp_path: Path,
    small_fp32: Bundle,
    short_manifest: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "bundle"
    if kind != "absent":
        folder.mkdir()
    if kind == "half":
        shutil.copy(small_fp32.path / "metadata.json", folder)
    rest: dict[str, list[str | Path]] = {
        "inspect": [],
        "transcribe": [short_manifest],
        "verify": ["--reference", small_fp32.path],
        "quantize": [tmp_path / "out", "--recipe", "fp16"],
    }
    assert_user_error(run_here(capfd, verb, folder, *rest[verb]), folder)
    assert not (tmp_path / "out").exists()


def test_audio_that_is_none(tmp_path: Path, small_fp32: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    assert_user_error(run_here(capfd, "transcribe", small_fp32.path, tmp_path / "text.wav"), tmp_path / "text.wav")
    assert_user_error(run_here(capfd, "transcribe", small_fp32.path, tmp_path / "absent.wav"), tmp_path / "absent.wav")


def test_unknown_language(small_fp32: Bundle, short_manifest: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_here(capfd, "transcribe", small_fp32.path, short_manifest, "--language", "tlh-QO")
    assert_user_error(done, "tlh-QO", "--language")


def test_reference_of_another_checkpoint(
    small_fp32: Bundle,
    small_english_checkpoint: Checkpoint,
    short_manifest: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    done = run_here(
        capfd, "verify", small_fp32.path, "--reference", small_english_checkpoint.path, "--manifest", short_manifest
    )
    assert_user_error(done, "checkpoint")


@pytest.mark.parametrize(
    ("error", "mentions"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ["a file or folder: No space left on device; make room"]),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), ["/data/x: Permission denied; check who may"]),
        (OSError("lines\nof a library"), ["lines of a library; check the path"]),
    ],
    ids=["full disk", "permission", "neither number nor path"],
)
def test_what_the_system_refuses_is_one_line(
    error: OSError,
    mentions: list[str],
    small_fp32: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(_: Bundle) -> list[str]:
        raise error

    monkeypatch.setattr(Bundle, "damaged_files", refuse)
    done = run_here(capfd, "inspect", small_fp32.path)
    assert_user_error(done, *mentions)
    assert done.stderr.count("\n") == 1


def test_a_name_that_is_too_long_is_one_line(
    tmp_path: Path, small_fp32: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / ("x" * 300)
    assert_user_error(run_here(capfd, "quantize", small_fp32.path, out, "--recipe", "fp16"), out, "too long")


def test_error_line_of_a_fresh_process(tmp_path: Path) -> None:
    done = run_process("inspect", tmp_path / "absent")
    assert_user_error(done, tmp_path / "absent")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("language", ["tlh", "english"])
def test_a_language_that_the_folder_lacks_is_refused(
    small_fp32: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str], language: str
) -> None:
    assert_user_error(
        run_here(capfd, "transcribe", small_fp32.path, AUDIO, "--language", language),
        f"--language: '{language}' is no language of this model",
    )
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(AUDIO), "text": "x", "target_lang": language}))
    for verb in (
        ["verify", small_fp32.path, "--reference", small_fp32.path, "--manifest", manifest],
        ["calibrate", small_fp32.path, tmp_path / "set", "--manifest", manifest],
        ["sweep", small_fp32.path, "--output", tmp_path / "sweep", "--manifest", manifest],
        ["bench", small_fp32.path, "--manifest", manifest],
    ):
        assert_user_error(run_here(capfd, *verb), manifest, "line 1", "target_lang", language)


def test_names_of_languages_are_understood(small_fp32: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    known = [
        run_here(capfd, "transcribe", small_fp32.path, AUDIO, "--language", language, "--json")
        for language in ("de-DE", "de_de", "DE")
    ]
    tokens = [json.loads(done.stdout)["transcripts"][0]["tokens"] for done in known]
    assert tokens[0] == tokens[1] == tokens[2]


def test_a_folder_without_prompts_takes_no_language(
    small_english_fp32: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = small_english_fp32.path
    assert_user_error(run_here(capfd, "transcribe", folder, AUDIO, "--language", "de-DE"), folder, "takes no language")
    assert run_here(capfd, "transcribe", folder, AUDIO).returncode == 0
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(AUDIO), "text": "x", "target_lang": "en-US"}))
    unmeasured = tmp_path / "calibration.jsonl"
    recordings = sorted((MANIFEST.parent / "calibration").iterdir())[:3]  # one stream in three is prompted with auto
    lines = [json.dumps({"audio_filepath": str(recording), "target_lang": "en-US"}) for recording in recordings]
    unmeasured.write_text("\n".join(lines))
    collected = run_here(capfd, "calibrate", folder, tmp_path / "set", "--manifest", unmeasured, "--samples", "2")
    assert collected.returncode == 0, collected.stderr
    fp16 = quantize_bundle(Bundle.open(folder), tmp_path / "fp16", get_recipe("fp16")).path
    for runtime in ("streaming", "generation1"):
        verify = ["verify", folder, "--reference", fp16, "--manifest", manifest, "--runtime", runtime]
        assert run_here(capfd, *verify).returncode == NOT_DECIDED, "of one word"


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("nemo", "nemo", ("export", "demo", "OUT", "--oracle", "nemo")),
        ("torch", "export", ("export", "demo", "OUT")),
        ("torch", "export", ("checkpoint", "random", "OUT", "--size", "small")),
    ],
)
def test_a_missing_extra_is_named(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    extra: str,
    arguments: tuple[str, ...],
) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith((f"{module}.", "export.graphs."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    done = run_here(capfd, *(tmp_path / "out" if each == "OUT" else each for each in arguments))
    assert_user_error(done, f"{module} is not installed; pip install 'nemotron-ov[{extra}]'")
    assert not any(tmp_path.iterdir())


def test_a_bug_has_a_status_of_its_own(
    small_fp32: Bundle, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "damaged_files", lambda _: 1 / 0)
    done = run_here(capfd, "inspect", small_fp32.path)
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr


def test_brackets_in_paths_are_kept(small_fp32: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = shutil.copytree(small_fp32.path, tmp_path / "fp32 [a] [/b]")
    out = tmp_path / "[red]int8[/]"
    done = run_here(capfd, "quantize", source, out, "--recipe", "int8")
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    verified = run_here(capfd, "verify", out, "--reference", source, "--limit", "1", "--ignore-text")
    assert verified.returncode in (1, NOT_DECIDED), verified.stderr
    assert f"transcribing with {out.name}" in verified.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("scripts.cli.app.command", exhausted)
    done = run_here(capfd, "recipes")
    assert_user_error(done, "not enough memory", "GB are available")


def test_ctrl_c_while_the_verbs_are_loaded_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import scripts.cli.app

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts.cli.app, "command", interrupted)
    done = run_here(capfd, "inspect")
    assert (done.returncode, done.stderr) == (130, "")
