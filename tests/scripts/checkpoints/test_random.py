from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import yaml

from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.nemo import load_model
from export.checkpoint.pieces import sentencepiece_model
from export.errors import UserError
from scripts.checkpoints.random import blank_bias as random_calibration
from scripts.checkpoints.random import checkpoint as random_checkpoint
from scripts.checkpoints.random import tokenizer as random_tokenizer
from scripts.checkpoints.random.checkpoint import write_random_checkpoint
from tests.helpers.command import assert_user_error, run_here


def test_prompt_dictionary_has_the_known_rows_and_the_known_number() -> None:
    prompts = random_checkpoint.prompt_dictionary()
    assert {name: prompts[name] for name in random_checkpoint.KNOWN_PROMPTS} == random_checkpoint.KNOWN_PROMPTS
    assert len(set(prompts.values())) == 105
    assert max(prompts.values()) < random_checkpoint.PROMPT_ROWS


@pytest.mark.parametrize(("count", "tags"), [(13087, random_tokenizer.TAGS), (300, random_tokenizer.TAGS), (1024, ())])
def test_pieces_are_a_valid_sentencepiece_model(count: int, tags: tuple[str, ...]) -> None:
    pieces = random_tokenizer.make_pieces(count, tags, seed=0)
    assert len(set(pieces)) == len(pieces) == count
    assert {piece for piece in pieces if piece in random_tokenizer.TAGS} == set(tags)
    assert random_tokenizer.WORD_START in pieces
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(pieces, tags))
    assert [model.id_to_piece(index) for index in range(model.get_piece_size())] == pieces
    text = "Hello, world 42."
    assert model.decode(model.encode(text)) == text
    for tag in tags:
        assert pieces.index(tag) in model.encode(tag)


def test_full_vocabulary_keeps_the_known_tags_in_place() -> None:
    pieces = random_tokenizer.make_pieces(13087, random_tokenizer.TAGS, seed=3)
    assert {index: pieces[index] for index in random_tokenizer.TAG_IDS} == random_tokenizer.TAG_IDS
    ids = [index for index, piece in enumerate(pieces) if piece in random_tokenizer.TAGS]
    assert len(ids) == 39
    assert max(ids) - min(ids) > 9000, "scattered"


def test_full_configuration_is_the_published_one() -> None:
    config = random_checkpoint.model_config(random_checkpoint.DIMENSIONS["full", "multilingual"], "multilingual")
    encoder = config["encoder"]
    assert (encoder["n_layers"], encoder["d_model"], encoder["n_heads"]) == (24, 1024, 8)
    assert encoder["att_context_size"] == [[56, 3], [56, 0], [56, 6], [56, 13]]
    assert encoder["subsampling_conv_channels"] == 256
    assert config["decoder"]["prednet"]["pred_hidden"] == 640
    assert config["model_defaults"]["num_prompts"] == 128


def test_small_checkpoint_is_read_without_loading_it(small_checkpoint: Checkpoint) -> None:
    assert small_checkpoint.path.stat().st_size < 2_000_000
    assert small_checkpoint.model_class == "EncDecRNNTBPEModelWithPrompt"
    assert len(small_checkpoint.vocabulary) == 300
    assert len(small_checkpoint.language_tag_ids) == 39
    assert small_checkpoint.default_prompt_id == 101
    with tarfile.open(small_checkpoint.path) as archive:
        file = archive.extractfile("./model_config.yaml")
        assert file
        config = yaml.safe_load(file.read())
    assert config["joint"]["num_classes"] == config["decoder"]["vocab_size"] == 300


def test_english_sibling_has_no_prompt(small_english_checkpoint: Checkpoint) -> None:
    assert small_english_checkpoint.model_class == "EncDecRNNTBPEModel"
    assert small_english_checkpoint.prompts is None
    assert small_english_checkpoint.language_tag_ids == []
    assert small_english_checkpoint.att_context_sizes == [[70, 13], [70, 6], [70, 1], [70, 0]]
    assert type(load_model(small_english_checkpoint)).__name__ == "EncDecRNNTBPEModel"


def test_restored_model_emits_as_calibrated(small_nemo: Any) -> None:
    import torch

    model = small_nemo
    assert type(model).__name__ == "EncDecRNNTBPEModelWithPrompt"
    encoded = random_calibration.encode(model, random_calibration.clips(16000))
    assert torch.isfinite(encoded).all()
    assert encoded.std(dim=1).mean() > 0.01, "the encoder's output changes over time"
    frames = model.joint.project_encoder(encoded)
    rate = float(random_calibration.tokens_per_frame(model, frames, torch.zeros(1))[0])
    assert rate == pytest.approx(random_calibration.TOKENS_PER_FRAME, abs=0.08)


def test_same_seed_gives_the_same_bytes_and_another_gives_others(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    again = write_random_checkpoint(tmp_path / "again.nemo", "small", seed=0)
    other = write_random_checkpoint(tmp_path / "other.nemo", "small", seed=1)
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in (small_checkpoint.path, again, other)]
    assert digests[0] == digests[1] != digests[2]
    assert open_checkpoint(other).vocabulary != small_checkpoint.vocabulary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.nemo", "other.nemo"], "nothing left over"


def test_existing_output_is_refused_and_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "taken.nemo"
    output.write_text("mine")
    with pytest.raises(UserError, match=r"taken\.nemo: already exists; add --force"):
        write_random_checkpoint(output, "small")
    assert output.read_text() == "mine"
    with pytest.raises(UserError, match="is a folder"):
        write_random_checkpoint(tmp_path, "small", force=True)


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("stopped")

    monkeypatch.setattr(random_calibration, "calibrate_blank", fail)
    output = tmp_path / "old.nemo"
    with tarfile.open(output, "w") as archive:
        archive.add(__file__, "model_config.yaml")
    old = output.read_bytes()
    with pytest.raises(RuntimeError, match="stopped"):
        write_random_checkpoint(output, "small", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.nemo"]
    assert output.read_bytes() == old


@pytest.mark.parametrize("room", [0.5, 1.5], ids=["for no weights", "for weights alone"])
def test_a_full_disk_is_one_line(
    small_checkpoint: Checkpoint, small_disk: Path, capfd: pytest.CaptureFixture[str], room: float
) -> None:
    """PyTorch's writer says ``unexpected pos``, and the archive's writer that there is no space."""
    taken = shutil.disk_usage(small_disk).free - int(room * small_checkpoint.path.stat().st_size)
    (small_disk / "mine").write_bytes(bytes(taken))
    done = run_here(capfd, "checkpoint", "random", small_disk / "a.nemo")
    assert_user_error(done, small_disk / "a.nemo", "cannot be written (", "make room")
    assert ("PyTorch's writer failed, and" in done.stderr) is (room < 1)
    assert [file.name for file in small_disk.iterdir()] == ["mine"]
