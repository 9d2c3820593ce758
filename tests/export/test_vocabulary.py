"""Vocabulary pruning: text in the kept scripts never changes, everything follows the new ids, mistakes are named."""

from __future__ import annotations

import json
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from sentencepiece import SentencePieceProcessor

from export import parity
from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.checkpoint.pieces import sentencepiece_model
from export.contract import contract_problems, expected_ports
from export.errors import ParityError, UserError
from export.graphs.trace import trace
from export.graphs.transducer import DecoderStep, JointStep
from export.languages import LANGUAGE_TAG
from export.oracles import nemo_reference
from export.profiles import Asked
from export.vocabulary import checkpoint_ids, is_needed, prune_vocabulary, vocabulary_scripts
from quantize.pipeline import quantize_bundle
from quantize.recipes import get_recipe
from scripts.checkpoints.random.tokenizer import TAGS, make_pieces
from scripts.regenerate.plan import Options, make_plan
from scripts.regenerate.stages import is_finished
from tests.helpers.command import assert_user_error, run_here
from verify.data.manifest import Utterance, default_manifest, read_manifest
from verify.pipeline import verify_bundle

LATIN = "en-US", "es-US", "fr-FR", "de-DE"


@pytest.fixture(scope="module")
def large(demo_checkpoint: Checkpoint) -> Checkpoint:
    """A vocabulary of the multilingual model's size in seven scripts, with all of CLDR's language codes allowed."""
    config = {**demo_checkpoint.config, "model_defaults": {}}
    return replace(demo_checkpoint, config=config, vocabulary=tuple(make_pieces(13_087, TAGS, 0)))


@pytest.fixture(scope="module")
def ids(demo_latin_fp32: Bundle) -> list[int]:
    """For every id of ``demo_latin_fp32``, blank included, the checkpoint's."""
    record = demo_latin_fp32.metadata.vocabulary
    kept = checkpoint_ids(record)
    assert kept is not None
    return [*kept, record["checkpoint_pieces"]]


def tokenizer(checkpoint: Checkpoint) -> Any:
    with tarfile.open(checkpoint.path) as archive:
        name = next(name for name in archive.getnames() if name.endswith("tokenizer.model"))
        file = archive.extractfile(name)
        assert file is not None
        return SentencePieceProcessor(model_proto=file.read())


def utterances(languages: tuple[str, ...]) -> list[Utterance]:
    return [each for each in read_manifest(default_manifest()) if each.target_lang in languages]


@pytest.mark.parametrize(
    ("piece", "needed"),
    [
        ("▁the", True), ("▁", True), ("é", True), ("ß", True), ("e\u0301", True), ("Ａ", True), ("7", True),
        ("?!", True), ("。", True), ("€", True), ("½", True), ("\U0001f642", True), ("\ue000", True),
        ("<unk>", True), ("<0xE3>", True), ("<ja-JP>", True), ("<", True),
        ("は", False), ("▁и", False), ("は7", False), ("iPhoneは", False), ("aа", False), ("한", False), ("中", False),
        ("Ω", False), ("ा", False), ("१", False), ("٣", False),
    ],
)  # fmt: skip
def test_what_latin_text_needs(piece: str, needed: bool) -> None:
    assert is_needed(piece, {"Latn"}) is needed


def test_a_piece_goes_only_with_a_letter_of_a_dropped_script(large: Checkpoint) -> None:
    pruning = prune_vocabulary(large, scripts=["latin", "greek"])
    kept = set(pruning.checkpoint.vocabulary)
    for piece in set(large.vocabulary) - set(TAGS) - {"<unk>"}:
        foreign = [
            character
            for character in piece
            if unicodedata.category(character).startswith("L")
            and not unicodedata.name(character).startswith(("LATIN", "GREEK"))
        ]
        assert (piece in kept) == (not foreign), piece


def test_ids_follow(large: Checkpoint) -> None:
    pruning = prune_vocabulary(large, scripts=["cyrillic"])
    kept, rows = pruning.checkpoint, pruning.rows
    assert rows is not None
    assert 100 < len(kept.vocabulary) < len(large.vocabulary) / 2
    assert rows == sorted(set(rows)), "the old order, or ties between logits would fall otherwise"
    assert [large.vocabulary[old] for old in rows[:-1]] == list(kept.vocabulary)
    assert rows[-1] == large.blank_id
    assert kept.blank_id == len(kept.vocabulary) == len(rows) - 1
    assert [kept.vocabulary[index] for index in kept.language_tag_ids] == [
        piece for piece in large.vocabulary if LANGUAGE_TAG.fullmatch(piece)
    ]
    assert kept.vocabulary[0] == "<unk>"
    assert checkpoint_ids(json.loads(json.dumps(pruning.record))) == rows[:-1]
    assert len(pruning.record["kept"]) < 2500, "13,087 bits as text"


def test_ties_fall_as_they_did(large: Checkpoint) -> None:
    rows = prune_vocabulary(large, scripts=["han"]).rows
    assert rows is not None
    logits = np.random.default_rng(0).integers(0, 3, (200, len(large.vocabulary) + 1))
    winners = logits.argmax(1)
    kept = np.isin(winners, rows)
    assert kept.sum() > 10
    assert (np.array(rows)[logits[:, rows].argmax(1)][kept] == winners[kept]).all()


@pytest.mark.parametrize(
    ("languages", "scripts"),
    [
        ("en", "Latn"), ("pt-BR de", "Latn"), ("ja", "Hani Hira Kana Latn"), ("ko", "Hang Hani Latn"),
        ("zh-TW", "Hani Latn"), ("ru el", "Cyrl Grek Latn"), ("sr", "Cyrl Latn"), ("sr-Latn", "Latn"),
        ("sr-Cyrl", "Cyrl Latn"),
    ],
)  # fmt: skip
def test_scripts_of_languages(large: Checkpoint, languages: str, scripts: str) -> None:
    assert prune_vocabulary(large, languages=languages.split()).record["scripts"] == scripts.split()


@pytest.mark.parametrize("name", ["hangul", "Hangul", "HANG", "hang"])
def test_names_of_scripts(large: Checkpoint, name: str) -> None:
    assert prune_vocabulary(large, scripts=[name]).record["scripts"] == ["Hang"]


def test_nothing_to_prune(large: Checkpoint) -> None:
    assert prune_vocabulary(large).rows is None
    english = replace(large, vocabulary=tuple(make_pieces(1024, (), 0)))
    pruning = prune_vocabulary(english, languages=["en"])
    assert (pruning.rows, pruning.record) == (None, {})
    assert "nothing was pruned" in pruning.warnings[0]


@pytest.mark.parametrize(
    ("options", "kept", "others"),
    [
        ({"languages": LATIN}, LATIN, ("ja-JP",)),
        ({"scripts": ("latin",)}, LATIN, ("ja-JP",)),
        ({"scripts": ("hiragana", "katakana")}, ("ja-JP",), LATIN),
    ],
)
def test_texts_of_kept_languages_need_no_dropped_piece(
    demo_checkpoint: Checkpoint, options: dict[str, tuple[str, ...]], kept: tuple[str, ...], others: tuple[str, ...]
) -> None:
    rows = prune_vocabulary(demo_checkpoint, **options).rows
    assert rows is not None
    encode: Callable[[str], list[int]] = tokenizer(demo_checkpoint).encode
    assert all(set(encode(each.text)) <= set(rows) for each in utterances(kept))
    assert not any(set(encode(each.text)) <= set(rows) for each in utterances(others))


@pytest.mark.parametrize(
    ("language", "script", "text"),
    [
        ("ja", "Jpan", "NHKのニュース、Café"),
        ("ko", "Kore", "갑의 USB 각"),
        ("ru", "cyrillic", "возьми USB-кабель"),
        ("el", "greek", "το Wi-Fi"),
    ],
)
def test_text_mixed_with_latin_needs_no_dropped_piece(large: Checkpoint, language: str, script: str, text: str) -> None:
    """With languages; scripts are taken as they are given."""
    encoder = SentencePieceProcessor(model_proto=sentencepiece_model(list(large.vocabulary), TAGS))
    ids = set(encoder.encode(text)) - {encoder.unk_id()}
    assert any(piece.isascii() and piece.isalpha() for piece in map(large.vocabulary.__getitem__, ids))
    by_language = prune_vocabulary(large, languages=[language])
    assert by_language.rows is not None
    assert ids <= set(by_language.rows)
    assert len(by_language.rows) < len(large.vocabulary)
    by_script = prune_vocabulary(large, scripts=[script]).rows
    assert by_script is not None
    assert not ids <= set(by_script)


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--scripts", "klingon"], ["--scripts klingon: no such script", "hiragana, katakana, latin"]),
        (["--scripts", "thai"], ["--scripts thai", "demo.nemo has no pieces in its script", "latin"]),
        (["--scripts", "latin,"], ["--scripts : no such script"]),
        (["--scripts", "common"], ["--scripts common: no such script"]),
        (["--languages", "xx"], ["--languages xx: demo.nemo knows no such language", "de, en, es, fr, ja"]),
        (["--languages", "en,ru"], ["--languages ru"]),
        (["--languages", "auto"], ["--languages auto"]),
        (["--languages", "en", "--scripts", "latin"], ["--languages and --scripts: give one"]),
    ],
)
@pytest.mark.parametrize("verb", ["export", "regenerate"])
def test_mistakes_are_named_before_anything_is_written(
    verb: str, arguments: list[str], mentions: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = [tmp_path / "out"] if verb == "export" else ["--output", tmp_path / "out"]
    assert_user_error(run_here(capfd, verb, "demo", *out, *arguments), *mentions)
    assert list(tmp_path.iterdir()) == []


def test_wrong_rows_are_noticed(
    small_nemo: Any, small_checkpoint: Checkpoint, small_fp32: Bundle, tmp_path: Path
) -> None:
    geometry, _ = small_checkpoint.geometry(0)
    rows = [*range(1, 300, 2), 300]
    metadata = small_fp32.metadata.model_copy(update={"vocab_size": len(rows) - 1, "blank_idx": len(rows) - 1})
    ports = expected_ports(metadata)
    recordings = parity.record(nemo_reference(small_nemo, geometry, metadata, rows), geometry, metadata, ports)
    steps: dict[str, Any] = {"decoder": DecoderStep, "joint": JointStep}
    for shift in (0, 1):
        chosen = [row - shift for row in rows[:-1]] + rows[-1:]
        for graph, step in steps.items():
            path = tmp_path / f"{graph}-{shift}.xml"
            ov.save_model(trace(step(small_nemo, chosen), ports[graph]), path, compress_to_fp16=False)
            if not shift:
                parity.check(graph, path, recordings[graph])
                continue
            with pytest.raises(ParityError, match=f"the {graph} graph differs from NeMo"):
                parity.check(graph, path, recordings[graph])


def test_the_folder_conforms(demo_latin_fp32: Bundle, demo_fp32: Bundle, ids: list[int]) -> None:
    new, old = demo_latin_fp32.metadata, demo_fp32.metadata
    assert contract_problems(demo_latin_fp32) == []
    assert new.blank_idx == new.vocab_size == len(demo_latin_fp32.vocabulary) < old.vocab_size
    assert demo_latin_fp32.vocabulary == [demo_fp32.vocabulary[index] for index in ids[:-1]]
    assert [ids[index] for index in new.lang_tag_token_ids] == old.lang_tag_token_ids
    assert new.prompt_dictionary == old.prompt_dictionary
    assert "text in other scripts cannot be written" in new.warnings[0]
    assert (new.vocabulary["languages"], new.vocabulary["scripts"]) == ([], ["Latn"])
    assert vocabulary_scripts(demo_latin_fp32.vocabulary) == {"Latn"}
    for graph in ("encoder", "preprocessor"):
        sizes = {bundle.graph_path(graph).with_suffix(".bin").stat().st_size for bundle in (demo_latin_fp32, demo_fp32)}
        assert len(sizes) == 1, "nothing else changes"


def test_a_record_that_contradicts_the_folder_is_named(demo_latin_fp32: Bundle) -> None:
    metadata = demo_latin_fp32.metadata
    for change, problem in (
        ({"pieces": 5}, "and says 5"),
        ({"kept": "AA=="}, "metadata.vocabulary: "),
        ({"checkpoint_pieces": None}, "metadata.vocabulary: "),
    ):
        damaged = metadata.model_copy(update={"vocabulary": metadata.vocabulary | change})
        assert any(problem in line for line in contract_problems(Bundle(demo_latin_fp32.path, damaged)))
    with pytest.raises(UserError, match="not usable"):
        checkpoint_ids({"pieces": 1})


def test_every_piece_keeps_its_embedding_and_its_logit(
    demo_latin_fp32: Bundle, demo_fp32: Bundle, ids: list[int]
) -> None:
    core, meta = ov.Core(), demo_fp32.metadata
    graphs = {
        name: [
            core.compile_model(bundle.graph_path(name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for bundle in pair
        ]
        for name, pair in {"decoder": (demo_latin_fp32, demo_fp32), "joint": (demo_latin_fp32, demo_fp32)}.items()
    }
    state = np.zeros((meta.decoder_layers, 1, meta.decoder_hidden), np.float32)
    one = np.ones(1, np.int32)
    for new, old in enumerate(ids):
        outputs = [
            graph({"token": np.array([[token]], np.int32), "token_length": one, "h_in": state, "c_in": state})
            for graph, token in zip(graphs["decoder"], (new, old), strict=True)
        ]
        np.testing.assert_array_equal(outputs[0]["decoder_out"], outputs[1]["decoder_out"])
    rng = np.random.default_rng(0)
    for _ in range(5):
        inputs = {
            "encoder": rng.standard_normal((1, meta.encoder_dim, 1), np.float32),
            "decoder": rng.standard_normal((1, meta.decoder_hidden, 1), np.float32),
        }
        pruned, whole = (graph(inputs)["logits"].ravel() for graph in graphs["joint"])
        np.testing.assert_allclose(pruned, whole[ids], rtol=1e-6, atol=1e-5)


def test_kept_languages_are_transcribed_as_before(demo_latin_fp32: Bundle, demo_fp32: Bundle) -> None:
    chosen = [each for language in LATIN for each in utterances((language,))[:15]]
    report = verify_bundle(demo_latin_fp32, demo_fp32, chosen)
    assert report.passed
    assert report.exact_match == 1.0
    untimed: dict[str, Any] = {"seconds": None, "step_ms": []}
    for row in report.rows:
        ours, theirs = (side.model_copy(update=untimed) for side in (row.target, row.reference))
        assert ours == theirs, "tokens, frames, text and language"
    assert sum(len(row.target.tokens) for row in report.rows) > 200
    japanese = verify_bundle(demo_latin_fp32, demo_fp32, utterances(("ja-JP",))[:2])
    assert not japanese.passed, "the comparison can fail"
    kana = vocabulary_scripts([row.reference.text for row in japanese.rows])
    assert "Hira" in kana
    assert "Hira" not in vocabulary_scripts([row.target.text for row in japanese.rows])


def test_recipes_and_resuming_follow(demo_latin_fp32: Bundle, demo_fp32: Bundle, tmp_path: Path) -> None:
    half = quantize_bundle(demo_latin_fp32, tmp_path / "fp16", get_recipe("fp16"))
    assert half.metadata.vocabulary == demo_latin_fp32.metadata.vocabulary
    assert half.vocabulary == demo_latin_fp32.vocabulary
    for bundle, scripts, finished in (
        (demo_latin_fp32, ("latin",), True),
        (demo_latin_fp32, (), False),
        (demo_fp32, ("latin",), False),
    ):
        out = tmp_path / f"{bundle.metadata.vocab_size}-{len(scripts)}"
        out.mkdir()
        (out / "fp32").symlink_to(bundle.path)
        assert is_finished(make_plan(Options(output=out, asked=Asked(scripts=scripts))), "fp32") is finished
