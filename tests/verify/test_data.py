"""Data sets by name and folder: every layout, and FLEURS from a Hub that cuts connections and is busy."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from export.errors import UserError
from tests.helpers.command import ROOT, assert_user_error, run_here
from tests.helpers.fleurs import (
    PARQUET,
    RECORDINGS,
    Hub,
    archive,
    own_layout,
    parquet,
    published_layout,
    table,
)
from tests.helpers.serving import serving
from tests.helpers.tiny_bundle import tiny_bundle
from verify.data.fleurs import Split, language_tag, unpacked
from verify.data.hub import _refusal
from verify.data.identity import manifest_sha256
from verify.data.layouts import folder_utterances, recordings_in
from verify.data.manifest import Utterance, load_utterance, read_manifest
from verify.data.sets import DataSet, choose_manifest, refuse_test_manifest

PROMPTS = {"en-US": 0, "zh-CN": 1, "es-US": 2, "de-DE": 3, "auto": 4}
ENGLISH = sorted(RECORDINGS["en_us"], key=lambda each: each.name)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read(given: str | Path, split: Split | None = None, *, prompts: dict[str, int] | None = PROMPTS) -> list[Utterance]:
    manifest = choose_manifest(None, DataSet(str(given), split), prompts=prompts)
    assert manifest is not None
    return read_manifest(manifest, prompts=prompts)


def listed(utterances: list[Utterance]) -> list[tuple[str, str, str, str | int | None]]:
    return [(each.audio_filepath.name, each.text, each.target_lang, each.sentence_id) for each in utterances]


FLEURS = [
    ("1.wav", "今天天气很好", "zh-CN", "7"), ("2.wav", "你呢", "zh-CN", "8"),
    ("100.wav", "he said no it's not", "en-US", "7"), ("200.wav", "second one", "en-US", "9"),
    ("300.wav", "he said no it's not", "en-US", "7"),
]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_fleurs_own_layout(tmp_path: Path, cache: Path, packed: bool) -> None:
    own_layout(tmp_path / "fleurs", packed=packed)
    found = read(tmp_path / "fleurs")
    assert listed(found) == FLEURS
    assert listed(read(tmp_path / "fleurs" / "data" / "en_us")) == FLEURS[2:], "a language of it"
    assert listed(read(f"{tmp_path / 'fleurs'}:en-US")) == FLEURS[2:], "by name"
    assert [len(load_utterance(each, 16000)) for each in found] == [4000] * 5, "44.1 kHz stereo and 8 kHz among them"
    assert (found[4].model_extra or {})["raw_transcription"] == 'He said: "No" — it\'s not.', "quotes quote nothing"
    assert (cache / "unpacked").is_dir() == packed


def test_the_published_layout(tmp_path: Path) -> None:
    published_layout(tmp_path / "benchmark")
    found = read(tmp_path / "benchmark")
    assert listed(found) == [(name, text, language, None) for name, text, language, _ in FLEURS]
    assert listed(read(f"{tmp_path / 'benchmark'}:en_us")) == listed(found)[2:]
    assert listed(read(tmp_path / "benchmark" / "en_us")) == listed(found)[2:]


def test_a_folder_of_recordings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, text in (("b.wav", "zwei\n Wörter\n"), ("de-DE/a.wav", "eins")):
        file = tmp_path / "mine" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(ENGLISH[0].audio)
        file.with_suffix(".txt").write_text(text, encoding="utf-8-sig")
    expected = [("b.wav", "zwei Wörter"), ("a.wav", "eins")]
    assert listed(read(tmp_path / "mine")) == [
        (name, text, language, None) for (name, text), language in zip(expected, ("auto", "de-DE"), strict=True)
    ]
    assert "the language of 1 recordings is not known" in capfd.readouterr().err
    assert listed(read(f"{tmp_path / 'mine'}:de")) == [(name, text, "de-DE", None) for name, text in expected]


def test_what_depends_on_a_manifest_depends_on_the_data(tmp_path: Path) -> None:
    """Its audio, its text, and nothing else: the same recordings in other layouts are the same."""
    own, published = read(own_layout(tmp_path / "a")), read(published_layout(tmp_path / "b"))
    identity = manifest_sha256(published)
    assert manifest_sha256(own) == identity
    paths = {choose_manifest(None, DataSet(str(tmp_path / "b")), prompts=PROMPTS) for _ in range(2)}
    assert len(paths) == 1, "made once"
    (tmp_path / "b" / "en_us" / "100.wav").write_bytes(ENGLISH[1].audio)
    assert manifest_sha256(read(tmp_path / "b")) != identity
    lines = tmp_path / "b" / "en_us" / "en_us.trans.txt"
    lines.write_text(lines.read_text(encoding="utf-8").replace("second one", "second two"), encoding="utf-8")
    changed = choose_manifest(None, DataSet(str(tmp_path / "b")), prompts=PROMPTS)
    assert changed not in paths


def test_languages_never_fall_back_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert [language_tag(code) for code in ("es_419", "cmn_hans_cn", "pt_br", "yue_hant_hk", "fil_ph")] == [
        "es-US", "zh-CN", "pt-BR", "yue-HK", "fil-PH",
    ]  # fmt: skip
    own_layout(tmp_path)
    english = {"en-GB": 0, "auto": 1}
    assert {each.target_lang for each in read(tmp_path, prompts=english)} == {"en-GB"}
    told = capfd.readouterr().err
    assert "1 of 2 languages; no prompt for cmn_hans_cn" in told
    assert "prompted by another name: en_us with en-GB" in told
    with pytest.raises(UserError, match=r"cmn_hans_cn: 'zh-CN' is no language of this model.*leave it out"):
        read(f"{tmp_path}:cmn_hans_cn", prompts=english)
    with pytest.raises(UserError, match="no language of it has a prompt"):
        read(tmp_path, prompts={"sv-SE": 0})
    assert {each.target_lang for each in read(tmp_path, prompts=None)} == {"en-US", "zh-CN"}


def test_splits(tmp_path: Path) -> None:
    own_layout(tmp_path / "own", split="dev")
    assert listed(read(tmp_path / "own", "validation")) == FLEURS
    with pytest.raises(UserError, match=r"own: holds validation of FLEURS and not test; choose another --split"):
        read(tmp_path / "own")
    published_layout(tmp_path / "published")
    with pytest.raises(UserError, match=r"is FLEURS' test split .* measured on"):
        read(tmp_path / "published", "train")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.wav").write_bytes(ENGLISH[0].audio)
    with pytest.raises(UserError, match=r"--split train: .*mine is a folder of recordings"):
        read(tmp_path / "mine", "train")


def recorded(folder: Path, *, text: str = "hello") -> Path:
    """One recording ``a.wav`` with its transcript."""
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(ENGLISH[0].audio)
    (folder / "a.txt").write_text(text)
    return folder


def broken(folder: Path) -> dict[str, tuple[str | Path, str]]:
    """Data sets that cannot be used, and what the error names."""
    own = own_layout(folder / "own")
    (own / "data" / "en_us" / "test.tsv").write_text("7\t300.wav\n")
    gone = own_layout(folder / "gone")
    (gone / "data" / "en_us" / "audio" / "test" / "200.wav").unlink()
    bare = own_layout(folder / "bare")
    (bare / "data" / "en_us" / "audio").rename(folder / "elsewhere")
    packed = own_layout(folder / "packed", packed=True)
    (packed / "data" / "en_us" / "audio" / "test.tar.gz").write_bytes(archive("en_us", without=1))
    damaged = own_layout(folder / "damaged", packed=True)
    whole = archive("en_us")
    (damaged / "data" / "en_us" / "audio" / "test.tar.gz").write_bytes(whole[: len(whole) // 2])
    published = published_layout(folder / "published")
    (published / "en_us" / "en_us.trans.txt").write_text("100\n")
    lacking = published_layout(folder / "lacking")
    (lacking / "en_us" / "100.wav").unlink()
    (folder / "silent").mkdir()
    (folder / "silent" / "a.wav").write_bytes(ENGLISH[0].audio)
    (folder / "empty").mkdir()
    twice, twice_packed = own_layout(folder / "twice"), own_layout(folder / "twice_packed", packed=True)
    for each in (twice, twice_packed):
        (each / "data" / "en_us" / "test.tsv").write_text(table("en_us") + "9\t300.wav\tElse.\telse\n")
    twice_published = published_layout(folder / "twice_published")
    with (twice_published / "en_us" / "en_us.trans.txt").open("a") as lines:
        lines.write("300 else\n")
    untold = own_layout(folder / "untold")
    (untold / "data" / "en_us" / "test.tsv").write_text(table("en_us").replace("\tsecond one\t", "\t\t"))
    wordless, doubled = recorded(folder / "wordless", text=" \n"), recorded(folder / "doubled")
    (doubled / "a.flac").write_bytes(ENGLISH[0].audio)
    return {
        "fields": (own, "en_us/test.tsv, line 1: has 2 fields"),
        "file": (gone, "en_us/test.tsv: lists 200.wav, which is not in"),
        "no audio": (bare, "en_us/test.tsv: its recording 300.wav is not there; put the recordings into"),
        "archive": (packed, "test.tar.gz: lacks 300.wav, which test.tsv lists"),
        "half an archive": (damaged, "test.tar.gz: is damaged"),
        "no text": (published, "en_us.trans.txt, line 1: has no text"),
        "no file": (lacking, "en_us.trans.txt: lists 100.wav"),
        "no transcript": (folder / "silent", "a.wav: has no transcript beside it; write its text into a.txt"),
        "nothing": (folder / "empty", "empty: holds no audio"),
        "nowhere": (folder / "nowhere", "nowhere: no such folder; give one, or fleurs:en_us"),
        "none": ("", "--data : no such folder"),
        "unset": (":de-DE", "--data :de-DE: no such folder"),
        "twice": (twice, "en_us/test.tsv, line 4: lists 300.wav a second time"),
        "twice, packed": (twice_packed, "en_us/test.tsv, line 4: lists 300.wav a second time"),
        "twice, published": (twice_published, "en_us.trans.txt, line 4: lists 300 a second time"),
        "empty": (f"{untold}:en_us", "200.wav has an empty transcription"),
        "empty transcript": (wordless, "a.txt: is empty; write the text of a.wav"),
        "one transcript of two": (doubled, "a.txt: is the transcript of a.flac and of a.wav"),
        "two": (f"{folder / 'silent'}:en,de", "recordings in one folder have one language"),
        "unknown": (f"{folder / 'silent'}:xx-XX", "'xx-XX' is no language of this model"),
        "code": (f"{lacking}:fr_fr", "has no fr_fr; it has cmn_hans_cn, en_us"),
        "name": ("fleurs:en us", "write languages as in fleurs:en_us,es_419"),
        "no name": ("fleurs:", "write languages as in fleurs:en_us,es_419"),
    }  # fmt: skip


def test_what_cannot_be_used_is_one_clear_line(tmp_path: Path, cache: Path) -> None:
    for name, (given, reason) in broken(tmp_path).items():
        silent = {"text": name not in ("two", "unknown")}
        with pytest.raises(UserError) as caught:
            choose_manifest(None, DataSet(str(given)), prompts=PROMPTS, **silent)
        assert reason in str(caught.value), name
        assert "\n" not in str(caught.value)
    assert len(list((cache / "unpacked").iterdir())) == 1, "Chinese, which is whole, and nothing of the damaged ones"
    assert choose_manifest(None, DataSet(str(tmp_path / "silent")), prompts=PROMPTS, text=False), "audio is enough"


def test_options(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "fp32").path
    benchmark = published_layout(tmp_path / "benchmark")
    out, verify = tmp_path / "out", ("verify", bundle, "--reference", bundle)
    for arguments, mentions in [
        ((*verify, "--data", benchmark, "--manifest", "m"), ["--manifest m and --data", "choose one"]),
        ((*verify, "--split", "train"), ["--split train", "--data"]),
        (("verify", "--rescore", "r", "--data", benchmark, "--split", "test"), ["leave out --data, --split"]),
        (("calibrate", bundle, out, "--data", "fleurs:en_us", "--split", "test"), ["--split test", "measured on it"]),
        (("calibrate", bundle, out, "--data", benchmark), ["is FLEURS' test split", "measured on"]),
        (("calibrate", bundle, out, "--data", benchmark, "--audio", benchmark), ["--audio", "both given"]),
        (("bench", bundle, "--data", tmp_path / "none"), ["none", "no such folder"]),
        (("sweep", bundle, "--output", out, "--data", tmp_path / "none"), ["none", "no such folder"]),
        (("regenerate", "--output", out, "--data", tmp_path / "none"), ["none", "no such folder"]),
    ]:
        assert_user_error(run_here(capfd, *arguments), *mentions)
    assert not out.exists()


def test_verify_and_calibrate_read_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "fp32").path
    own_layout(tmp_path / "fleurs")
    own_layout(tmp_path / "fleurs", split="train")
    data, report = tmp_path / "fleurs", tmp_path / "r.json"
    other = tiny_bundle(tmp_path / "other", seed=2).path
    arguments = ("verify", bundle, "--reference", other, "--data", data, "--report", report)
    done = run_here(capfd, *arguments, "--json")
    assert json.loads(done.stdout)["utterances"] == 3, "a model without Chinese"
    rows = json.loads(report.read_text())["rows"]
    assert [(row["sentence"], row["language"]) for row in rows] == [("7", "en-US"), ("9", "en-US"), ("7", "en-US")]
    assert len(rows[0]["target"]["step_ms"]) == 2, "chunks of 160 ms"
    done = run_here(capfd, "calibrate", bundle, tmp_path / "set", "--data", data, "--split", "train", "--json")
    assert json.loads(done.stdout)["recordings"] == 3, done.stderr
    judged = run_here(capfd, *arguments)
    assert judged.returncode == 1, "FP32 itself was not calibrated, and the other folder transcribes other text"


def test_calibration_finds_no_evaluation_audio(tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle, out = tiny_bundle(tmp_path / "fp32").path, tmp_path / "out"
    own, published = own_layout(tmp_path / "x" / "google" / "fleurs"), published_layout(tmp_path / "y" / "bench")
    renamed = tmp_path / "z" / "english"
    shutil.copytree(published / "en_us", renamed)
    linked = tmp_path / "w" / "en_us"
    linked.parent.mkdir()
    linked.symlink_to(renamed)
    fetched = cache / "fleurs" / "en_us" / "test"
    shutil.copytree(published / "en_us", fetched, ignore=shutil.ignore_patterns("*.trans.txt"))
    (fetched / "manifest.jsonl").write_text('{"audio_filepath": "100.wav"}')
    made = choose_manifest(None, DataSet(str(own)), prompts=None)
    test_audio = own / "data" / "en_us" / "audio" / "test"
    for option, given in [
        ("--data", tmp_path / "x"), ("--data", tmp_path / "x" / "google"), ("--data", test_audio),
        ("--data", tmp_path / "y"), ("--data", renamed), ("--data", linked.parent), ("--data", fetched),
        ("--audio", published), ("--audio", own), ("--audio", cache),
        ("--manifest", fetched / "manifest.jsonl"), ("--manifest", made),
    ]:  # fmt: skip
        assert_user_error(run_here(capfd, "calibrate", bundle, out, option, given), str(given), "FLEURS")
    assert_user_error(run_here(capfd, "calibrate", bundle, out, "--data", test_audio, "--split", "train"), "FLEURS")
    assert_user_error(run_here(capfd, "calibrate", bundle, out, "--data", renamed), "its name would be en_us")
    for other in ("fleurs/en_us/train-9/manifest.jsonl", "manifests/fleurs-validation-en_us-0.jsonl", "mine.jsonl"):
        refuse_test_manifest(cache / other)
    assert not out.exists()


def test_tables_of_other_corpora_make_no_fleurs(tmp_path: Path) -> None:
    """Common Voice has a ``test.tsv`` too, LibriSpeech ``*.trans.txt``."""
    voice, speech = recorded(tmp_path / "cv" / "en" / "clips"), recorded(tmp_path / "LibriSpeech" / "84" / "121123")
    (voice.parent / "test.tsv").write_text("client_id\tpath\tsentence_id\tsentence\n8f\ta.mp3\t1\thello\n")
    (speech / "84-121123.trans.txt").write_text("84-121123-0000 GO\n")
    assert [each.text for folder in (voice, tmp_path / "LibriSpeech") for each in folder_utterances(folder)] == [
        "hello", "hello",
    ]  # fmt: skip


def test_a_damaged_archive_never_gives_other_audio(tmp_path: Path) -> None:
    """Bits flipped all over; what is not refused is the same."""
    tsv, packed, good = tmp_path / "test.tsv", tmp_path / "test.tar.gz", archive("en_us")
    tsv.write_text(table("en_us"), encoding="utf-8")

    def contents(data: bytes, limit: int | None = None) -> dict[str, bytes]:
        packed.write_bytes(data)
        return {name: audio for name, audio, _ in unpacked(tsv, packed, limit)}

    whole = {each.name: each.audio for each in ENGLISH}
    assert contents(good) == contents(gzip.decompress(good)) == whole, "a plain tar too"
    assert list(contents(good, limit=2)) == ["300.wav", "100.wav"]
    refused, places = 0, range(10, len(good), len(good) // 60)
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 4
        try:
            assert contents(bytes(flipped)) == whole
        except UserError:
            refused += 1
    assert refused > len(places) * 0.9
    stored = gzip.compress(gzip.decompress(good), compresslevel=0)  # audio as it is: only the checksum can tell
    at = stored.index(ENGLISH[0].audio[100:200])
    for limit in (None, 1):
        with pytest.raises(UserError, match=r"test.tar.gz: is damaged .*CRC"):
            contents(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :], limit)


def test_what_is_left_out_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own, published = own_layout(tmp_path / "own"), published_layout(tmp_path / "published")
    read(own)
    read(published)
    assert "left out" not in capfd.readouterr().err, "nothing is"
    chinese = own / "data" / "cmn_hans_cn"
    (chinese / "test.tsv").rename(chinese / "dev.tsv")
    shutil.copytree(published / "en_us", own / "data" / "de_de")
    (own / "data" / "de_de" / "en_us.trans.txt").rename(own / "data" / "de_de" / "de_de.trans.txt")
    for folder in (own, published):
        recorded(folder / "mine")
        (folder / "loose.wav").write_bytes(ENGLISH[0].audio)
        (folder / "papers").mkdir()
    assert listed(read(own)) == FLEURS[2:]
    told = " ".join(capfd.readouterr().err.split())
    assert ": data/cmn_hans_cn, data/de_de, loose.wav, mine" in told
    read(f"{own}:en_us")
    assert "left out" not in capfd.readouterr().err, "it was not asked for"
    assert len(read(published)) == 5
    told = " ".join(capfd.readouterr().err.split())
    assert told.count("left out") == 1
    assert ": loose.wav, mine" in told


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    elsewhere, mine = recorded(tmp_path / "elsewhere"), recorded(tmp_path / "mine" / "de-DE")
    (mine.parent / "linked").symlink_to(elsewhere)
    (mine / "above").symlink_to(mine.parent)
    (elsewhere / "back").symlink_to(elsewhere)
    found = [str(file.relative_to(mine.parent)) for file in recordings_in(mine.parent)]
    assert found == ["de-DE/a.wav", "linked/a.wav"]


@pytest.mark.parametrize("packed", [False, True])
def test_cut_recordings_are_named(tmp_path: Path, packed: bool, capfd: pytest.CaptureFixture[str]) -> None:
    own = own_layout(tmp_path / "own", packed=packed)
    read(own)
    assert "not as long" not in capfd.readouterr().err
    (own / "data" / "en_us" / "test.tsv").write_text(table("en_us", samples=8000), encoding="utf-8")
    assert len(read(f"{own}:en_us")) == 3
    told = " ".join(capfd.readouterr().err.split())
    assert "not as long as FLEURS says" in told
    assert "(0.25 s, not 0.50 s)" in told


# From the Hub.


@dataclass
class Client:
    """A process that reads from the Hub: the client learns its address when it is imported."""

    process: subprocess.Popen[str]
    hub: Hub

    def read(
        self, given: str, cache: Path, split: str | None = None, enough: int | None = None
    ) -> tuple[list[dict[str, Any]], str, str]:
        """Lines of the manifest, the error, and what was told."""
        assert self.process.stdin
        assert self.process.stdout
        self.hub.requests.clear()
        self.process.stdin.write(json.dumps([given, split, enough, str(cache), PROMPTS]) + "\n")
        self.process.stdin.flush()
        manifest, error, told = json.loads(self.process.stdout.readline())
        lines = Path(manifest).read_text(encoding="utf-8").splitlines() if manifest else []
        return [json.loads(line) for line in lines], error, told


CLIENT = """
import contextlib, io, json, os, sys, time
from huggingface_hub import HfFileSystem
from export import progress
from export.errors import UserError
from verify.data.sets import DataSet, choose_manifest

time.sleep = lambda seconds: None  # before the next try
for line in sys.stdin:
    given, split, enough, os.environ["NEMOTRON_OV_CACHE"], prompts = json.loads(line)
    HfFileSystem.clear_instance_cache()
    told = io.StringIO()
    progress.console.file = told
    manifest, error = None, ""
    try:
        manifest = str(choose_manifest(None, DataSet(given, split, enough=enough), prompts=prompts))
    except UserError as problem:
        error = str(problem)
    print(json.dumps([manifest, error, told.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hub")
    with serving(Hub()) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_DATASETS_OFFLINE": "0", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT], env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield Client(process, hub)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(60)


@pytest.fixture
def hub(client: Client) -> Hub:
    """With the parquet conversion of two languages."""
    client.hub.cut, client.hub.busy, client.hub.down = 0, 0, False
    client.hub.files = {PARQUET: {f"{code}/test/0000.parquet": parquet(code) for code in RECORDINGS}, "main": {}}
    return client.hub


def test_fleurs_from_the_hub_once(client: Client, hub: Hub, cache: Path) -> None:
    hub.files[PARQUET] |= {f"{code}/test/0000.parquet": b"" for code in ("af_za", "all")}
    lines, error, told = client.read("fleurs:all", cache)
    assert not error
    facts = [(line["text"], line["target_lang"], line["sentence_id"]) for line in lines]
    assert facts == [(text, language, sentence) for _, text, language, sentence in FLEURS]
    assert [line["raw_transcription"] for line in lines[3:4]] == ["Second one."]
    assert [Path(line["audio_filepath"]).read_bytes() for line in lines[2:]] == [each.audio for each in ENGLISH]
    assert "2 of 3 languages; no prompt for af_za" in told
    assert "fetching fleurs:en_us, test split, from google/fleurs@refs/convert/parquet" in told
    again, error, _ = client.read("fleurs:en_us", cache)
    assert again == lines[2:]
    assert not hub.requests, "the second time comes from the cache"


def test_no_more_is_fetched_than_is_enough(client: Client, hub: Hub, cache: Path) -> None:
    lines, _, _ = client.read("fleurs:all", cache, enough=3)
    assert [line["target_lang"] for line in lines] == ["zh-CN", "zh-CN", "en-US", "en-US"]
    assert len(client.read("fleurs:en_us", cache)[0]) == 3, "all of it is another thing"
    lines, _, _ = client.read("fleurs:en_us", cache, enough=1)
    assert (len(lines), hub.requests) == (3, []), "and serves where less is enough"


@pytest.mark.parametrize("trouble", ["cut", "busy"])
def test_a_cut_connection_and_a_busy_hub_are_tried_again(client: Client, hub: Hub, cache: Path, trouble: str) -> None:
    setattr(hub, trouble, 2)
    lines, error, _ = client.read("fleurs:en_us", cache)
    assert (error, len(lines)) == ("", 3)
    assert getattr(hub, trouble) == 0, "it was in trouble"
    assert Path(lines[0]["audio_filepath"]).read_bytes() == ENGLISH[0].audio


@pytest.mark.parametrize("trouble", ["cut", "busy"])
def test_a_hub_that_stays_away_loses_nothing(client: Client, hub: Hub, cache: Path, trouble: str) -> None:
    client.read("fleurs:en_us", cache)
    setattr(hub, trouble, -1)
    lines, error, _ = client.read("fleurs:en_us,cmn_hans_cn", cache)
    assert not lines
    assert error.startswith("--data fleurs:cmn_hans_cn: cannot be fetched from the Hugging Face Hub (")
    assert "\n" not in error
    assert not [path.name for path in (cache / "fleurs" / "cmn_hans_cn").rglob("*")]
    setattr(hub, trouble, 0)
    lines, error, _ = client.read("fleurs:en_us,cmn_hans_cn", cache)
    assert (error, len(lines)) == ("", 5)
    assert not any("en_us" in request for request in hub.requests)


def test_without_the_conversion_the_original_is_read(client: Client, hub: Hub, cache: Path) -> None:
    hub.files = {PARQUET: {}, "main": {}}
    for code in RECORDINGS:
        hub.files["main"] |= {
            f"data/{code}/dev.tsv": table(code).encode(), f"data/{code}/audio/dev.tar.gz": archive(code, "dev"),
        }  # fmt: skip
    lines, error, told = client.read("fleurs:all", cache, "validation")
    assert not error
    assert [line["text"] for line in lines] == [text for _, text, *_ in FLEURS]
    assert "fetching fleurs:en_us, validation split, from google/fleurs, data/en_us" in told


def test_what_the_hub_does_not_have(client: Client, hub: Hub, cache: Path) -> None:
    _, error, _ = client.read("fleurs:de_de", cache)
    assert error.startswith("--data fleurs:de_de: google/fleurs has no such language; codes are like en_us")
    _, error, _ = client.read("fleurs:xx_xx", cache)
    assert "xx_xx: 'xx-XX' is no language of this model" in error
    hub.files[PARQUET]["en_us/test/0000.parquet"] = parquet("en_us")[:-200] + bytes(200)
    _, error, _ = client.read("fleurs:en_us", cache)
    assert error.startswith("--data fleurs:en_us: cannot be fetched")
    assert not (cache / "fleurs" / "en_us" / "test").exists()


def test_an_error_of_the_hub_shows_no_token_and_no_signature() -> None:
    error = _refusal("fleurs:en_us", OSError("https://hub.example/a?X-Amz-Signature=abc123 for hf_secretsecret failed"))
    assert error is not None
    assert "https://hub.example/a for hf_… failed" in str(error)


def test_rows_that_lack_something(client: Client, hub: Hub, cache: Path) -> None:
    place = "en_us/test/0000.parquet"
    for text, reason in ((None, "holds no transcription for 300.wav"), ("", "300.wav has an empty transcription")):
        hub.files[PARQUET][place] = parquet("en_us", transcription=text)
        _, error, _ = client.read("fleurs:en_us", cache)
        assert reason in error
        assert (cache / "fleurs" / "en_us" / "test").exists() == (text is not None)
        shutil.rmtree(cache / "fleurs", ignore_errors=True)
    hub.files[PARQUET][place] = parquet("en_us", num_samples=9000)
    lines, error, told = client.read("fleurs:en_us", cache)
    assert (len(lines), error) == (3, "")
    assert "300.wav (0.25 s, not 0.56 s); they may be cut" in " ".join(told.split())


def test_the_original_from_a_busy_hub_and_damaged(client: Client, hub: Hub, cache: Path) -> None:
    code, packed = "cmn_hans_cn", archive("cmn_hans_cn")
    path = f"data/{code}/audio/test.tar.gz"
    damaged = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]  # its checksum; the ETag stays
    hub.files = {PARQUET: {}, "main": {f"data/{code}/test.tsv": table(code).encode(), path: damaged}}
    hub.down = True
    _, error, _ = client.read(f"fleurs:{code}", cache)
    assert error.startswith(f"--data fleurs:{code}: cannot be fetched from the Hugging Face Hub (")
    hub.down = False
    _, error, _ = client.read(f"fleurs:{code}", cache)
    assert "test.tar.gz: is damaged" in error
    hub.files["main"][path] = packed
    kept = Path(error.split(": delete ")[1].split(", which the Hub's client keeps")[0])
    assert client.read(f"fleurs:{code}", cache)[1] == error, "the client keeps it"
    kept.unlink()
    lines, error, _ = client.read(f"fleurs:{code}", cache, enough=1)
    assert (len(lines), error) == (1, "")
    lines, error, _ = client.read(f"fleurs:{code}", cache)
    assert (len(lines), error) == (2, "")
