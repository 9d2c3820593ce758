"""The page: every number from a report about exactly these files, and what somebody wrote into it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from export import demo
from export.bundle import Bundle
from export.digest import file_facts
from export.errors import UserError
from scripts.publish.card import render_card, unsupported
from scripts.publish.facts import gather
from scripts.publish.licences import licence_text
from scripts.publish.page import Page
from tests.helpers.command import ROOT, assert_user_error, run_here
from tests.helpers.publishable import CHECKPOINT, INT8, publishable
from tests.helpers.tiny_bundle import tiny_bundle
from verify.report import Report

REAL = "nvidia/nemotron-3.5-asr-streaming-0.6b"


def write_card(output: Path) -> Path:
    card = output / "README.md"
    card.write_text(render_card(gather(output), Page(base_model=REAL)), encoding="utf-8")
    return card


def card_of(root: Path, **page: object) -> str:
    return render_card(gather(root), Page(**page))  # type: ignore[arg-type]


def section(card: str, heading: str) -> str:
    return re.split(r"^## ", card.split(f"\n## {heading}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_numbers_are_the_reports(made: Path) -> None:
    report = Report.load(made / "reports" / "int8.json")
    card = card_of(made)
    score = report.per_language["de-DE"]
    row = f"| de-DE | WER | {score.reference_wer:.2f} | {score.wer:.2f} | {score.utterances} |"
    assert row in section(card, "Accuracy")
    weighted = sum((each.wer or 0.0) * each.utterances for each in report.per_language.values()) / report.utterances
    assert f"| {weighted:.2f} | {report.utterances} |" in section(card, "Accuracy")
    assert f"| average |  | {report.utterances} | {100 * report.exact_match:.1f} |" in section(card, "INT8")
    assert "Measured on Test CPU, 2 cores (avx2)" in section(card, "Throughput")
    assert "| `int8` | generation1 | f32 | 13.5 | 31.2 | 151 |" in section(card, "Throughput")
    assert report.target.machine["cpu"] in section(card, "Accuracy")


def test_each_machine_has_its_name(output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Figures of `bench` on another machine, for these files and for others."""
    row = {
        "runtime": "streaming", "batch": 8, "precision": "bf16", "encoder_step_ms": 7.25, "pipeline_rtfx": 99.5,
        "peak_rss_mb": 88.0,
    }  # fmt: skip
    of_these = row | {"files": Bundle.open(output / "int8").hashes}
    of_others = row | {"files": {"metadata.json": "0" * 64}, "encoder_step_ms": 1.5}
    machine = {"cpu": "Another CPU", "cores": 64, "flags": ["amx_int8"]}
    bench = output.parent / "bench.json"
    bench.write_text(json.dumps({"builds": {"a": of_these, "b": of_others}, "machine": machine}))
    assert run_here(capfd, "card", output, "--report", bench).returncode == 0
    throughput = section((output / "README.md").read_text(), "Throughput")
    here, there = throughput.split("Measured on Another CPU, 64 cores (amx_int8):")
    assert "| `int8` | streaming, batch 8 | bf16 | 0.9 | 99.5 | 88 |" in there
    assert "12.5" in here
    assert "12.5" not in there
    assert "1.5 |" not in there


def test_versions_of_openvino_are_those_that_ran_these_files(output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    row = {
        "openvino": "2025.0.0", "device": "CPU", "runtime": "generation1", "precision": "f32", "utterances": 60,
        "identical": 59,
    }  # fmt: skip
    of_these = row | {"files": Bundle.open(output / "int8").hashes}
    broken = of_these | {"openvino": "2024.6.0", "identical": None, "error": "cannot be read"}
    of_others = row | {"files": {"metadata.json": "0" * 64}, "openvino": "2023.3.0"}
    machine = {"cpu": "Another CPU", "cores": 64, "flags": ["amx_int8"]}
    found = {"compatibility": [of_these, broken, of_others], "reference": "2026.4.1", "machine": machine}
    report = output.parent / "compatibility.json"
    report.write_text(json.dumps(found))
    assert run_here(capfd, "card", output, "--report", report).returncode == 0
    text = section((output / "README.md").read_text(), "Compatibility")
    where = "CPU | generation1 | f32 | Another CPU, 64 cores (amx_int8)"
    assert f"| 2025.0.0 | {where} | as under 2026.4.1 in 59 of 60 recordings | int8 |" in text
    assert f"| 2024.6.0 | {where} | does not run | int8 |" in text
    assert "2023.3.0" not in text
    assert run_here(capfd, "card", output, "--report", report, "--check").returncode == 0
    assert run_here(capfd, "card", output, "--check").returncode == 1, "no report says it any more"

    report.write_text(json.dumps(found | {"compatibility": [of_these | {"identical": 61}]}))
    assert_user_error(run_here(capfd, "card", output, "--report", report, "--force"), report, "61 of 60")
    report.write_text(json.dumps(found | {"compatibility": [of_these | {"openvino": "2025 **fast**"}]}))
    assert_user_error(run_here(capfd, "card", output, "--report", report, "--force"), report)


def test_what_no_report_says_is_not_measured(output: Path) -> None:
    shutil.rmtree(output / "reports")
    (output / "report.json").unlink()
    card = card_of(output)
    assert "Error rates: not measured." in section(card, "Accuracy")
    assert "not measured" in section(card, "Throughput")
    assert "| encoder, ms a chunk | not measured | not measured |" in section(card, "INT8")
    assert "`int8`: not verified" in section(card, "Contents")
    assert "No combination of OpenVINO, device and loop was tested." in card


def test_reports_of_other_files_do_not_count(output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metadata = output / "int8" / "metadata.json"
    metadata.write_text(metadata.read_text() + "\n")
    facts = gather(output)
    assert [file.name for file in facts.unused] == ["int8.json"]
    assert "`int8`: not verified" in render_card(facts, Page())
    done = run_here(capfd, "card", output)
    assert done.returncode == 0, done.stderr
    assert "int8.json: is about none of these files" in done.stdout


def header(card: str) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    return found


@pytest.fixture
def demo_audio(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports' audio is the demo recordings'."""
    sha256 = Report.load(made / "reports" / "int8.json").manifest_sha256
    monkeypatch.setattr("scripts.publish.reports._demo_sha256", lambda *_: sha256)


def test_a_data_set_that_only_the_publisher_names_gets_no_results(made: Path) -> None:
    card = card_of(made, base_model=REAL, dataset="google/fleurs")
    assert "model-index" not in header(card)
    assert "(google/fleurs, named by the publisher)" in section(card, "Accuracy")


@pytest.mark.usefixtures("demo_audio")
def test_the_header(made: Path) -> None:
    found = header(card_of(made, base_model=REAL))
    assert (found["license"], found["library_name"], found["base_model"]) == ("openmdw-1.1", "openvino", REAL)
    assert found["pipeline_tag"] == "automatic-speech-recognition"
    assert found["base_model_relation"] == "quantized"
    assert found["language"] == ["de", "en"]
    report = Report.load(made / "reports" / "int8.json")
    results = found["model-index"][0]["results"]
    rates = {
        (result["dataset"]["config"], metric["value"])
        for result in results
        for metric in result["metrics"]
        if "int8" in metric["name"]
    }
    assert rates == {(language, round(score.wer or 0.0, 2)) for language, score in report.per_language.items()}


def test_norwegian_stays_a_word(made: Path) -> None:
    facts = gather(made)
    object.__setattr__(facts, "languages", ["no", "en"])
    assert header(render_card(facts, Page()))["language"] == ["no", "en"]


def test_demo_and_random_pages_say_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    facts = {"source": "demo", "file": "demo.nemo", "sha256": file_facts(demo.CHECKPOINT)["sha256"]}
    root = publishable(tmp_path / "demo", facts, verified=False)
    card = card_of(root)
    assert "> **This is nemotron-ov's demo checkpoint" in card
    assert (header(card).get("base_model"), header(card)["license"]) == (None, "apache-2.0")
    assert_user_error(run_here(capfd, "card", root, "--base-model", REAL), "holds demo weights")
    without = card.replace("> **This is nemotron-ov's demo checkpoint", "This is")
    assert any("missing: > **" in problem for problem in unsupported(without, gather(root), Page()))
    line = next(line for line in card.splitlines() if line.startswith("> **"))
    title = "# tiny: OpenVINO\n"
    assert title in card
    for hidden in (
        card.replace(line, f"<!--\n{line}\n-->"),
        card.replace(line, f"```\n{line}\n```"),
        card.replace(title, f"{title}\nA recognizer.\n"),
        card.replace(title, "# Nemotron: OpenVINO\n"),
    ):
        assert any("missing: > **" in problem for problem in unsupported(hidden, gather(root), Page()))
    root = publishable(tmp_path / "random", CHECKPOINT | {"random_weights": True}, verified=False)
    assert "> **These weights are random." in card_of(root)


def test_what_a_page_claims_without_a_report(output: Path) -> None:
    facts, page = gather(output), Page(base_model=REAL)
    text = render_card(facts, page)
    assert unsupported(text, facts, page) == []
    edits = {
        "| `int8` | generation1 | f32 | 13.5": "| `int8` | generation1 | f32 | 9.5",
        "## License\n": "## License\n\nTwice as fast as 2 others.\n",
        "## Limitations\n": "## Limitations\n\n- INT8 is lossless.\n",
        "### C++\n": "### C++\n\n```\nWER 2.9 %\n```\n",
        "### OpenVINO in Python\n": "### OpenVINO in Python\n\nThe rate is `2.9`.\n",
        "license: openmdw-1.1": "license: mit",
        "language:\n- de\n- en": "language:\n- de\n- en\n- fr",
    }
    for old, new in edits.items():
        assert old in text
        assert unsupported(text.replace(old, new, 1), facts, page), new
    row = next(line for line in text.splitlines() if line.startswith("| de-DE | WER | 30 |"))
    assert unsupported(text.replace("## Throughput\n", f"## Throughput\n\n{row}\n"), facts, page), (
        "another section's row"
    )
    free = "\n```python\nrate = RATE\n```\nWritten on 2026-11-26, see [us](https://example.org/v2) and `config2`.\n"
    assert unsupported(text + free, facts, page) == []
    for claim in (
        "```text\nerror rate 1.9 percent, 40 times real time\n```",
        "The rates are `WER:3` and `RTFx:40`.",
        "A rate of `1.9percent`.",
        "[1.9 percent](https://example.org)",
        "see https://example.org/WER-1.9",
        "½ of the errors",
        "error rate ①",
        "&frac12; of the errors",
        "`<!-- 1.9 -->`",
    ):
        assert unsupported(f"{text}\n{claim}\n", facts, page), claim


def test_figures_stay_with_their_caption_and_head(output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    report["machine"]["cpu"] = "Huge Server"
    for row in report["folders"]:
        row["times_real_time"] = 999.0
    (output / "reports" / "two.json").write_text(json.dumps(report))
    facts, page = gather(output), Page(base_model=REAL)
    text = render_card(facts, page)
    small, huge = (f"Measured on {name}, 2 cores (avx2):" for name in ("Test CPU", "Huge Server"))
    assert unsupported(text, facts, page) == []
    swapped = text.replace(small, "@").replace(huge, small).replace("@", huge)
    assert any("999.0" in problem for problem in unsupported(swapped, facts, page))
    assert unsupported(text.replace(huge, ""), facts, page)
    head = "| encoder, ms a chunk | × real time |"
    assert unsupported(text.replace(head, "| × real time | encoder, ms a chunk |"), facts, page)


@pytest.mark.usefixtures("demo_audio")
def test_results_in_the_header_are_claims(made: Path) -> None:
    facts, page = gather(made), Page(base_model=REAL)
    text = render_card(facts, page)
    (first, *_) = re.findall(r"value: [\d.]+", text)
    (problem,) = unsupported(text.replace(first, "value: 1.25", 1), facts, page)
    assert problem.startswith("header: ")
    assert problem.endswith(" 1.25")
    assert unsupported(text.replace("type: nemotron-ov-demo", "type: google/fleurs", 1), facts, page)
    without = re.sub(r"model-index:\n(?:(?!---)[- ].*\n)*", "", text)
    assert "metrics:" not in without
    assert unsupported(without, facts, page) == []
    for broken in ("---\n[\n---\n", "---\nmodel-index: 3\n---\n", "---\nmodel-index: [{}]\n---\n"):
        with pytest.raises(UserError, match="header cannot be read"):
            unsupported(broken, facts, page)


def test_check_says_line_and_claim(output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--base-model", REAL)
    assert run_here(capfd, "card", output, *options).returncode == 0
    assert {"README.md", "config.json", "LICENSE"} <= {file.name for file in output.iterdir()}
    done = run_here(capfd, "card", output, "--check", *options)
    assert (done.returncode, "every claim has its report" in done.stdout) == (0, True)
    card = output / "README.md"
    card.write_text(card.read_text() + "\nWER 2.9 on everything\n")
    done = run_here(capfd, "card", output, "--check", "--json", *options)
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["unsupported"][str(card)]
    assert re.fullmatch(r"line \d+: WER 2.9 on everything", problem)
    done = run_here(capfd, "card", output, *options)
    assert_user_error(done, card, "--force")
    assert card.read_text().endswith("WER 2.9 on everything\n")
    assert run_here(capfd, "card", output, "--force", *options).returncode == 0
    assert "2.9 on everything" not in card.read_text()


@pytest.mark.parametrize(("layout", "file"), [("folders", "README.md"), ("split", "README-int8.md")])
def test_the_five_lines_of_openvino_run(
    output: Path, layout: str, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capfd, "card", output, "--layout", layout).returncode == 0
    (code,) = re.findall(r"```python\n(.*?)```", (output / file).read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) == 5
    place = output if layout == "folders" else output / "int8"
    code += "\nprint(encoded.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=place)
    assert (done.returncode, done.stdout.strip()) == (0, "(1, 6, 2)"), done.stderr


def test_the_toolkits_licence_is_the_demos() -> None:
    assert licence_text("apache-2.0", None) == (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_lines_of_cpp_compile(made: Path, tmp_path: Path) -> None:
    import openvino

    (code,) = re.findall(r"```cpp\n#include (\S+)\n(.*?)```", card_of(made), re.DOTALL)
    source = tmp_path / "lines.cpp"
    source.write_text(f"#include {code[0]}\nint main() {{{code[1]}}}\n")
    include = Path(openvino.__file__).parent / "include"
    command = ["g++", "-std=c++17", "-fsyntax-only", "-I", str(include), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_references_machine_and_threads_are_named(output: Path) -> None:
    file = output / "reports" / "int8.json"
    report = json.loads(file.read_text())
    report["reference"] |= {"machine": {"cpu": "Other CPU", "cores": 64, "flags": ["amx"]}, "device": "GPU"}
    file.write_text(json.dumps(report))
    row = {
        "runtime": "generation1", "batch": 1, "precision": "f32", "encoder_step_ms": 7.0, "pipeline_rtfx": 9.0,
        "peak_rss_mb": 8.0, "files": Bundle.open(output / "int8").hashes,
    }  # fmt: skip
    machine = {"cpu": "Test CPU", "cores": 2, "flags": ["avx2"]}
    for threads in (1, 2):
        bench = {"builds": {"int8": row | {"device": "GPU"}}, "machine": machine | {"threads": threads}}
        (output / "reports" / f"bench{threads}.json").write_text(json.dumps(bench))
    card = card_of(output)
    assert re.search(r"int8 on CPU of .*, fp32 on GPU of Other CPU, 64 cores \(amx\)\.", section(card, "INT8"))
    for threads in (1, 2):
        assert f"| `int8` | generation1, GPU, threads {threads} | f32 | 7.0" in section(card, "Throughput")


def test_values_of_strangers_are_text(tmp_path: Path) -> None:
    """No markup, no line of one's own, no command."""
    checkpoint = CHECKPOINT | {"file": "a`b; touch x\n```\n.nemo"}
    recipe = INT8 | {"hash": "f" * 64, "name": "a|b <b>\n# c", "description": "Passed.\n\n## Accuracy\n\nWER 1.9 %"}
    root = publishable(tmp_path / "out", checkpoint, recipe=recipe)
    plain = publishable(tmp_path / "plain", recipe=INT8 | {"hash": "f" * 64, "name": "c", "description": "d"})
    card, other = card_of(root), card_of(plain)

    def headings(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("#")]

    assert headings(card) == headings(other)
    assert len(re.findall(r"^```", card, re.MULTILINE)) == len(re.findall(r"^```", other, re.MULTILINE))
    assert "who says of it: “Passed. \\#\\# Accuracy WER 1.9 %”" in card
    assert "| a\\|b \\<b\\> \\# c |" in section(card, "Contents")
    assert "$ nemotron-ov export 'a`b; touch x ``` .nemo' fp32" in card
    assert "--recipe 'a|b <b> # c'" in card


def test_names_of_folders(output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (output / "int8").rename(output / "int8 $(x)")
    assert_user_error(run_here(capfd, "card", output), "int8 $(x)", "rename it")


def test_what_lies_beside_a_folders_files_has_no_size(output: Path) -> None:
    before = Bundle.open(output / "int8").size_bytes
    (output / "int8" / ".DS_Store").write_bytes(bytes(1000))
    assert Bundle.open(output / "int8").size_bytes == before


BAD: list[tuple[str, tuple[str, ...]]] = [
    ("absent", ("no such folder",)),
    ("out/int8", ("is one folder", "--precision int8")),
    ("empty", ("holds no finished folders",)),
]


@pytest.mark.parametrize(("folder", "mentions"), BAD, ids=[case[0] for case in BAD])
def test_folders_that_cannot_be_used(
    output: Path, folder: str, mentions: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    (output.parent / "empty").mkdir()
    for verb in ("card", "publish"):
        more = ["someone/x"] if verb == "publish" else []
        assert_user_error(run_here(capfd, verb, output.parent / folder, *more), folder, *mentions)


def test_bad_reports_and_names(output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_user_error(run_here(capfd, "card", output, "--precision", "int4"), "has no folder int4", "fp32, int8")
    bad = output / "reports" / "bad.json"
    wordy = (output / "report.json").read_text().replace("12.5", '"fast"')
    for content in ("{", "[]", '{"rows": 3}', '{"folders": 3}', '{"folders": [{}]}', wordy, '{"builds": {"a": {}}}'):
        bad.write_text(content)
        assert_user_error(run_here(capfd, "card", output), bad.name)
    report = json.loads((output / "report.json").read_text())
    for value in ("12", float("nan"), float("inf"), -5, 0, True, [1]):
        rows = [row | {"encoder_step_ms": value} for row in report["folders"]]
        bad.write_text(json.dumps(report | {"folders": rows}))
        assert_user_error(run_here(capfd, "card", output), bad.name, "encoder_step_ms")
    row = {"runtime": "streaming", "batch": 1, "precision": "f32", "encoder_step_ms": 7.0, "pipeline_rtfx": 9.0}
    for damage in ({"batch": 0}, {"batch": True}, {"encoder_step_ms": True}, {"encoder_step_ms": "7"}):
        builds = {"int8": row | {"peak_rss_mb": 8.0} | damage}
        bad.write_text(json.dumps({"builds": builds, "machine": report["machine"]}))
        assert_user_error(run_here(capfd, "card", output), bad.name, *damage)
    for machine in ({"cpu": "", "cores": 2, "flags": []}, {"cpu": "a", "cores": 2, "flags": [1]}, {}, None):
        bad.write_text(json.dumps(report | {"machine": machine}))
        assert_user_error(run_here(capfd, "card", output), bad.name)
    compared = json.loads((output / "reports" / "int8.json").read_text())
    bad.write_text(json.dumps(compared | {"target": compared["target"] | {"machine": {}}}))
    assert_user_error(run_here(capfd, "card", output), bad.name)
    bad.write_text("[" * 100_000)
    assert_user_error(run_here(capfd, "card", output), bad.name)
    bad.unlink()
    assert_user_error(run_here(capfd, "card", output, "--report", output / "none.json"), "none.json")
    tiny_bundle(output / "other", checkpoint={"sha256": "d" * 64})
    assert_user_error(run_here(capfd, "card", output), "come from different checkpoints")
