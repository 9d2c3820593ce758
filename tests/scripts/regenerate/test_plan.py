"""What regenerate decides before it writes, and how it continues: stages replaced by stand-ins."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from export.bundle import METADATA, Bundle, write_metadata
from export.checkpoint import Checkpoint
from export.errors import NOT_DECIDED, UserError
from export.host import installed_version
from export.profiles import Asked
from quantize.recipes import get_recipe
from scripts.disk import SLACK
from scripts.outputs import PAGE_MARK
from scripts.processes import ChildError
from scripts.regenerate import plan as plans
from scripts.regenerate import regenerate, stages
from scripts.regenerate.plan import STAND_IN_LIMIT, Options, check_disk, make_plan
from scripts.regenerate.state import PAGE, REPORT, REPORTS, STAGES, STATE, State
from tests.helpers.command import run_here
from tests.helpers.fleurs import published_layout
from verify.data.manifest import read_manifest
from verify.data.selection import choose_utterances, first_seconds, spread
from verify.data.sets import DataSet

Calls = list[str]


@pytest.fixture
def options(tmp_path: Path, small_checkpoint: Checkpoint, short_manifest: Path) -> Options:
    return Options(output=tmp_path / "out", checkpoint=str(small_checkpoint.path), manifest=short_manifest)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, small_fp32: Bundle) -> Calls:
    """Stages that copy a finished folder and claim to have compared it, as if trained; lists what ran."""
    ran: Calls = []
    monkeypatch.setattr(Checkpoint, "is_random", False)

    def stand_in(state: State, name: str, *arguments: str | Path, may_fail: bool = False) -> dict[str, Any]:
        words = [str(argument) for argument in arguments]
        folder = Path(words[0] if name in ("verify", "transcribe", "page") else words[1])
        ran.append(f"{name} {'checkpoint' if name == 'record' else folder.name}")
        if name in ("export", "quantize"):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(small_fp32.path, folder)
        if name == "quantize":
            recipe = get_recipe(words[words.index("--recipe") + 1])
            metadata = small_fp32.metadata.model_copy(update={"recipe": json.loads(json.dumps(recipe.as_metadata()))})
            write_metadata(folder, metadata)
        if name == "verify":
            report = Path(words[words.index("--report") + 1])
            report.parent.mkdir(exist_ok=True)
            report.write_text("{}")
        if name == "page":
            Path(words[words.index("--output") + 1]).write_text(PAGE_MARK)
        scores = {"utterances": 2, "exact_match": 1.0, "wer_between": 0.0, "wer": 5.0, "wer_delta": 0.0}
        return {
            "wall_seconds": 1.0,
            "peak_rss_mb": 100.0,
            "passed": True,
            "reasons": [],
            "limits_of": "the test",
            "ties": 0,
            "unusable": {},
            "languages": ["en-US"],
            "wer_delta_interval": [0.0, 0.0],
            "reference_wer": 5.0,
            "per_language": {"en-US": scores | {"metric": "wer", "reference_wer": 5.0}},
            "target": {
                "runtime": "streaming" if folder.name == "fp32" else "generation1",
                "precision": {"f32": "f32", "default": "bf16"}[words[words.index("--precision") + 1]]
                if "--precision" in words
                else "f32",
            },
            "reference": {"chunk_ms": 1120.0},
            "speed": {"encoder_ms": 1.0, "rtfx": 10.0},
            **scores,
        }

    monkeypatch.setattr(stages, "run_verb", stand_in)
    return ran


def everything(recipes: tuple[str, ...] = ("fp16", "int8")) -> Calls:
    """All stages in order."""
    return [
        "export fp32",
        *(f"quantize {name}" for name in recipes),
        "record checkpoint",
        *(f"{verb} {name}" for name in ("fp32", *recipes) for verb in ("verify", "transcribe")),
        "page report.json",
    ]


def test_all_stages_run_once(options: Options, calls: Calls) -> None:
    report = regenerate(options)
    assert calls == everything()
    assert report["passed"]
    assert [row["recipe"] for row in report["folders"]] == ["fp32", "fp16", "int8"]
    assert json.loads((options.output / REPORT).read_text()) == report


def test_smaller_folders_compute_as_clients_do_where_asked(options: Options, calls: Calls) -> None:
    report = regenerate(replace(options, precision="default"))
    assert {row["recipe"]: row["precision"] for row in report["folders"]} == {
        "fp32": "f32", "fp16": "bf16", "int8": "bf16",
    }  # fmt: skip
    assert make_plan(options).inputs != report["inputs"], "the other precision is another run"


def test_folders_only_transcribes_nothing_and_the_whole_run_goes_on_from_there(options: Options, calls: Calls) -> None:
    made = regenerate(replace(options, folders_only=True))
    assert calls == ["export fp32", "quantize fp16", "quantize int8"]
    assert [(row["recipe"], row["stages"]["made"]["wall_seconds"]) for row in made["folders"]] == [
        ("fp32", 1.0), ("fp16", 1.0), ("int8", 1.0),
    ]  # fmt: skip
    assert "passed" not in made
    assert not (options.output / REPORT).exists()
    assert regenerate(options)["passed"]
    assert calls == everything()
    (options.output / "int8" / METADATA).unlink()
    regenerate(replace(options, folders_only=True))
    assert not (options.output / REPORT).exists(), "it is about another folder"


def test_folders_stay_whatever_they_are_compared_on(
    options: Options, calls: Calls, short_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their verification is of today's recordings; a report of others is kept."""

    def folders() -> dict[Path, tuple[int, int]]:
        files = {path: path.stat() for path in options.output.glob("[fi]*/*")}
        return {path: (facts.st_ino, facts.st_mtime_ns) for path, facts in files.items()}

    regenerate(replace(options, folders_only=True, limit=1, oracles=("transformers",)))
    made = folders()
    with stopped_at(len(everything()) - 2, calls, monkeypatch):
        regenerate(replace(options, precision="default"))
    calls.clear()
    short_manifest.write_text(short_manifest.read_text().replace('"text": "', '"text": "other words, ', 1))
    report = regenerate(options)
    assert calls == everything()[3:], "no comparison of the other text is used again"
    assert [row["stages"]["made"]["wall_seconds"] for row in report["folders"]] == [1.0, 1.0, 1.0]
    short_manifest.write_text(short_manifest.read_text().replace("other", "another"))
    away = r"another manifest is here; repeat it as it was, move its report\.json and reports away to keep its folders"
    with pytest.raises(UserError, match=f"a finished run with {away}"):
        regenerate(options)
    regenerate(replace(options, folders_only=True))
    with pytest.raises(UserError, match=f"an unfinished run with {away}"):
        regenerate(options)
    with pytest.raises(UserError, match="another lookahead, manifest is here; repeat it as it was, add --force"):
        regenerate(replace(options, asked=Asked(lookahead=3)))
    assert json.loads((options.output / REPORT).read_text()) == report
    (options.output / REPORT).rename(options.output / "kept.json")
    calls.clear()
    regenerate(options)
    assert calls == everything()[3:]
    assert folders() == made


@pytest.mark.parametrize(
    "file", [f"{STAGES}/verified-int8.json", f"{STAGES}/measured-int8.json", f"{REPORTS}/int8.json"]
)
def test_a_stage_whose_stored_result_somebody_edited_runs_again(file: str, options: Options, calls: Calls) -> None:
    report = regenerate(options)
    calls.clear()
    stored = options.output / file
    stored.write_text(
        stored.read_text() + " " if REPORTS in file else stored.read_text().replace('"wer": 5.0', '"wer": 4.0')
    )
    again = regenerate(options)
    assert calls[0] == ("transcribe int8" if "measured" in file else "verify int8")
    assert again["folders"] == report["folders"]


def test_a_stage_whose_checkpoint_was_made_shorter_names_it(
    options: Options, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which ends the stage by a signal; a signal that has another reason is told as it is."""
    path = Path(shutil.copy(str(options.checkpoint), tmp_path / "mine.nemo"))
    shorter = [False, True]

    def ended(*_: object, **__: object) -> None:
        if shorter.pop(0):
            os.truncate(path, path.stat().st_size - 1)
        raise ChildError("export: ended by SIGBUS")

    monkeypatch.setattr(stages, "run_verb", ended)
    with pytest.raises(ChildError, match="export: ended by SIGBUS"):
        regenerate(replace(options, checkpoint=str(path)))
    with pytest.raises(UserError, match=r"mine\.nemo: was changed or replaced while it was in use; run again when"):
        regenerate(replace(options, checkpoint=str(path)))
    assert not calls


def test_folders_only_by_hand(options: Options, calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("regenerate", options.checkpoint, "--output", options.output, "--folders-only")
    done = run_here(capfd, *arguments, "--json")
    assert (done.returncode, set(json.loads(done.stdout))) == (0, {"output", "folders"})
    done = run_here(capfd, *arguments)
    assert done.returncode == 0
    assert "Nothing was transcribed" in done.stdout


def test_the_oracle_may_be_transformers(options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    stand_in: Callable[..., dict[str, Any]] = stages.run_verb

    def noting(state: State, name: str, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        words = [str(argument) for argument in arguments]
        given.append([name, *words[words.index("--run-by") :][:2]] if "--run-by" in words else [name])
        return stand_in(state, name, *arguments, **keywords)

    monkeypatch.setattr(stages, "run_verb", noting)
    report = regenerate(replace(options, oracles=("transformers",), recipes=("fp16",)))
    assert ["record", "--run-by", "transformers"] in given
    assert given.count(["verify", "--run-by", "transformers"]) == 1, "FP32's alone"
    assert report["folders"][0]["reference"] == "Transformers"
    assert "against the streaming of Transformers itself" in report["notes"][0]
    assert "transformers" in report["inputs"]["run_by_tools"]
    with pytest.raises(UserError, match=r"a finished run with another run_by, run_by_tools is here"):
        regenerate(replace(options, recipes=("fp16",)))


def test_an_oracle_that_is_not_installed_is_named_before_anything_is_made(
    options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = "scripts.regenerate.plan.installed_version"
    monkeypatch.setattr(absent, lambda name: None if "nemo_t" in name else installed_version(name))
    with pytest.raises(UserError, match=r"NeMo, which fp32 is compared with, is not installed; pip install"):
        regenerate(options)
    assert not options.output.exists()
    regenerate(replace(options, folders_only=True))
    assert calls == ["export fp32", "quantize fp16", "quantize int8"]


def test_only_verifications_go_to_a_cluster_and_the_results_are_those_of_one_machine(
    options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    stand_in, sent = stages.run_verb, set[str]()

    def watched(state: State, name: str, *arguments: str | Path, may_fail: bool = False) -> dict[str, Any]:
        if "--ray" in arguments:
            assert arguments[arguments.index("--ray") + 1] == "local"
            sent.add(f"{name} {Path(arguments[0]).name}")
        return stand_in(state, name, *arguments, may_fail=may_fail)

    monkeypatch.setattr(stages, "run_verb", watched)
    report = regenerate(replace(options, ray="local"))
    assert sent == {"verify fp32", "verify fp16", "verify int8"}
    done = len(calls)
    assert regenerate(options) == report
    assert len(calls) == done


def test_only_the_asked_recipes(options: Options, calls: Calls) -> None:
    regenerate(replace(options, recipes=("int8", "fp32", "int8")))
    assert calls == everything(("int8",))


@contextmanager
def stopped_at(stop: int, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stage after so many fails, in the body, whose run must end by that."""
    stand_in: Callable[..., dict[str, Any]] = stages.run_verb

    def stopping(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        if len(calls) == stop:
            raise ChildError("stopped")
        return stand_in(*arguments, **keywords)

    monkeypatch.setattr(stages, "run_verb", stopping)
    with pytest.raises(ChildError):
        yield
    monkeypatch.setattr(stages, "run_verb", stand_in)


@pytest.mark.parametrize("stop", range(11))
def test_continues_after_a_stop_anywhere(
    options: Options, calls: Calls, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage runs in the first or the second run, and none in both."""
    with stopped_at(stop, calls, monkeypatch):
        regenerate(options)
    assert (options.output / REPORT).exists() == (stop == 10)  # the page shows it
    regenerate(options)
    assert sorted(calls) == sorted(everything())


def test_damaged_and_half_written_folders_are_made_again(options: Options, calls: Calls) -> None:
    report = regenerate(options)
    calls.clear()
    with (options.output / "fp16" / "nemotron_joint.bin").open("ab") as file:
        file.write(b"\0")
    (options.output / "int8" / METADATA).unlink()
    (options.output / ".fp32.abcdefgh.nemotron-ov.tmp").mkdir()
    for place in (STAGES, REPORTS):  # of names that no run writes again
        (options.output / place / ".other.json.abcdefgh.nemotron-ov.tmp").write_text("{")
    (options.output / ".int8.nemotron-ov.old").mkdir()
    assert regenerate(options) == report
    # What they say is unchanged, so comparisons are kept.
    assert calls == ["quantize fp16", "quantize int8", "page report.json"]
    assert not list(options.output.rglob(".*.tmp"))
    assert not (options.output / ".int8.nemotron-ov.old").exists()


def test_a_finished_output_is_kept_and_reported_again(options: Options, calls: Calls) -> None:
    """A Makefile may repeat the command; only what is missing is made."""
    regenerate(options)
    calls.clear()
    before = (options.output / REPORT).read_bytes()
    regenerate(options)
    assert not calls
    assert (options.output / REPORT).read_bytes() == before
    (options.output / "reports" / "int8.json").unlink()
    regenerate(options)
    assert calls == ["verify int8"]
    (options.output / "int8" / METADATA).unlink()
    calls.clear()
    regenerate(options)
    assert calls == ["quantize int8", "page report.json"]
    calls.clear()
    regenerate(replace(options, force=True))
    assert calls == everything()


def test_a_state_file_of_an_earlier_version_is_understood(options: Options, calls: Calls) -> None:
    """Or refused, where it says more than today's: it has the versions of Transformers among the tools."""
    report = regenerate(options)
    state = options.output / STATE
    content = json.loads(state.read_text())
    inputs = {key: value for key, value in content["inputs"].items() if key not in ("oracle", "run_by", "run_by_tools")}
    before = {key: value for key, value in content.items() if key != "pending"} | {"inputs": inputs}
    state.write_text(json.dumps(before))
    calls.clear()
    assert regenerate(options) == report
    assert not calls
    inputs |= {"run_by": ["transformers"], "tools": inputs["tools"] | {"transformers": "5.0"}}
    state.write_text(json.dumps(before | {"inputs": inputs}))
    with pytest.raises(UserError, match="a finished run with another tools, run_by is here"):
        regenerate(options)


def test_somebody_elses_page_is_not_replaced(options: Options, calls: Calls) -> None:
    regenerate(options)
    page = options.output / PAGE
    page.write_text("<p>mine")
    with pytest.raises(UserError, match=r"report\.html: exists and is no page of ours"):
        regenerate(replace(options, force=True))
    assert page.read_text() == "<p>mine"


def test_somebody_elses_report_is_not_replaced(options: Options, calls: Calls) -> None:
    regenerate(options)
    (options.output / REPORT).write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"report\.json: exists and is no such report of ours"):
        regenerate(replace(options, force=True))
    assert (options.output / REPORT).read_text() == '{"mine": 1}'


@pytest.mark.parametrize(("finished", "article"), [(True, "a finished"), (False, "an unfinished")])
def test_output_of_other_inputs_needs_force(options: Options, calls: Calls, finished: bool, article: str) -> None:
    regenerate(options)
    state = options.output / STATE
    state.write_text(json.dumps(json.loads(state.read_text()) | {"finished": finished}))
    other = replace(options, recipes=("fp16",), asked=Asked(lookahead=13))
    with pytest.raises(UserError, match=f"{article} run with another lookahead, recipes"):
        regenerate(other)
    calls.clear()
    regenerate(replace(options, recipes=("fp16",), force=True))
    assert calls == everything(("fp16",))
    assert (options.output / "int8" / METADATA).exists(), "what this run does not make is none of its business"
    calls.clear()
    regenerate(replace(options, force=True))
    assert calls == everything()


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_force_keeps_what_is_there_until_the_new_is_whole(
    options: Options, calls: Calls, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that does not restore, or Ctrl-C, costs nothing; the next run goes on with what force asked for."""
    regenerate(options)
    before = {path: path.stat().st_ctime_ns for path in options.output.glob("*/*.bin")}
    report = (options.output / REPORT).read_bytes()
    calls.clear()
    with stopped_at(stop, calls, monkeypatch):
        regenerate(replace(options, force=True))
    assert all(Bundle.whole(options.output / name) for name in ("fp32", "fp16", "int8"))
    replaced = {path.parent.name for path, made in before.items() if path.stat().st_ctime_ns != made}
    assert replaced == set(["fp32", "fp16", "int8"][:stop])
    assert (options.output / REPORT).exists() == (not replaced)
    assert replaced or (options.output / REPORT).read_bytes() == report
    regenerate(options)
    assert calls == everything()


def test_two_runs_at_once_are_refused(options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = stages.run_verb

    def second(*arguments: Any, **keywords: Any) -> Any:
        with pytest.raises(UserError, match="another regenerate"):
            regenerate(options)
        monkeypatch.setattr(stages, "run_verb", stand_in)
        return stand_in(*arguments, **keywords)

    monkeypatch.setattr(stages, "run_verb", second)
    regenerate(options)
    assert calls == everything()


@pytest.mark.parametrize("failing_folders", [("fp32",), ("int8",), ("fp32", "int8")])
def test_failed_verification_exits_with_1_and_everything_written(
    options: Options,
    calls: Calls,
    failing_folders: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """FP32 is judged against NeMo, every other folder against FP32."""
    stand_in = stages.run_verb

    def failing(state: State, name: str, *arguments: str | Path, may_fail: bool = False) -> dict[str, Any]:
        result = stand_in(state, name, *arguments, may_fail=may_fail)
        failed = name == "verify" and Path(arguments[0]).name in failing_folders
        return result | ({"passed": False, "reasons": ["wer_delta +9 points"]} if failed else {})

    monkeypatch.setattr(stages, "run_verb", failing)
    arguments = ["regenerate", str(options.checkpoint), "--output", options.output, "--manifest", str(options.manifest)]
    done = run_here(capfd, *arguments)
    assert done.returncode == 1
    for name in failing_folders:
        assert f"{name}: wer_delta +9 points" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"failed: {', '.join(failing_folders)}; passed: ")
    report = json.loads((options.output / REPORT).read_text())
    assert {row["recipe"]: (row["judged"], row["passed"]) for row in report["folders"]} == {
        name: (True, name not in failing_folders) for name in ("fp32", "fp16", "int8")
    }
    assert report["passed"] is False
    assert run_here(capfd, *arguments).stdout == done.stdout, "a repeated run says the same"


def test_random_weights_are_reported_and_not_judged(
    options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_in = stages.run_verb

    def failing(state: State, name: str, *arguments: str | Path, may_fail: bool = False) -> dict[str, Any]:
        result = stand_in(state, name, *arguments, may_fail=may_fail)
        return result | ({"passed": False, "reasons": ["exact_match 0"]} if name == "verify" else {})

    monkeypatch.setattr(stages, "run_verb", failing)
    monkeypatch.setattr(Checkpoint, "is_random", True)
    done = run_here(capfd, "regenerate", str(options.checkpoint), "--output", options.output)
    assert done.returncode == NOT_DECIDED
    assert done.stdout.count("no folder is judged") == 1
    assert done.stdout.splitlines()[-1] == "not judged or not decided: fp32, fp16, int8"
    report = json.loads((options.output / REPORT).read_text())
    assert report["passed"] is None
    assert not any(row["judged"] or row["passed"] is not None or row["reasons"] for row in report["folders"])


@pytest.mark.parametrize(
    ("undecided", "last"),
    [
        (("fp32",), "not judged or not decided: fp32; passed: fp16, int8"),
        (("int8",), "not judged or not decided: int8; passed: fp32, fp16"),
    ],
)
def test_what_is_not_judged_or_not_decided_is_no_success(
    options: Options,
    calls: Calls,
    undecided: tuple[str, ...],
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """FP32 in the clients' loop cannot be judged; another folder may have too few utterances."""
    stand_in = stages.run_verb

    def unsure(state: State, name: str, *arguments: str | Path, may_fail: bool = False) -> dict[str, Any]:
        result = stand_in(state, name, *arguments, may_fail=may_fail)
        if name != "verify" or Path(arguments[0]).name not in undecided:
            return result
        if undecided == ("fp32",):
            return result | {"target": result["target"] | {"runtime": "generation1"}}
        return result | {"passed": None, "reasons": ["wer_delta may be above the limit"]}

    monkeypatch.setattr(stages, "run_verb", unsure)
    arguments = ["regenerate", str(options.checkpoint), "--output", options.output, "--manifest", str(options.manifest)]
    done = run_here(capfd, *arguments)
    assert done.returncode == NOT_DECIDED
    assert done.stdout.splitlines()[-1] == last
    assert json.loads((options.output / REPORT).read_text())["passed"] is None


def test_foreign_folder_is_refused_even_with_force(options: Options, calls: Calls) -> None:
    options.output.mkdir()
    (options.output / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        regenerate(replace(options, force=True))
    assert [file.name for file in options.output.iterdir()] == ["thesis.txt"]


def test_full_disk_is_found_before_anything_is_written(
    options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(options.output.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(UserError, match="GB of disk are needed"):
        regenerate(options)
    assert not options.output.exists()
    assert not calls


def test_a_compressed_checkpoint_needs_the_room_that_it_unpacks_to(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In TMPDIR, and folders as large as those of the checkpoint that is not compressed."""
    packed = tmp_path / "packed.nemo"
    packed.write_bytes(gzip.compress(Path(str(options.checkpoint)).read_bytes()))
    needs: list[list[float]] = []
    monkeypatch.setattr(plans, "require_room", lambda wanted, _: needs.append([need for _, need in wanted]))
    plain, compressed = make_plan(options), make_plan(replace(options, checkpoint=str(packed)))
    for plan in (plain, compressed):
        check_disk(plan)
    unpacked = float(plain.checkpoint.weights_bytes)
    assert packed.stat().st_size < unpacked < plain.checkpoint.path.stat().st_size
    assert needs == [[needs[0][0], 0.0], [needs[0][0], unpacked]]


def test_a_part_of_a_recording_on_a_full_disk(small_disk: Path, short_manifest: Path) -> None:
    """The operating system's error, which the command line tells in one line."""
    part = read_manifest(short_manifest)[0].model_copy(update={"offset": 0.1, "duration": 0.5})
    assert part.cut
    (file,) = stages._files([part], 16_000, small_disk)
    assert soundfile.info(file).frames == 8_000
    (small_disk / "mine").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(OSError, match="No space left on device"):
        stages._files([part] * 2, 16_000, small_disk)


def test_a_folder_that_is_replaced_needs_room_beside_itself(
    options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders are replaced one at a time."""
    plan = make_plan(options)
    needs: list[float] = []
    monkeypatch.setattr(plans, "require_room", lambda wanted, _: needs.append(wanted[0][1] - SLACK))
    check_disk(plan)
    regenerate(options)
    check_disk(plan)
    check_disk(plan, plan.folders)
    all_new, _, nothing, again = needs
    first, second = (Bundle.open(options.output / name).size_bytes for name in plan.folders[:2])
    assert nothing == 0
    assert again == pytest.approx(all_new - first - second), "two old folders are gone when the last new one is written"


def test_a_checkpoint_that_is_replaced_during_the_export_is_refused(
    options: Options, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    """The state records the hash of the one, and the stage may have read the other."""
    path = Path(shutil.copyfile(small_checkpoint.path, tmp_path / "mine.nemo"))
    export = stages.run_verb

    def replacing(*arguments: Any, **options: Any) -> dict[str, Any]:
        shutil.copyfile(path, tmp_path / "other.nemo")
        (tmp_path / "other.nemo").replace(path)
        return export(*arguments, **options)

    monkeypatch.setattr(stages, "run_verb", replacing)
    with pytest.raises(UserError, match=r"mine\.nemo: was changed or replaced while it was in use"):
        regenerate(replace(options, checkpoint=str(path)))
    assert calls == ["export fp32"]


def test_other_checkpoints_without_manifest_take_some_of_the_demo_set(options: Options) -> None:
    plan = make_plan(replace(options, manifest=None))
    assert (plan.limit, plan.score_text) == (STAND_IN_LIMIT, False)
    assert make_plan(replace(options, manifest=None, limit=3)).limit == 3
    assert make_plan(options).score_text


def test_a_data_set_is_a_manifest(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    data = DataSet(str(published_layout(tmp_path / "benchmark")))
    named = replace(options, manifest=None, data=data)
    plan = make_plan(named)
    assert plan.score_text
    assert plan.inputs == make_plan(replace(options, manifest=plan.manifest)).inputs
    table = tmp_path / "benchmark" / "en_us" / "en_us.trans.txt"
    table.write_text(table.read_text(encoding="utf-8").replace("second", "third"), encoding="utf-8")
    assert make_plan(named).inputs["manifest"] != plan.inputs["manifest"], "another text is another run"


def test_identity_covers_what_results_depend_on(options: Options, short_manifest: Path) -> None:
    inputs = make_plan(options).inputs
    assert make_plan(options).inputs == inputs
    changes = (
        *(replace(options, asked=asked) for asked in (Asked(lookahead=13), Asked(encoder="nemo"), Asked(chunk_ms=560))),
        replace(options, recipes=("fp16",)),
        replace(options, limit=1),
    )
    for changed in changes:
        assert make_plan(changed).inputs != inputs, changed
    short_manifest.write_text(short_manifest.read_text().splitlines()[0])
    assert make_plan(options).inputs != inputs


def test_spread_reaches_the_whole_list() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 5) == spread(range(3), None) == [0, 1, 2]


def test_first_seconds_takes_at_least_one() -> None:
    utterances = choose_utterances(None, 20, prompts=None)
    assert len(first_seconds(utterances, 0.1)) == 1
    assert first_seconds(utterances, 1e9) == utterances


@pytest.mark.parametrize("name", ["../victim", "/victim", "Victim", ""])
def test_force_removes_nothing_that_the_state_file_names_elsewhere(
    options: Options, calls: Calls, tmp_path: Path, name: str
) -> None:
    regenerate(options)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("mine")
    state = options.output / STATE
    named = name.replace("/victim", str(victim)) if name.startswith("/") else name
    state.write_text(json.dumps(json.loads(state.read_text()) | {"folders": ["fp32", named]}))
    with pytest.raises(UserError, match="did not write"):
        regenerate(replace(options, force=True))
    assert (victim / "thesis.txt").read_text() == "mine"
    assert (options.output / "fp32" / METADATA).exists()


def test_force_removes_nothing_where_a_folder_holds_something_of_the_users(options: Options, calls: Calls) -> None:
    regenerate(options)
    (options.output / "int8" / "thesis.txt").write_text("mine")
    before = sorted(path for path in options.output.rglob("*") if path.is_file())
    with pytest.raises(UserError, match=r"int8: holds thesis\.txt"):
        regenerate(replace(options, force=True))
    assert sorted(path for path in options.output.rglob("*") if path.is_file()) == before
    (options.output / "int8" / "thesis.txt").rename(options.output / "reports.txt")
    (options.output / ".stages" / "notes.txt").write_text("mine")
    regenerate(replace(options, force=True))
    assert (options.output / "reports.txt").read_text() == (options.output / ".stages" / "notes.txt").read_text()


def test_a_folder_that_was_set_aside_when_the_run_was_killed_comes_back(options: Options, calls: Calls) -> None:
    regenerate(options)
    calls.clear()
    (options.output / "int8").rename(options.output / ".int8.nemotron-ov.old")
    regenerate(options)
    assert not calls, "nothing had to be made again"
    assert (options.output / "int8" / METADATA).exists()
