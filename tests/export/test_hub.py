"""A checkpoint from the Hub, through the real client and a real HTTP server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.hub import checkpoint_facts
from export.errors import UserError
from tests.helpers.hub import TOKEN, Hub
from tests.helpers.serving import serving
from tests.helpers.transformers_folder import write_transformers_folder

REPOSITORY = "someone/streaming-asr"


@pytest.fixture
def hub(small_checkpoint: Checkpoint) -> Iterator[Hub]:
    with serving(Hub()) as server:
        server.add(REPOSITORY, {"README.md": b"card", "model.nemo": small_checkpoint.path.read_bytes()}, private=True)
        yield server


def open_from(
    hub: Hub, cache: Path, source: str, token: str = TOKEN, endpoint: str | None = None, layout: str = ""
) -> subprocess.CompletedProcess[str]:
    """Open a Hub id in a fresh process, since the client reads its endpoint when imported."""
    code = (
        "import sys\nfrom export.checkpoint import open_checkpoint\nfrom export.errors import UserError\n"
        "try:\n    c = open_checkpoint(sys.argv[1], 'main', sys.argv[2] or None)\n"
        "    print(c.model_class, c.name, 'transformers' if c.shards else 'nemo')\n"
        "except UserError as error:\n    print(error); sys.exit(2)"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint or hub.endpoint,
        "HF_HOME": str(cache),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", code, source, layout], env=environment, capture_output=True, text=True, check=False
    )


def test_a_hub_id_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    first = open_from(hub, tmp_path, REPOSITORY)
    assert (first.returncode, first.stdout.split()) == (0, ["EncDecRNNTBPEModelWithPrompt", "model", "nemo"]), (
        first.stderr
    )
    downloads = [request for request in hub.requests if request.startswith("GET") and request.endswith("model.nemo")]
    assert len(downloads) == 1
    assert open_from(hub, tmp_path, REPOSITORY).returncode == 0
    again = [request for request in hub.requests if request.startswith("GET") and request.endswith("model.nemo")]
    assert len(again) == 1, "the second time comes from the client's cache"


def test_without_a_network_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    unreachable = "http://127.0.0.1:9"
    missing = open_from(hub, tmp_path, REPOSITORY, endpoint=unreachable)
    assert missing.returncode == 2, missing.stderr
    assert missing.stdout.startswith(f"{REPOSITORY}: cannot be fetched")
    assert "Traceback" not in missing.stderr
    assert open_from(hub, tmp_path, REPOSITORY).returncode == 0
    assert open_from(hub, tmp_path, REPOSITORY, endpoint=unreachable).returncode == 0


def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path: Path) -> None:
    for source, token in [("someone/absent", TOKEN), (REPOSITORY, "hf_wrong")]:
        result = open_from(hub, tmp_path, source, token)
        assert result.returncode == 2, result.stderr
        assert result.stdout.startswith(f"{source}: cannot be fetched from the Hugging Face Hub")
        assert len(result.stdout.strip().splitlines()) == 1


def test_a_repository_without_one_checkpoint(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPOSITORY, {"README.md": b"card"})
    result = open_from(hub, tmp_path, REPOSITORY)
    assert result.returncode == 2
    assert "holds 0 .nemo files, expected one" in result.stdout


def test_a_repository_in_transformers_layout(hub: Hub, small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = write_transformers_folder(small_checkpoint, tmp_path / "folder")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    hub.add(REPOSITORY, files | {"other.bin": b"not asked for"})
    alone = open_from(hub, tmp_path / "alone", REPOSITORY)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert alone.stdout.split() == ["EncDecRNNTBPEModelWithPrompt", "streaming-asr", "transformers"]
    assert not any(request.endswith(("other.bin", "tokenizer_config.json")) for request in hub.requests)

    hub.add(REPOSITORY, files | {"model.nemo": small_checkpoint.path.read_bytes()})
    hub.requests.clear()
    assert open_from(hub, tmp_path / "both", REPOSITORY).stdout.split()[1:] == ["model", "nemo"]
    assert not any(request.endswith("model.safetensors") for request in hub.requests)
    hub.requests.clear()
    asked = open_from(hub, tmp_path / "asked", REPOSITORY, layout="transformers")
    assert asked.stdout.split()[1:] == ["streaming-asr", "transformers"], asked.stdout + asked.stderr
    assert not any(request.endswith("model.nemo") for request in hub.requests)

    hub.add(REPOSITORY, {"model.nemo": small_checkpoint.path.read_bytes()})
    none = open_from(hub, tmp_path / "none", REPOSITORY, layout="transformers")
    assert (none.returncode, none.stdout.strip()) == (
        2,
        f"{REPOSITORY}: holds no config.json, so it is not in Transformers' layout; give another id",
    )


def test_what_lies_here_has_no_revision(small_checkpoint: Checkpoint) -> None:
    for source in ("demo", small_checkpoint.path):
        with pytest.raises(UserError, match=r"--revision v2: .*\.nemo lies on this machine; leave the option out"):
            open_checkpoint(source, "v2")


def test_random_weights_are_recorded(small_checkpoint: Checkpoint) -> None:
    assert checkpoint_facts(small_checkpoint)["random_weights"] is True
    assert "random_weights" not in checkpoint_facts(open_checkpoint("demo"))
