"""Publishing with the real client to a Hub on loopback: all of it is there and checked, or nothing can be seen."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import FILES, Bundle
from quantize.recipes import RECIPES
from scripts.publish.plan import REF_NAME
from scripts.publish.reports import is_wider
from tests.helpers.command import Done, assert_user_error, run_here, run_process
from tests.helpers.hub import TOKEN, Hub, Stored
from tests.helpers.publishable import CHECKPOINT, INT8, publishable, write_reports
from tests.scripts.publish.test_card import write_card

REPO = "someone/asr-ov"
MODEL = ("--base-model", "nvidia/nemotron-3.5-asr-streaming-0.6b")
BESIDE = ["LICENSE", "README.md", "config.json"]
WRITES = r"^(PUT|POST /(?!api/validate-yaml))"
Run = Callable[..., Done]

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # the client's own


@pytest.fixture
def publish(made: Path, hub: Hub, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*more: object, output: Path = made) -> Done:
        return run_here(capfd, "publish", output, REPO, *MODEL, *more)

    return run


def expected(*folders: str) -> list[str]:
    return sorted(BESIDE + [f"{folder}/{name}" for folder in folders for name in (*FILES, "openvino_config.json")])


def ours(hub: Hub, repo_id: str = REPO, revision: str = "main") -> list[str]:
    """What of ours can be seen; every file of the folders must be the one made here."""
    if repo_id not in hub.repos or hub.repos[repo_id].resolve(revision) is None:
        return []
    return sorted(path for path in hub.repos[repo_id].tree(revision) if path != ".gitattributes")


def all_there(hub: Hub, made: Path) -> bool:
    """Whether everything can be seen, and is what lies here; in part is an error."""
    seen = ours(hub)
    assert seen in ([], expected("fp32", "int8")), "all or nothing"
    for path in seen:
        if (made / path).is_file() and path not in BESIDE:
            assert hub.repos[REPO].tree()[path].content == (made / path).read_bytes(), path
    return bool(seen)


def test_publish_shows_all_at_once_then_does_nothing(publish: Run, hub: Hub, made: Path) -> None:
    done = publish()
    assert done.returncode == 0, done.stderr
    assert all_there(hub, made)
    repo = hub.repos[REPO]
    (tag,) = repo.tags
    assert repo.tags[tag] == repo.branches["main"]
    assert len(repo.commits) == 2, "the Hub's first commit, and ours"
    assert f"published, tag {tag}" in done.stdout
    before = len(hub.sent(WRITES))
    again = publish()
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert len(hub.sent(WRITES)) == before
    assert len(repo.commits) == 2


def test_what_lies_beside_the_folders(publish: Run, hub: Hub) -> None:
    publish()
    tree = hub.repos[REPO].tree()
    assert json.loads(tree["config.json"].content)["folders"] == {"fp32": "FP32", "int8": "INT8"}
    assert json.loads(tree["int8/openvino_config.json"].content)["quantization_config"]["name"] == "int8"
    assert json.loads(tree["fp32/openvino_config.json"].content)["quantization_config"] is None
    assert tree["LICENSE"].content.startswith(b"OpenMDW License Agreement, version 1.1")
    assert b"license: openmdw-1.1" in tree["README.md"].content


def test_a_dry_run_sends_nothing_and_shows_everything(publish: Run, hub: Hub) -> None:
    hub.add(REPO, {"README.md": b"old", "int4/old.bin": b"theirs"})
    done = publish("--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)["repositories"]
    changes = {file["path"]: file["change"] for file in plan["files"]}
    assert sorted(changes) == expected("fp32", "int8")
    assert (changes["README.md"], changes["int8/metadata.json"]) == ("changed", "new")
    assert plan["stays"] == ["int4/old.bin"]
    assert plan["card"].startswith("---\n")
    assert plan["bytes_to_send"] == plan["bytes"] == sum(file["bytes"] for file in plan["files"])
    table = publish("--dry-run")
    assert "# tiny: OpenVINO" in table.stdout
    assert "int4/old.bin" in table.stdout
    assert not hub.sent(WRITES)


def test_large_files_go_one_by_one_and_say_how_much_is_done(
    publish: Run, hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.publish.upload.LARGE", 200)
    done = publish()
    assert done.returncode == 0, done.stderr
    assert re.search(r"sending int8/nemotron_encoder.bin, 0.0 MB; 0.\d of 0.\d MB are there", done.stderr)
    assert all_there(hub, made)


def test_files_of_others_stay(publish: Run, hub: Hub) -> None:
    hub.add(REPO, {"README.md": b"old", "int4/old.bin": b"theirs"})
    assert publish().returncode == 0
    assert hub.repos[REPO].tree()["int4/old.bin"].content == b"theirs"
    assert hub.repos[REPO].tree()["README.md"].content != b"old"


def test_only_what_changed_is_sent(publish: Run, hub: Hub, output: Path) -> None:
    assert publish(output=output).returncode == 0
    sent = len(hub.sent("^PUT"))
    repo = hub.repos[REPO]
    repo.branches["main"] = repo.commit(repo.tree() | {"config.json": Stored(b"{}", large=False)})
    done = publish(output=output)
    assert done.returncode == 0, done.stderr
    assert len(hub.sent("^PUT")) == sent
    assert hub.repos[REPO].tree()["config.json"].content != b"{}"


def test_split_makes_a_repository_for_each_folder(publish: Run, hub: Hub) -> None:
    done = publish("--layout", "split")
    assert done.returncode == 0, done.stderr
    assert sorted(hub.repos) == [f"{REPO}-fp32-ov", f"{REPO}-int8-ov"]
    assert ours(hub, f"{REPO}-int8-ov") == sorted([*BESIDE, *FILES, "openvino_config.json"])
    card = hub.repos[f"{REPO}-int8-ov"].tree()["README.md"].content.decode()
    assert 'json.load(open("metadata.json"))' in card
    assert "this repository" in card
    assert "|  | fp32 (not in this repository) | int8 |" in card
    assert "| encoder, ms a chunk | 12.5 | 13.5 |" in card


def test_one_folder_of_several(publish: Run, hub: Hub) -> None:
    done = publish("--precision", "int8", "--tag", "v1.0-int8")
    assert done.returncode == 0, done.stderr
    assert ours(hub) == expected("int8")
    card = hub.repos[REPO].tree()["README.md"].content.decode()
    assert "|  | fp32 (not in this repository) | int8 |" in card
    assert "of another build" not in card


def test_a_branch_and_a_chosen_tag(publish: Run, hub: Hub) -> None:
    done = publish("--revision", "next", "--tag", "v1", "--private")
    assert done.returncode == 0, done.stderr
    repo = hub.repos[REPO]
    assert repo.private
    assert (ours(hub), ours(hub, revision="next")) == ([], expected("fp32", "int8"))
    assert repo.tags == {"v1": repo.branches["next"]}


def test_a_pull_request_once(publish: Run, hub: Hub) -> None:
    hub.add(REPO, {"README.md": b"theirs"})
    hub.read_only.add(REPO)
    for message in ("published", "nothing to do"):
        done = publish("--pr")
        assert done.returncode == 0, done.stderr
        assert f"{REPO}/discussions/1: {message}" in done.stdout
    repo = hub.repos[REPO]
    assert (list(repo.requests), repo.tags) == ([1], {})
    assert ours(hub, revision="refs/pr/1") == expected("fp32", "int8")
    assert repo.tree()["README.md"].content == b"theirs"


LANDS = [
    ("429 with Retry-After", r"POST /api/models/.*/commit/", 429, {"headers": {"Retry-After": "7"}}),
    ("429 while a large file is sent", r"PUT /lfs/", 429, {"headers": {"Retry-After": "7"}}),
    ("500 once while a large file is sent", r"PUT /lfs/", 500, {"after": 2}),
    ("a cut connection while a large file is sent", r"PUT /lfs/", "half", {"after": 1}),
    ("a commit whose answer is lost", r"POST /api/models/.*/commit/", "lost", {}),
    ("a repository whose answer is lost", r"POST /api/repos/create", "lost", {"expect": 2}),
    ("a tag whose answer is lost", r"POST /api/models/.*/tag/", "lost", {}),
]


@pytest.mark.parametrize(("request_pattern", "how", "more"), [case[1:] for case in LANDS], ids=[c[0] for c in LANDS])
def test_what_passes_does_not_stop(
    publish: Run,
    hub: Hub,
    made: Path,
    waits: list[float],
    request_pattern: str,
    how: int | str,
    more: dict[str, object],
) -> None:
    expect = more.get("expect", 0)
    hub.fail(request_pattern, how, **{name: value for name, value in more.items() if name != "expect"})
    done = publish()
    assert done.returncode == expect, done.stderr
    assert hub.faults[0].times == 0, "the fault was met"
    if how == 429:
        assert any(wait >= 7 for wait in waits)
    if expect:
        assert publish().returncode == 0
    assert all_there(hub, made)
    assert len(hub.repos[REPO].commits) == 2, "no second commit"


STOPS = [
    ("403 for large files: no room left", r"POST .*/objects/batch", 403, {"message": "storage limit reached"}),
    ("403 for the commit", r"POST /api/models/.*/commit/", 403, {}),
    ("404 for the commit", r"POST /api/models/.*/commit/", 404, {}),
    ("409 for the commit", r"POST /api/models/.*/commit/", 409, {}),
    ("500 for the commit", r"POST /api/models/.*/commit/", 500, {}),
    ("500 in the middle", r"PUT /lfs/", 500, {"times": -1, "after": 2}),
    ("a connection that is cut in the middle", r"PUT /lfs/", "half", {"times": -1, "after": 2}),
    ("a commit that is cut on its way", r"POST /api/models/.*/commit/", "half", {}),
    ("corrupted large files", r"PUT /lfs/", "corrupt", {"times": -1}),
    ("403 for the tag", r"POST /api/models/.*/tag/", 403, {}),
    ("429 without end", r"POST /api/models/.*/commit/", 429, {"headers": {"Retry-After": "7"}, "times": -1}),
    ("checksums that cannot be asked for", r"GET /api/models/.*/tree/", 500, {"times": -1, "after": 0}),
]


@pytest.mark.parametrize(("request_pattern", "how", "more"), [case[1:] for case in STOPS], ids=[c[0] for c in STOPS])
def test_what_stops_is_finished_by_the_second_run(
    publish: Run,
    hub: Hub,
    made: Path,
    waits: list[float],
    request_pattern: str,
    how: int | str,
    more: dict[str, object],
) -> None:
    hub.fail(request_pattern, how, **more)
    done = publish()
    assert_user_error(done, REPO)
    if "message" in more:
        assert str(more["message"]) in done.error_lines[0]
    if all_there(hub, made):
        assert "/tag/" in request_pattern or "/tree/" in request_pattern
        assert not hub.repos[REPO].tags
    hub.faults.clear()
    second = publish()
    assert second.returncode == 0, second.stderr
    assert all_there(hub, made)
    assert len(hub.repos[REPO].tags) == 1


def test_a_corrupted_part_is_sent_again(publish: Run, hub: Hub, made: Path, waits: list[float]) -> None:
    hub.multipart = True
    hub.fail(r"PUT /lfs/[0-9a-f]{64}/2", "corrupt", times=-1)
    assert_user_error(publish(), "another SHA-256")
    assert not all_there(hub, made)
    hub.faults.clear()
    second = publish()
    assert second.returncode == 0, second.stderr
    assert hub.sent(r"PUT /lfs/[0-9a-f]{64}/3"), "sent in parts"
    assert all_there(hub, made)


def test_what_a_gitignore_leaves_out_is_noticed(publish: Run, hub: Hub) -> None:
    hub.ignore.add("int8/nemotron_vocab.json")
    done = publish()
    assert done.returncode == 1
    assert "int8/nemotron_vocab.json are missing" in done.error_lines[0]
    assert not hub.repos[REPO].tags
    hub.ignore.clear()
    assert publish().returncode == 0
    assert len(hub.repos[REPO].tags) == 1


def test_somebody_elses_commit_meanwhile(publish: Run, hub: Hub, made: Path) -> None:
    repo = hub.add(REPO, {"README.md": b"theirs"})
    put = hub.fault

    def meddle(request: str) -> object:
        if request.startswith("POST") and "/commit/" in request and len(repo.commits) == 1:
            repo.branches["main"] = repo.commit({"README.md": Stored(b"newer", large=False)})
        return put(request)

    hub.fault = meddle  # type: ignore[method-assign,assignment]
    assert_user_error(publish(), "412")
    assert repo.tree()["README.md"].content == b"newer"
    assert publish().returncode == 0
    assert all_there(hub, made)


@pytest.mark.parametrize("when", ["POST .*/preupload/", "GET .*/whoami"])
@pytest.mark.parametrize("name", ["metadata.json", "nemotron_encoder.xml", "nemotron_joint.bin"])
def test_a_file_that_changes_meanwhile_is_not_published(
    publish: Run, hub: Hub, output: Path, made: Path, name: str, when: str
) -> None:
    """What was verified is sent, or nothing is tagged."""
    asked = hub.fault

    def meddle(request: str) -> object:
        if re.match(when, request):
            file = output / "int8" / name
            file.write_bytes(bytes(file.stat().st_size))
        return asked(request)

    hub.fault = meddle  # type: ignore[method-assign,assignment]
    done = publish(output=output)
    if name.endswith(".bin"):
        assert done.returncode in (1, 2)
        assert name in done.error_lines[0]
        assert not hub.repos[REPO].tags
        if "whoami" in when:
            assert not all_there(hub, made), "the hash was compared before the first byte"
    else:
        assert done.returncode == 0, done.stderr
        assert all_there(hub, made)


def test_the_tag_marks_what_was_compared(publish: Run, hub: Hub) -> None:
    """Not what somebody else committed between the comparison and the tag."""
    meddled = hub.fault

    def meddle(request: str) -> object:
        if request.startswith("POST") and "/tag/" in request:
            repo = hub.repos[REPO]
            repo.branches["main"] = repo.commit(repo.tree() | {"README.md": Stored(b"newer", large=False)})
        return meddled(request)

    hub.fault = meddle  # type: ignore[method-assign,assignment]
    assert publish("--tag", "v1").returncode == 0
    repo = hub.repos[REPO]
    assert repo.tree("v1")["README.md"].content != b"newer"
    assert repo.tree()["README.md"].content == b"newer"


def refusal(done: Done, hub: Hub, *mentions: object) -> None:
    assert_user_error(done, *map(str, mentions))
    assert not hub.sent(WRITES), "before the first byte"


def test_all_refusals_at_once(publish: Run, hub: Hub, output: Path) -> None:
    repo = hub.add(REPO, {})
    repo.tags["v1"] = repo.branches["main"]
    hub.reject_card = '"license" must be one of'
    hub.read_only.add(REPO)
    shutil.rmtree(output / "reports")
    (output / "int8" / "nemotron_joint.bin").write_bytes(b"0")
    done = publish("--tag", "v1", "--private", output=output)
    refusal(
        done, hub, "nemotron_joint.bin: differs", "no report in which exactly these files passed against NeMo",
        "no report in which exactly these files passed against their reference", "someone may not write there (403",
        "exists and is public", '"license" must be one of', "--tag v1: exists and marks other files",
    )  # fmt: skip
    dry = publish("--dry-run", "--json", "--tag", "v1", output=output)
    assert dry.returncode == 2
    assert len(json.loads(dry.stdout)["repositories"][0]["reasons"]) >= 6


def test_without_a_token(publish: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_AnotherToken123")
    done = publish()
    refusal(done, hub, "the Hub does not accept the token (Invalid user token. The token from HF_TOKEN")
    assert "hf_AnotherToken123" not in done.stderr
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    refusal(publish(), hub, "there is no token; set HF_TOKEN")
    assert publish("--dry-run").returncode == 2


def test_a_token_that_only_reads(publish: Run, hub: Hub) -> None:
    hub.role = "read"
    refusal(publish(), hub, "the token may only read")


def test_another_owners_repository(hub: Hub, made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refusal(run_here(capfd, "publish", made, "other/asr", *MODEL), hub, "someone may not create repositories of other")
    hub.orgs["other"] = "write"
    assert run_here(capfd, "publish", made, "other/asr", *MODEL).returncode == 0


def test_random_weights_and_failed_reports_are_refused(
    hub: Hub, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = publishable(output.parent / "random", CHECKPOINT | {"random_weights": True}, verified=False)
    refusal(run_here(capfd, "publish", root, REPO), hub, "comes from random weights")
    root = publishable(output.parent / "broken", encoder_gain=0.2)
    refusal(run_here(capfd, "publish", root, REPO, *MODEL), hub, "int8.json: FAILED")


def test_a_report_against_itself_proves_nothing(publish: Run, hub: Hub, output: Path) -> None:
    shutil.copytree(output / "int8", output.parent / "copy")
    (output / "reports" / "int8.json").unlink()
    other = output.parent / "self"
    write_reports(other, Bundle.open(output.parent / "copy"), Bundle.open(output / "int8"))
    shutil.copy(other / "reports" / "int8.json", output / "reports" / "int8.json")
    refusal(publish(output=output), hub, "passed against a reference that itself passed against NeMo")


def test_the_wide_limits_of_the_clients_loop_against_nemo_publish_no_recipe(
    publish: Run, hub: Hub, output: Path
) -> None:
    """5 points for the loop's own differences are not what a recipe may lose."""
    file = output / "reports" / "int8.json"
    report = json.loads(file.read_text())
    report["reference"] |= {"name": "model.nemo", "runtime": "nemo-streaming", "files": {}, "recipe": {}}
    file.write_text(json.dumps(report))
    refusal(publish(output=output), hub, "passed against a reference that itself passed against NeMo")


def test_a_larger_report_that_does_not_decide_is_not_passed_over(publish: Run, hub: Hub, output: Path) -> None:
    file = output / "reports" / "int8.json"
    report = json.loads(file.read_text())
    lost = [row | {"target": row["target"] | {"text": row["text"] + " a b c"}} for row in report["rows"][:3]]
    others = [row | {"sentence": f"again {number}"} for number, row in enumerate(report["rows"])]
    (output / "reports" / "more.json").write_text(json.dumps(report | {"rows": report["rows"] + others[3:] + lost}))
    refusal(publish(output=output), hub, "more.json does not decide by 120 utterances, and no report of as many passed")


WIDE = {"exact_match": 0.0, "wer_delta": 100.0, "language_wer_delta": 100.0, "wer_between": 100.0}


def with_limits(root: Path, limits: dict[str, float]) -> None:
    """As if the report of int8 had been judged by these."""
    file = root / "reports" / "int8.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"limits": limits, "limits_of": "the built-in recipe int8"}))


def test_what_a_report_says_of_its_limits_is_not_believed(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A broken folder, with the limits of a built-in recipe and of the publisher's own edited."""
    for name, recipe in (("built-in", INT8), ("own", INT8 | {"hash": "f" * 64, "name": "mine"})):
        root = publishable(tmp_path / name, encoder_gain=0.0, recipe=recipe)
        with_limits(root, WIDE)
        refusal(run_here(capfd, "publish", root, REPO, *MODEL), hub, "int8.json: FAILED")


def test_limits_of_a_recipe_of_ones_own_are_on_the_page(tmp_path: Path) -> None:
    """Where they are not wider than int4's; else this toolkit's count."""
    root = publishable(tmp_path / "out", recipe=INT8 | {"hash": "f" * 64, "name": "mine"})
    with_limits(root, {"exact_match": 0.6, "wer_delta": 0.4, "language_wer_delta": 1.5, "wer_between": 4.5})
    message = "limits: the publisher's recipe mine (60 % identical, 0.4 points more, 1.5 in one language, 4.5 % of text"
    assert message in write_card(root).read_text()
    with_limits(root, WIDE)
    assert "limits: ours for an unknown recipe, mine" in write_card(root).read_text()


INT4 = RECIPES["int4"].tolerance


@pytest.mark.parametrize(
    ("change", "wider"),
    [
        ({}, False),
        ({"exact_match": 0.4}, True),
        ({"wer_delta": 1.1}, True),
        ({"language_wer_delta": 2.1}, True),
        ({"language_wer_delta": None}, False),
        ({"wer_between": 6.1}, True),
        ({"wer_between": None}, False),
    ],
)
def test_wider_limits(change: dict[str, float | None], wider: bool) -> None:
    assert is_wider(INT4.model_copy(update=change), INT4) is wider


def test_a_folder_of_an_unknown_checkpoint_is_refused(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = publishable(tmp_path / "out", {"source": "model.nemo"})
    refusal(run_here(capfd, "publish", root, REPO, *MODEL), hub, "records no SHA-256 of its checkpoint")


def test_files_that_were_edited_beside_the_folders(publish: Run, hub: Hub, output: Path) -> None:
    (output / "LICENSE").write_text("my own licence")
    (output / "config.json").write_text('{"mine": 1}')
    refusal(publish(output=output), hub, "LICENSE: is not the text of openmdw-1.1", "config.json: is not what")
    (output / "config.json").unlink()
    done = publish("--license", "other", output=output)
    assert done.returncode == 0, done.stderr
    assert hub.repos[REPO].tree()["LICENSE"].content == b"my own licence"


def test_an_edited_page_names_its_repository(publish: Run, hub: Hub, output: Path) -> None:
    card = write_card(output)
    card.write_text(card.read_text() + "\nThanks to my colleagues.\n")
    assert publish(output=output).returncode == 0
    text = hub.repos[REPO].tree()["README.md"].content.decode()
    assert "Thanks to my colleagues" in text
    assert f"nemotron-ov fetch {REPO} model" in text
    assert "OWNER/NAME" not in text


def test_too_few_utterances_decide_nothing(publish: Run, hub: Hub, output: Path) -> None:
    file = output / "reports" / "fp32.json"
    stored = json.loads(file.read_text())
    stored["rows"] = stored["rows"][:3]
    file.write_text(json.dumps(stored))
    done = publish(output=output)
    refusal(done, hub, "against NeMo (fp32.json has too few utterances to decide)")
    assert "a reference that itself passed" in done.error_lines[0], "int8 was compared with that fp32"


def test_unknown_licences_need_a_text(hub: Hub, made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refusal(run_here(capfd, "publish", made, REPO), hub, "the licence of the weights is not known")
    refusal(run_here(capfd, "publish", made, REPO, "--license", "other"), hub, "--license other: its text is not known")
    terms = made.parent / "terms.txt"
    terms.write_text("my terms")
    done = run_here(capfd, "publish", made, REPO, "--license", "other", "--license-file", terms)
    assert done.returncode == 0, done.stderr
    assert hub.repos[REPO].tree()["LICENSE"].content == b"my terms"


def test_an_edited_page_is_published_where_reports_support_it(publish: Run, hub: Hub, output: Path) -> None:
    card = write_card(output)
    assert publish("--dry-run", output=output).returncode == 0
    card.write_text(card.read_text() + "\nWrite to us with questions.\n")
    assert publish(output=output).returncode == 0
    assert b"Write to us" in hub.repos[REPO].tree()["README.md"].content
    card.write_text(card.read_text() + "\nThe word error rate is 3.1 %.\n")
    assert_user_error(publish(output=output), "claims what no report supports", "The word error rate is 3.1 %.")


def test_tokens_and_signatures_are_seen_nowhere(hub: Hub, output: Path, tmp_path: Path) -> None:
    hub.fail(r"PUT /lfs/", 500)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = run_process("publish", output, REPO, *MODEL, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "PUT http" in done.stderr, "the client's own warning"
    for secret in (TOKEN, "SECRETSIGNATURE"):
        assert secret not in done.stdout + done.stderr
        assert not [file for file in tmp_path.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


def test_a_hub_without_xet_is_named(publish: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    assert_user_error(publish(), "xet-write-token", "HF_HUB_DISABLE_XET=1 sends by Git LFS")
    assert not all_there(hub, made)


def test_names_that_git_refuses(publish: Run, hub: Hub) -> None:
    done = publish("--tag=bad name", "--revision=a..b")
    refusal(done, hub, "--tag bad name: Git allows no such name", "--revision a..b: Git allows no such name")
    for name in ("-x", "x/", "x.", "x.lock", "é", "a//b", ".a", "x/.y", ""):
        assert not REF_NAME.fullmatch(name), name
    for name in ("v1.0-int8", "refs/pr/3", "build-22f247fdd77e", "x_y/z"):
        assert REF_NAME.fullmatch(name), name


@pytest.mark.parametrize("revision", ["refs/heads/main", "refs/pr/9", "refs/pr/x", "HEAD", "a" * 40, ""])
def test_revisions_that_are_no_branch(publish: Run, hub: Hub, revision: str) -> None:
    hub.add(REPO, {})
    refusal(publish("--revision", revision), hub, f"--revision {revision}")


def test_a_tag_is_not_a_branch(publish: Run, hub: Hub) -> None:
    repo = hub.add(REPO, {})
    repo.branches["next"] = repo.branches["main"]
    for tag, more in (("main", ()), ("next", ()), ("other", ("--revision", "other"))):
        refusal(publish("--tag", tag, *more), hub, f"--tag {tag}: is a branch")
    refusal(publish("--tag", "refs/tags/x"), hub, "--tag refs/tags/x: is no name of a branch or a tag")


def test_a_pull_request_is_gone_on_with(publish: Run, hub: Hub) -> None:
    repo = hub.add(REPO, {"README.md": b"theirs"})
    repo.requests[1] = repo.branches["main"]
    done = publish("--revision", "refs/pr/1", "--dry-run")
    assert done.returncode == 0, done.stdout


def test_a_commit_after_the_plan_is_refused(publish: Run, hub: Hub) -> None:
    """Between the comparison and the first byte, too."""
    assert publish().returncode == 0
    repo = hub.repos[REPO]
    old = repo.branches["main"] = repo.commit(repo.tree() | {"LICENSE": Stored(b"old", large=False)})
    asked = hub.fault
    compared: list[str] = []

    def meddle(request: str) -> object:
        if compared and repo.branches["main"] == old:
            repo.branches["main"] = repo.commit(repo.tree() | {"README.md": Stored(b"newer", large=False)})
        compared.extend(request for _ in range(request.startswith("GET") and "/tree/" in request))
        return asked(request)

    hub.fault = meddle  # type: ignore[method-assign,assignment]
    assert_user_error(publish(), "412")
    assert repo.tree()["LICENSE"].content == b"old"
    assert repo.tree()["README.md"].content == b"newer"


def test_what_is_replaced_and_what_stays_is_said(publish: Run, hub: Hub) -> None:
    hub.add(REPO, {"LICENSE": b"theirs", "int4/metadata.json": b"{}", "int4/nemotron_joint.bin": b"0"})
    for more in (("--dry-run",), ()):
        done = publish(*more)
        assert "int4 stays beside the new build" in " ".join(done.stdout.split())
    assert "replaces what is there with other content: LICENSE" in done.stderr
    assert publish("--json").returncode == 0


@pytest.mark.parametrize("answer", ["{}", "[]", "<html>", "[" * 100_000], ids=["object", "list", "page", "deep"])
@pytest.mark.parametrize(
    "request_pattern", ["/whoami-v2", f"GET /api/models/{REPO}$", "/refs$", "/preupload/", "/batch", "/commit/"]
)
def test_answers_that_are_no_hubs(publish: Run, hub: Hub, request_pattern: str, answer: str) -> None:
    hub.add(REPO, {"README.md": b"theirs"})
    hub.fail(request_pattern, "answer", message=answer, times=-1)
    assert_user_error(publish(), REPO)
    assert hub.repos[REPO].tree()["README.md"].content == b"theirs"


@pytest.mark.parametrize("endpoint", ["http://host:abc", "http://[bad", "nonsense"])
def test_endpoints_that_are_none(publish: Run, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert_user_error(publish(), REPO)


@pytest.mark.parametrize("token", ["hf_oauth_SECRETSECRET", "hf_jwt_eyJhbGciOiJ.x.y", "plainsecrettoken123"])
def test_tokens_of_any_form_are_hidden(publish: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setattr("tests.helpers.hub.TOKEN", token)
    monkeypatch.setenv("HF_TOKEN", token)
    hub.fail("POST /api/repos/create", 400, message=f"bad token {token}")
    done = publish()
    assert_user_error(done, "bad token")
    assert token.rpartition("_")[2] not in done.stderr


@pytest.mark.parametrize("repo_id", ["asr", "a/b/c", "someone/a b", "someone/.."])
def test_no_repository_id(made: Path, hub: Hub, repo_id: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert_user_error(run_here(capfd, "publish", made, repo_id, *MODEL), repo_id)


def test_an_unreachable_hub_is_one_line(publish: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert_user_error(publish(), REPO, "the Hub cannot be asked", "HF_ENDPOINT")


def test_the_helper_checks_large_files(hub: Hub) -> None:
    content = b"x" * 10
    assert Stored(content, large=True).entry("a")["lfs"]["oid"] == hashlib.sha256(content).hexdigest()
