"""What ``sweep`` makes of its trials' results, the trials themselves being pretended: rows, calibration."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from export.bundle import Bundle
from export.errors import NOT_DECIDED, UserError
from quantize.groups import Group
from quantize.recipe import Recipe, Tolerance
from quantize.recipe_file import dump_recipe
from quantize.recipes import RECIPES
from quantize.samples import CalibrationData
from scripts.processes import ChildError
from scripts.sweep import calibration, rank_layers, rows, sweep, trial, worker
from scripts.sweep.options import Options
from scripts.sweep.plan import check_room, make_plan, with_recordings
from scripts.sweep.store import Store
from scripts.sweep.task import Task
from scripts.sweep.trial import Trial
from tests.helpers.command import assert_user_error, run_here
from tests.helpers.tiny_bundle import speech, tiny_bundle
from verify.collect import collect
from verify.data.manifest import read_manifest
from verify.data.selection import choose_utterances

UNITS = ("pre_encode", "layers.0", "layers.1", "embedding", "joint")
HARM = {"pre_encode": 2.0, "layers.0": 1.0, "layers.1": 1.0, "embedding": 1.0, "joint": 20.0}
"""What a bit fewer of each costs, in arbitrary units; the joint is what 4 bits hurt."""


def groups() -> list[Group]:
    found = []
    for unit in UNITS:
        graph = {"embedding": "decoder", "joint": "joint"}.get(unit, "encoder")
        name = f"{unit}.conv" if unit.startswith("layers.") else unit
        found.append(Group(name, graph, (f"__module.encoder.{name}.linear1/aten::linear/MatMul",), 10))
    return found


def bits(recipe: Recipe, group: Group) -> int:
    """How a recipe stores a group."""
    for step in recipe.graph(group.graph).compression:
        if not any(re.match(pattern, group.operations[0]) for pattern in step.ignored_scope.patterns):
            return step.kind.bits
    return 16 if recipe.graph(group.graph).precision == "f16" else 32


def spoken(number: int, harm: float) -> dict[str, Any]:
    """A row whose text of 1,000 words lost one word for each unit of harm."""
    words = [f"w{place}" for place in range(1000)]
    sides = {"target": words[round(harm) :], "reference": words}
    outputs = {side: {"tokens": [len(kept)], "text": " ".join(kept)} for side, kept in sides.items()}
    return {"audio": f"{number}.wav", "audio_seconds": 1.0, "language": "en-US", "text": "ab", **outputs}


class Pretended:
    """Stands for making, comparing and measuring; counts what was asked for.

    All in 4 bits gains points by luck and changes most tokens; apart from that, points and changed tokens grow with
    what was taken away.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.tasks: list[Task] = []
        self._recipes: dict[Path, Recipe] = {}

    def run(self, task: Task, *, stderr: str = "keep") -> dict[str, Any]:  # noqa: ARG002
        self.done.append(task.kind)
        self.tasks.append(task)
        if task.kind == "quantize":
            recipe = Recipe.model_validate(task.recipe)
            self._recipes[task.folder] = recipe
            size = sum(bits(recipe, group) for group in groups())
            return {"bytes": size * 100_000, "encoder_bytes": size, "constants": {}}
        if task.kind == "reference":
            task.folder.mkdir(parents=True)
            return {"cells": 1}
        harm = self._harm(task.folder)
        if task.kind == "diverge":
            return {"kl": harm / 1000.0, "agreement": 1.0, "agreed_until": 1.0, "cells": 1}
        if task.report is not None:
            task.report.write_text(json.dumps({"rows": [spoken(number, harm) for number in range(2)]}))
        facts: dict[str, Any] = {
            "utterances": 2,
            "reference_wer": 10.0,
            "wer_between": harm / 20,
            "wer_between_interval": None,
            "between_errors": {"substitutions": harm / 20, "deletions": 0.0, "insertions": 0.0},
            "exact_match": 1 - harm / 500,
        }
        points = -3.0 if harm > 250 else harm / 300
        facts |= {"wer_delta": points, "wer_delta_interval": [points, points], "wer": 10.0 + points}
        measured = {"scope": "macro-average", "units": 1000, "sentences": 100, "interval": [points, points]}
        checks = [
            {"limit_name": "exact_match", "scope": "all", "value": facts["exact_match"]},
            measured | {"limit_name": "wer_delta", "value": points},
        ]
        return facts | {"runtime": "generation1", "per_language": {}, "checks": checks}

    def measure(self, tried: Trial) -> dict[str, Any]:
        self.done.append("measure")
        tried.ensure_folder()
        figures = {"encoder_step_ms": 1.0, "pipeline_rtfx": 9.0, "peak_rss_mb": 1.0, "load_s": 1.0}
        ratios = {"encoder_step": 2.0 - self._harm(tried.folder) / 1000, "pipeline": 1.0}
        return {"base": figures, "build": figures, "ratios": ratios, "other_cores": 0.0}

    def _harm(self, folder: Path) -> float:
        recipe = self._recipes.get(folder, RECIPES["fp32"])
        return sum(max(0, 16 - bits(recipe, group)) * HARM[group.layer] for group in groups())


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    stand_in = Pretended()
    monkeypatch.setattr(trial, "run_task", stand_in.run)
    monkeypatch.setattr(Trial, "_measure", lambda self: stand_in.measure(self))  # noqa: PLW0108  # binds the trial
    return stand_in


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", speech(seed=number), 16000)
        lines.append(json.dumps({"audio_filepath": f"{number}.wav", "text": "ab", "target_lang": "en-US"}))
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def fp32(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "fp32")


def saved(recipe: Recipe, file: Path, **changes: Any) -> str:
    """A recipe's file, some of it changed."""
    file.write_text(dump_recipe(recipe.model_copy(update={"name": file.stem, **changes})))
    return str(file)


# Rows


def test_only_comparisons_go_to_a_cluster_and_the_results_are_those_of_one_machine(
    fp32: Bundle, manifest: Path, tmp_path: Path, pretended: Pretended
) -> None:
    pytest.importorskip("ray")
    options = Options(fp32.path, tmp_path / "out", ("int8",), manifest=manifest, repeats=1, ray="local")
    sweep(options)
    assert {task.kind for task in pretended.tasks if task.ray == "local"} == {"verify"}
    assert all(task.ray == "local" for task in pretended.tasks if task.kind == "verify")
    done = pretended.done.count("verify")
    sweep(replace(options, ray=None))
    assert pretended.done.count("verify") == done


def test_recipe_of_the_same_content_has_a_row_with_its_own_limits(
    fp32: Bundle, manifest: Path, tmp_path: Path, pretended: Pretended
) -> None:
    strict = saved(RECIPES["int4"], tmp_path / "strict.toml", tolerance=Tolerance(exact_match=0.99, wer_delta=0.0))
    plain = saved(RECIPES["fp32"], tmp_path / "plain.toml")
    report = sweep(
        Options(fp32.path, tmp_path / "out", ("int4", strict, plain), manifest=manifest, keep="none", repeats=1)
    )
    found = {row["name"]: row for row in report["rows"]}
    assert list(found) == ["fp32", "int4", "strict", "plain"]
    assert [pretended.done.count(kind) for kind in ("verify", "measure")] == [2, 2]  # fp32 and int4, int4 and plain
    same = ("mb", "exact_match", "wer_between", "wer_delta", "step_share", "front")
    assert [found["strict"][name] for name in same] == [found["int4"][name] for name in same]
    assert found["int4"]["within_limits"]
    assert not found["strict"]["within_limits"]
    assert found["plain"]["constants"] == fp32.metadata.constants


def test_a_stored_comparison_that_somebody_edited_is_made_again(
    fp32: Bundle, manifest: Path, tmp_path: Path, pretended: Pretended
) -> None:
    given = options(fp32, manifest, tmp_path / "out", recipes=("fp16", "int8"))
    first = sweep(given)
    edited = sorted((tmp_path / "out" / ".results").glob("report-*.json"))[0]
    whole = edited.read_text()
    edited.write_text('{"rows": [{}]}')
    pretended.done.clear()
    again = sweep(given)["rows"]
    assert [row | {"computed": None} for row in again] == [row | {"computed": None} for row in first["rows"]]
    assert pretended.done.count("verify") == 1
    assert edited.read_text() == whole


def test_sweep_of_fp32_alone_is_its_row(fp32: Bundle, manifest: Path, tmp_path: Path, pretended: Pretended) -> None:
    report = sweep(Options(fp32.path, tmp_path / "out", ("fp32",), manifest=manifest))
    assert [(row["name"], row["front"]) for row in report["rows"]] == [("fp32", ["size", "step"])]
    assert (tmp_path / "out" / "sweep.png").exists()


def test_without_matplotlib_there_is_no_picture(
    fp32: Bundle, manifest: Path, tmp_path: Path, pretended: Pretended, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Neither a new one nor that of an earlier run."""
    out = tmp_path / "out"
    sweep(Options(fp32.path, out, ("int8",), manifest=manifest))
    assert (out / "sweep.png").exists()
    monkeypatch.setattr(rows, "find_spec", lambda _: None)
    report = sweep(Options(fp32.path, out, ("int8",), manifest=manifest))
    assert not (out / "sweep.png").exists()
    assert "matplotlib" in capfd.readouterr().err
    assert report == json.loads((out / "sweep.json").read_text())


def options(fp32: Bundle, manifest: Path, out: Path, **more: Any) -> Options:
    given: dict[str, Any] = {"recipes": ("int4",), "manifest": manifest, "repeats": 1, "threads": 1, **more}
    return Options(fp32.path, out, **given)


# Calibration


def test_evaluation_audio_in_the_calibration_set_is_refused(
    fp32: Bundle, manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By its audio, not by its file; recipes that read no set do not mind."""
    collect(fp32, read_manifest(manifest), tmp_path / "set", samples=4)
    signal, rate = soundfile.read(tmp_path / "1.wav", dtype="int16")
    soundfile.write(tmp_path / "copy.flac", signal, rate)
    evaluated = tmp_path / "e.jsonl"
    evaluated.write_text(json.dumps({"audio_filepath": "copy.flac", "text": "ab", "target_lang": "de-DE"}) + "\n")
    aware = RECIPES["int4-aware"]
    first, *rest = aware.encoder.compression
    anywhere = first.ignored_scope.model_copy(update={"layers": ()})  # the folder has no layers
    first = first.model_copy(update={"ignored_scope": anywhere})
    encoder = aware.encoder.model_copy(update={"compression": (first, *rest)})
    recipe = saved(aware, tmp_path / "aware.toml", encoder=encoder)
    arguments = [fp32.path, "--output", tmp_path / "out", "--calibration", tmp_path / "set"]
    for verb in ("sweep", "rank"):
        done = run_here(capfd, verb, *arguments, "--manifest", evaluated, "--recipe", recipe)
        assert_user_error(done, tmp_path / "set", "copy.flac", f"--exclude {evaluated}")
    assert not (tmp_path / "out").exists()
    given: dict[str, Any] = {"manifest": evaluated, "calibration": tmp_path / "set"}
    assert with_recordings(make_plan(Options(fp32.path, tmp_path / "out", ("int4",), **given))).calibration


@pytest.fixture
def collecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ``calibrate`` verb in this process, on a recording of our own; the arguments of every call."""
    soundfile.write(tmp_path / "other.wav", speech(seed=9), 16000)
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"audio_filepath": "other.wav", "text": "", "target_lang": "de-DE"}) + "\n")
    done: list[list[str]] = []

    def run(module: str, arguments: list[Any], **_: object) -> None:
        done.append([str(argument) for argument in arguments])
        try:
            collect(Bundle.open(arguments[1]), read_manifest(own), arguments[2], samples=2)
        except UserError as error:
            raise ChildError(str(error)) from error

    monkeypatch.setattr(calibration, "run_module", run)
    monkeypatch.setattr(calibration, "default_utterances", lambda: read_manifest(own))
    return done


def test_default_set_is_collected_once(
    fp32: Bundle, manifest: Path, tmp_path: Path, pretended: Pretended, collecting: list[list[str]]
) -> None:
    out = tmp_path / "out"
    report = sweep(options(fp32, manifest, out, recipes=(), keep="none"))
    assert {row["name"] for row in report["rows"]} == set(RECIPES)  # none is left out
    (arguments,) = collecting
    assert arguments[arguments.index("--exclude") + 1] == str(manifest)
    (folder,) = (out / ".calibration").iterdir()
    assert report["calibration_sha256"] == CalibrationData.open(folder).sha256

    pretended.done.clear()
    again = sweep(options(fp32, manifest, out, recipes=("w8a8",), keep="none"))
    sweep(options(fp32, manifest, out, recipes=("int4-aware",), keep="none"))
    assert len(collecting) == 1
    assert not again["rows"][1]["computed"]
    assert again["calibration_sha256"] == report["calibration_sha256"]

    (folder / "encoder-000.npz").write_bytes(b"damaged")
    sweep(options(fp32, manifest, out, recipes=("w8a8",), keep="none"))
    assert len(collecting) == 2
    shorter = tmp_path / "shorter.jsonl"  # another evaluation set leaves out other recordings
    shorter.write_text(manifest.read_text().splitlines()[0])
    sweep(options(fp32, shorter, out, recipes=("w8a8",), keep="none"))
    assert len(collecting) == 3
    assert len(list((out / ".calibration").iterdir())) == 1
    sweep(options(fp32, manifest, tmp_path / "plain", recipes=("int4", "int8"), keep="none"))
    assert len(collecting) == 3


def test_default_set_that_cannot_be_collected_is_one_line(
    fp32: Bundle, manifest: Path, tmp_path: Path, collecting: list[list[str]], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*arguments: Any, **more: Any) -> None:
        raise ChildError("all of it belongs to an evaluation set")

    monkeypatch.setattr(calibration, "run_module", fail)
    out = tmp_path / "out"
    done = run_here(capfd, "sweep", fp32.path, "--output", out, "--manifest", manifest, "--recipe", "w8a8")
    assert_user_error(done, "belongs to an evaluation set", "--calibration DIR", "nemotron-ov calibrate")
    assert not out.exists()


def test_room_for_the_default_set_is_counted(fp32: Bundle, manifest: Path, tmp_path: Path) -> None:
    assert calibration.collected_bytes(fp32) == pytest.approx(1.1 * 96 * 4 * (4 * 17 + 1 + 36 + 24 + 1 + 1), abs=1)
    for name, counted in (("int4", False), ("int4-aware", True)):
        plan = make_plan(Options(fp32.path, tmp_path / "out", (name,), manifest=manifest))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scripts.sweep.plan.collected_bytes", lambda _: 10**18)
            if counted:
                with pytest.raises(UserError, match="GB of disk"):
                    check_room(plan, plan.recipes)
            else:
                check_room(plan, plan.recipes)


def test_a_recording_that_cannot_be_used_is_left_out_and_said(
    fp32: Bundle, manifest: Path, tmp_path: Path, pretended: Pretended, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    with manifest.open("a") as file:
        file.write('{"audio_filepath": "bad.wav", "text": "ab", "target_lang": "en-US"}\n')
    arguments = ["sweep", fp32.path, "--output", tmp_path / "out", "--recipe", "fp16", "--manifest", manifest, "--kl"]
    done = run_here(capfd, *arguments, "--json")
    assert done.returncode == NOT_DECIDED
    report = json.loads(done.stdout)
    assert (report["utterances"], list(report["unusable"])) == (2, [str(tmp_path / "bad.wav")])
    assert {tuple(task.left_out) for task in pretended.tasks} == {(str(tmp_path / "bad.wav"),)}
    (left,) = choose_utterances(manifest, 2, prompts=None, left_out=report["unusable"])[1:]
    assert left.audio_filepath.name == "1.wav"


def test_rank_says_what_was_left_out(
    fp32: Bundle, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    with manifest.open("a") as file:
        file.write('{"audio_filepath": "bad.wav", "text": "ab", "target_lang": "en-US"}\n')
    found = {"kl": 0.1, "cells": 5, "agreement": 1.0, "agreed_until": 1.0, "compressed": 1.0, "elements": 10}
    monkeypatch.setattr("scripts.sweep.layers._probe", lambda *_: defaultdict(lambda: dict(found)))
    arguments = ["rank", fp32.path, "--output", tmp_path / "out", "--manifest", manifest, "--keep-worst", "1"]
    done = run_here(capfd, *arguments)
    assert done.returncode == NOT_DECIDED
    assert "bad.wav" in done.stdout
    assert list(json.loads((tmp_path / "out" / "layers.json").read_text())["unusable"]) == [str(tmp_path / "bad.wav")]


def ranked(**divergences: float) -> Any:
    """What :func:`scripts.sweep.layers._probe` found: each group's divergence; 0 for those not named."""
    found = {"cells": 5, "agreement": 1.0, "agreed_until": 1.0, "compressed": 1.0}
    return lambda *_: {name: found | {"kl": divergences.get(name, 0.0)} for name in (*NAMES, "f16")}


NAMES = ("pre_encode", "prompt_kernel", "embedding", "joint")


def test_a_ranking_replaces_the_recipe_that_an_earlier_one_wrote_until_somebody_edits_it(
    fp32: Bundle, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    members = [Group(name, "encoder", (f"__module.{name}/MatMul",), 10) for name in NAMES]
    monkeypatch.setattr("scripts.sweep.layers.find_groups", lambda *_: members)
    out, arguments = tmp_path / "out", ["--manifest", manifest, "--keep-worst", "1"]
    file = out / "int8-kept-1.toml"
    texts = []
    for worst in ("pre_encode", "prompt_kernel", "pre_encode"):
        monkeypatch.setattr("scripts.sweep.layers._probe", ranked(**{worst: 1.0}))
        assert run_here(capfd, "rank", fp32.path, "--output", out, *arguments).returncode == 0
        texts.append(file.read_text())
    assert texts[0] == texts[2] != texts[1]
    file.write_text(texts[2] + "# mine\n")
    monkeypatch.setattr("scripts.sweep.layers._probe", ranked(prompt_kernel=1.0))
    assert_user_error(run_here(capfd, "rank", fp32.path, "--output", out, *arguments), file, "move it away")
    assert file.read_text() == texts[2] + "# mine\n"


def test_a_ranking_stays_where_the_recipe_that_was_asked_for_cannot_be(
    fp32: Bundle, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    members = [Group(name, "encoder", (f"__module.{name}/MatMul",), 10) for name in NAMES]
    monkeypatch.setattr("scripts.sweep.layers.find_groups", lambda *_: members)
    monkeypatch.setattr("scripts.sweep.layers._probe", ranked(**dict.fromkeys(NAMES, 1.0)))
    arguments = ["rank", fp32.path, "--output", tmp_path / "out", "--manifest", manifest, "--kl-budget", "0"]
    assert_user_error(run_here(capfd, *arguments), "int8 stores in int8_sym", "keep fewer")
    found = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert (len(found["groups"]), found["kept"], found["mixed_recipe"]) == (len(NAMES), [], None)


def test_reference_paths_come_from_recordings_that_can_be_used(
    fp32: Bundle, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line's recording is bad: the one path is the second's."""
    (tmp_path / "0.wav").write_text("no audio")
    options = Options(fp32.path, tmp_path / "out", ("int8",), manifest=manifest, ignore_text=True)
    plan = with_recordings(make_plan(options))
    monkeypatch.setattr(trial, "run_task", lambda task, **_: worker.work(task))
    folder = trial.ensure_reference_paths(plan, Store(plan.output))
    assert [file.name for file in folder.iterdir()] == ["000.npz"]


def test_rank_takes_a_data_set(
    fp32: Bundle, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder of recordings without texts: nothing is scored."""
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    manifest.unlink()
    (tmp_path / "audio").mkdir()
    for number in range(2):
        (tmp_path / f"{number}.wav").rename(tmp_path / "audio" / f"{number}.wav")
    monkeypatch.setattr("scripts.sweep.layers._probe", ranked(pre_encode=1.0))
    members = [Group(name, "encoder", (f"__module.{name}/MatMul",), 10) for name in NAMES]
    monkeypatch.setattr("scripts.sweep.layers.find_groups", lambda *_: members)
    arguments = ["rank", fp32.path, "--output", tmp_path / "out", "--data", f"{tmp_path / 'audio'}:en-US", "--json"]
    done = run_here(capfd, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["utterances"] == 2
    assert_user_error(run_here(capfd, *arguments, "--manifest", tmp_path / "m.jsonl"), "both given")


def test_a_recipe_that_could_keep_nothing_higher_is_not_ranked(fp32: Bundle, manifest: Path, tmp_path: Path) -> None:
    int4 = RECIPES["int4"]
    first, second = int4.encoder.compression
    turned = int4.encoder.model_copy(update={"compression": (second, first)})
    file = saved(int4, tmp_path / "turned.toml", encoder=turned)
    joint = int4.joint.model_copy(update={"compression": (first, first.model_copy(update={"mode": "int4_asym"}))})
    other = saved(int4, tmp_path / "other.toml", joint=joint)
    for recipe, graph in ((file, "encoder"), (other, "joint")):
        with pytest.raises(UserError, match=f"the second compression of the {graph}, .* is no higher precision"):
            rank_layers(Options(fp32.path, tmp_path / "out", (recipe,), manifest=manifest, ignore_text=True))
    assert not (tmp_path / "out").exists()
