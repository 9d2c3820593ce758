"""Getting folders from the Hub: to a place of one's own, and as hf:// wherever a verb takes a folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from export.bundle import FILES, Bundle
from export.checkpoint import open_checkpoint
from export.checkpoint.hub import checkpoint_facts
from export.errors import UserError
from export.hub import without_secrets
from export.remote_folder import RemoteFolder
from tests.helpers.command import Done, assert_user_error, run_here
from tests.helpers.hub import Hub, Stored
from tests.helpers.tiny_bundle import speech

REPO = "someone/asr-ov"
Run = Callable[..., Done]


@pytest.fixture
def published(hub: Hub, made: Path) -> Hub:
    """A repository with both folders, and a tag."""
    files = {f"{name}/{file}": (made / name / file).read_bytes() for name in ("fp32", "int8") for file in FILES}
    repo = hub.add(REPO, {"README.md": b"card", "config.json": b"{}"} | files)
    repo.tags["v1"] = repo.branches["main"]
    return hub


@pytest.fixture
def fetch(published: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*more: object) -> Done:
        return run_here(capfd, "fetch", REPO, tmp_path / "got", *more)

    return run


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_one_folder_whole_and_nothing_else(fetch: Run, published: Hub, made: Path, tmp_path: Path) -> None:
    done = fetch("--precision", "int8", "--revision", "v1", "--json")
    assert done.returncode == 0, done.stderr
    got = Bundle.open(tmp_path / "got")
    assert got.hashes == Bundle.open(made / "int8").hashes == json.loads(done.stdout)["files"]
    assert left(got.path) == sorted(FILES)
    assert published.sent("HEAD .*/config.json"), "the Hub counts downloads by it"
    assert not published.sent("fp32/")
    assert_user_error(fetch("--precision", "int8"), "already exists; add --force")
    assert fetch("--precision", "fp32", "--force").returncode == 0
    assert Bundle.open(tmp_path / "got").metadata.precision == "FP32"
    assert left(tmp_path) == ["got"]


def test_a_split_repository(hub: Hub, made: Path, fetch: Run, tmp_path: Path) -> None:
    hub.add(REPO, {file: (made / "int8" / file).read_bytes() for file in FILES})
    assert fetch().returncode == 0
    assert Bundle.open(tmp_path / "got").hashes == Bundle.open(made / "int8").hashes


def test_what_is_not_there(fetch: Run, published: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_user_error(fetch("--precision", "int4"), "hf://someone/asr-ov/int4", "finished folders there: fp32, int8")
    assert_user_error(fetch(), "finished folders there: fp32, int8")
    assert_user_error(fetch("--precision", "int8", "--revision", "v2"), "404: Revision not found")
    del published.repos[REPO].tree()["int8/nemotron_vocab.json"]
    assert_user_error(fetch("--precision", "int8"), "lacks nemotron_vocab.json")
    for repo_id in ("someone/absent", "asr", "../x"):
        assert_user_error(run_here(capfd, "fetch", repo_id, tmp_path / "got", "--precision", "int8"), repo_id)
    assert left(tmp_path) == []


def test_content_that_is_not_the_hubs(fetch: Run, published: Hub, tmp_path: Path) -> None:
    published.fail(r"GET .*/resolve/.*nemotron_encoder\.bin", "corrupt")
    done = fetch("--precision", "int8")
    assert done.returncode == 1
    assert "int8/nemotron_encoder.bin came with another checksum" in done.error_lines[0]
    published.fail(r"GET .*/resolve/.*nemotron_vocab\.json", "corrupt")
    assert "nemotron_vocab.json came with another checksum" in fetch("--precision", "int8").error_lines[0]
    assert left(tmp_path) == []
    assert fetch("--precision", "int8").returncode == 0


def test_a_folder_that_differs_from_its_metadata(fetch: Run, published: Hub, tmp_path: Path) -> None:
    tree = published.repos[REPO].tree()
    tree["int8/nemotron_joint.bin"] = Stored(bytes(len(tree["int8/nemotron_joint.bin"].content)), large=True)
    done = fetch("--precision", "int8")
    assert done.returncode == 1
    assert "nemotron_joint.bin: differs from metadata.json; nothing was kept" in done.error_lines[0]
    assert left(tmp_path) == []


def test_a_cut_connection_goes_on_where_it_broke_off(fetch: Run, published: Hub, waits: list[float]) -> None:
    published.fail(r"GET .*/resolve/.*nemotron_encoder\.bin", "stop")
    assert fetch("--precision", "int8").returncode == 0
    assert len(published.sent(r"GET .*nemotron_encoder\.bin")) == 2


def test_a_hub_that_fails_leaves_nothing(fetch: Run, published: Hub, waits: list[float], tmp_path: Path) -> None:
    published.fail(r"GET .*/resolve/.*nemotron_encoder\.bin", 500, times=-1)
    assert_user_error(fetch("--precision", "int8"), "cannot be fetched", "500")
    assert left(tmp_path) == []
    published.faults.clear()
    assert fetch("--precision", "int8").returncode == 0


def test_verbs_take_addresses(published: Hub, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    audio = tmp_path / "a.flac"
    soundfile.write(audio, speech(0.5), 16000)
    local = run_here(capfd, "transcribe", made / "int8", audio)
    for address in (f"hf://{REPO}/int8@v1", f"hf://{REPO}@v1/int8"):
        done = run_here(capfd, "transcribe", address, audio)
        assert (done.returncode, done.stdout) == (0, local.stdout), done.stderr
    assert run_here(capfd, "inspect", f"hf://{REPO}/fp32").returncode == 0
    report = tmp_path / "report.json"
    arguments = ("--reference", f"hf://{REPO}/fp32", "--report", report, "--limit", "1", "--ignore-text")
    done = run_here(capfd, "verify", f"hf://{REPO}/int8", *arguments)
    assert report.is_file(), done.stderr
    done = run_here(capfd, "quantize", f"hf://{REPO}/int8", tmp_path / "new", "--recipe", "int8")
    assert_user_error(done, "was made by recipe int8")
    assert not published.sent("fp16")


def test_addresses_that_lead_nowhere(published: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    assert_user_error(run_here(capfd, "inspect", f"hf://{REPO}"), "holds no metadata.json")
    assert_user_error(run_here(capfd, "inspect", f"hf://{REPO}/int8@nope"), REPO, "404: Revision not found")
    assert_user_error(run_here(capfd, "inspect", "hf://someone"), "no address of a folder")
    tree = published.repos[REPO].tree()
    tree["int8/nemotron_joint.bin"] = Stored(b"0", large=True)
    assert_user_error(run_here(capfd, "inspect", f"hf://{REPO}/int8"), "nemotron_joint.bin differ")


def test_without_a_network_the_cache_serves(
    published: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capfd, "inspect", f"hf://{REPO}/int8").returncode == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run_here(capfd, "inspect", f"hf://{REPO}/int8").returncode == 0
    assert_user_error(run_here(capfd, "inspect", f"hf://{REPO}/fp32"), REPO)


def test_metadata_that_came_corrupted(published: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The cache keeps them; the Hub's checksum says it, and deleting what is named heals it."""
    for name in ("metadata.json", "nemotron_encoder.bin"):
        published.fail(rf"GET .*/resolve/.*int8/{name}", "corrupt")
        for _ in range(2):
            done = run_here(capfd, "inspect", f"hf://{REPO}/int8")
            assert_user_error(done, name, "differ from what the Hub or")
        done = run_here(capfd, "fetch", REPO, tmp_path / name, "--precision", "int8")
        assert done.returncode == 0, "the client's cache is not used"
        named = re.search(r"delete (\S+) and run again", run_here(capfd, "inspect", f"hf://{REPO}/int8").stderr)
        assert named is not None
        assert Path(named[1]).name == "models--someone--asr-ov"
        shutil.rmtree(named[1])
        assert run_here(capfd, "inspect", f"hf://{REPO}/int8").returncode == 0
        shutil.rmtree(named[1])


def test_a_valid_metadata_of_other_content(published: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    """No hash in the folder is about its metadata."""
    assert run_here(capfd, "inspect", f"hf://{REPO}/int8").returncode == 0
    entry = published.repos[REPO].tree()["int8/metadata.json"]
    published.repos[REPO].tree()["int8/metadata.json"] = Stored(entry.content + b"\n", large=False)
    assert_user_error(run_here(capfd, "inspect", f"hf://{REPO}/int8"), "metadata.json differ from what the Hub")


def test_pull_requests_and_branches_with_slashes(fetch: Run, published: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    repo = published.repos[REPO]
    repo.requests[1] = repo.branches["feature/x"] = repo.branches["main"]
    for revision in ("refs/pr/1", "feature/x"):
        assert fetch("--precision", "int8", "--force", "--revision", revision).returncode == 0
    assert run_here(capfd, "inspect", f"hf://{REPO}@refs/pr/1/int8").returncode == 0
    done = run_here(capfd, "fetch", f"{REPO}@main", "x", "--revision", "v1")
    assert_user_error(done, "names main already")


def test_passwords_of_addresses_are_hidden() -> None:
    assert without_secrets("to http://user:PASS@word@host/x?sig=1") == "to http://…@host/x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://a/b", ("a/b", "", None)),
        ("hf://a/b/int8", ("a/b", "int8", None)),
        ("hf:/a/b/int8@v1.0", ("a/b", "int8", "v1.0")),
        ("hf://a/b@main/x/int8", ("a/b", "x/int8", "main")),
        ("hf://a/b/int8@refs/pr/3", ("a/b", "int8", "refs/pr/3")),
        ("hf://a/b@refs/pr/3", ("a/b", "", "refs/pr/3")),
        ("hf://a/b@refs/pr/3/int8", ("a/b", "int8", "refs/pr/3")),
    ],
)
def test_addresses(text: str, expected: tuple[str, str, str | None]) -> None:
    remote = RemoteFolder.parse(text)
    assert (remote.repo_id, remote.folder, remote.revision) == expected


@pytest.mark.parametrize("text", ["hf://a", "hf://a/b/../c", "hf://a/b@x/c@y", "hf://a/b c", "hf://"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UserError, match="no address of a folder"):
        RemoteFolder.parse(text)


def test_what_folders_record_of_their_checkpoint(tmp_path: Path) -> None:
    """The Hub's id and commit where the client's cache holds it, and no path of this machine."""
    from export import demo

    cached = tmp_path / "models--nvidia--some-model" / "snapshots" / ("0" * 40) / "some-model.nemo"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(demo.CHECKPOINT)
    facts = checkpoint_facts(open_checkpoint(cached))
    assert (facts["source"], facts["revision"]) == ("nvidia/some-model", "0" * 40)
    assert checkpoint_facts(open_checkpoint("demo"))["source"] == "demo"
    copy = Path(shutil.copy(demo.CHECKPOINT, tmp_path / "mine.nemo"))
    assert checkpoint_facts(open_checkpoint(copy))["source"] == "mine.nemo"
