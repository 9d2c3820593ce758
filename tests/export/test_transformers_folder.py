"""A checkpoint as Transformers lays it out: the same folders as from the `.nemo` file; one line for what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.bundle import GRAPHS, VOCABULARY, Bundle
from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.hub import checkpoint_facts
from export.checkpoint.nemo import load_model
from export.checkpoint.transformers_folder import CONFIG, INDEX, PROCESSOR, TOKENIZER, WEIGHTS
from export.checkpoint.transformers_names import REBUILT
from export.checkpoint.weights import read_weights
from export.errors import UserError
from export.graphs.encoder_rewritten import RewrittenEncoderStep
from export.graphs.modules import Featurizer, build_modules
from export.graphs.preprocessor import LogMel
from export.graphs.transducer import DecoderStep, JointStep
from export.pipeline import export_checkpoint
from scripts.regenerate.plan import Options, make_plan
from tests.helpers.command import ROOT
from tests.helpers.transformers_folder import write_transformers_folder
from verify.comparable import require_comparable
from verify.data.manifest import default_manifest, read_manifest
from verify.references.transformers import TransformersStreaming
from verify.runs import checkpoint_side, record_checkpoint
from verify.runtimes.transcript import Transcript


@dataclass(frozen=True)
class Pair:
    """One model in both layouts, and the folder that was exported from the `.nemo` file with NeMo as its oracle."""

    nemo: Checkpoint
    folder: Path
    exported: Bundle


@pytest.fixture(scope="module")
def multilingual(small_checkpoint: Checkpoint, small_fp32: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("layout") / "multilingual"
    return Pair(small_checkpoint, write_transformers_folder(small_checkpoint, folder), small_fp32)


@pytest.fixture(scope="module")
def english(
    small_english_checkpoint: Checkpoint, small_english_fp32: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    folder = tmp_path_factory.mktemp("layout") / "english"
    return Pair(
        small_english_checkpoint, write_transformers_folder(small_english_checkpoint, folder), small_english_fp32
    )


@pytest.fixture(params=["multilingual", "english"])
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(request.param)
    return found


def test_configuration_and_vocabulary_are_those_of_the_nemo_file(pair: Pair) -> None:
    ours = open_checkpoint(pair.folder)
    assert ours.vocabulary == pair.nemo.vocabulary
    for fact in (
        "model_class", "encoder_facts", "sample_rate", "mel_features", "hop_samples", "att_context_sizes", "blank_id",
        "prompts", "num_prompts", "default_prompt_id", "language_tag_ids", "frame_ms",
    ):  # fmt: skip
        if fact != "encoder_facts":
            assert getattr(ours, fact) == getattr(pair.nemo, fact), fact
    told = {key: value for key, value in ours.encoder.items() if not key.startswith("dropout")}
    assert told.items() <= pair.nemo.encoder.items()
    assert (ours.name, ours.path, ours.tokenizer) == (pair.folder.name, pair.folder, {})


def test_the_export_is_bit_for_bit_that_of_the_nemo_file_without_nemo(pair: Pair, tmp_path: Path) -> None:
    """In a process where neither NeMo nor Transformers can be imported, from either layout."""
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('nemo', 'transformers', 'librosa', 'lightning', 'tokenizers'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.modules['nemo'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path\n"
        "from export.checkpoint import open_checkpoint\n"
        "from export.pipeline import export_checkpoint\n"
        "for source, target in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    export_checkpoint(open_checkpoint(source), Path(target))\n"
    )
    targets = [tmp_path / "from-folder", tmp_path / "from-nemo"]
    arguments = [pair.folder, targets[0], pair.nemo.path, targets[1]]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "NeMo is not installed: each graph is compared with" in done.stderr
    for target in targets:
        made = Bundle.open(target, check="hashes")
        for name in [*(f"nemotron_{graph}.bin" for graph in GRAPHS), VOCABULARY]:
            assert (target / name).read_bytes() == (pair.exported.path / name).read_bytes(), name
        assert made.metadata.parity["encoder"]["reference"] == "the traced PyTorch modules, FP32"
        assert "nemo_toolkit" not in made.metadata.tools
    own = {"model", "checkpoint", "tools", "parity", "metadata_sha256"}
    own |= {"files"}  # of an .xml it differs: OpenVINO numbers constants by a counter
    ours, theirs = (Bundle.open(each).metadata for each in (targets[0], pair.exported.path))
    assert ours.model_dump(exclude=own) == theirs.model_dump(exclude=own)
    facts = ours.checkpoint
    assert (ours.model, facts["source"], facts["format"]) == (pair.folder.name, pair.folder.name, "transformers")
    assert facts["file"] == WEIGHTS
    assert facts["sha256"] == hashlib.sha256((pair.folder / WEIGHTS).read_bytes()).hexdigest()
    assert facts["transformers_version"] == json.loads((pair.folder / CONFIG).read_text())["transformers_version"]
    assert Bundle.open(targets[1]).metadata.checkpoint == theirs.checkpoint


def test_our_modules_are_nemos(demo_checkpoint: Checkpoint) -> None:
    """Every parameter and buffer of every graph's module, bit for bit; the demo's parity proves what they compute."""
    geometry, _ = demo_checkpoint.geometry(3)
    nemo, ours = load_model(demo_checkpoint), build_modules(demo_checkpoint, read_weights(demo_checkpoint))
    for step in (
        lambda model: RewrittenEncoderStep(model, geometry, "channel"),
        lambda model: RewrittenEncoderStep(model, geometry, "kv"),
        lambda model: LogMel(model.preprocessor.featurizer),
        lambda model: DecoderStep(model, unrolled=True),
        lambda model: JointStep(model, list(range(0, 1025, 2))),
    ):
        there, here = step(nemo).state_dict(), step(ours).state_dict()
        assert list(here) == list(there)
        assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())


def test_filter_bank_and_window_are_rebuilt_bit_for_bit(demo_checkpoint: Checkpoint) -> None:
    stored = read_weights(demo_checkpoint)
    rebuilt = Featurizer(demo_checkpoint.config["preprocessor"]).rebuilt()
    assert set(rebuilt) == set(REBUILT)
    for name, tensor in rebuilt.items():
        assert torch.equal(tensor, stored[name]), name


@pytest.mark.parametrize(
    ("rate", "points", "mel", "low", "high"), [(16000, 512, 80, 0.0, 8000.0), (8000, 256, 40, 20.0, 3800.0)]
)
def test_the_filter_bank_is_librosas(rate: int, points: int, mel: int, low: float, high: float) -> None:
    import librosa

    from export.graphs.modules import slaney_filters

    wanted = librosa.filters.mel(sr=rate, n_fft=points, n_mels=mel, fmin=low, fmax=high)
    assert (slaney_filters(rate, points, mel, low, high) == wanted).all()


def test_what_the_processor_leaves_out_is_as_transformers_reads_it(multilingual: Pair, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    folder = copied(multilingual, tmp_path / "short")
    content = json.loads((folder / PROCESSOR).read_text(encoding="utf-8"))
    del content["feature_extractor"]["preemphasis"]
    (folder / PROCESSOR).write_text(json.dumps(content), encoding="utf-8")
    theirs = AutoProcessor.from_pretrained(folder).feature_extractor.preemphasis
    assert open_checkpoint(folder).config["preprocessor"]["preemph"] == theirs == 0.97


def test_nemo_restores_the_folder_too(pair: Pair) -> None:
    """So that it can be a reference for what was exported from there."""
    ours, theirs = load_model(open_checkpoint(pair.folder)), load_model(pair.nemo)
    there = theirs.state_dict()
    assert all(torch.equal(tensor, there.pop(name)) for name, tensor in ours.state_dict().items())
    assert there == {}
    assert ours.tokenizer.ids_to_text([5, 9, 40]) == theirs.tokenizer.ids_to_text([5, 9, 40])
    pieces = len(pair.nemo.vocabulary)
    assert (ours.joint.num_classes_with_blank, ours.decoding.blank_id) == (pieces + 1, pieces)
    assert isinstance(ours.cfg.labels, str), "OmegaConf copies a list of pieces for half a minute"


def copied(pair: Pair, target: Path, *without: str) -> Path:
    return Path(shutil.copytree(pair.folder, target, ignore=shutil.ignore_patterns(*without)))


def sharded(pair: Pair, target: Path, parts: int = 3) -> Path:
    """The same weights in several files, as Transformers writes large models."""
    folder, tensors = copied(pair, target, WEIGHTS), load_file(pair.folder / WEIGHTS)
    names = sorted(tensors)
    places: dict[str, str] = {}
    for part in range(parts):
        file = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        chosen = names[part::parts]
        save_file({name: tensors[name] for name in chosen}, folder / file)
        places |= dict.fromkeys(chosen, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_shards_are_read_by_the_index(multilingual: Pair, tmp_path: Path) -> None:
    folder = sharded(multilingual, tmp_path / "sharded")
    opened = open_checkpoint(folder)
    assert [shard.name for shard in opened.shards] == [f"model-{part:05d}-of-00003.safetensors" for part in (1, 2, 3)]
    whole, parts = read_weights(open_checkpoint(multilingual.folder)), read_weights(opened)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    facts = checkpoint_facts(opened)
    assert (facts["file"], facts["files"]) == (opened.shards[0].name, 3)
    assert facts["sha256"] == hashlib.sha256(b"".join(shard.read_bytes() for shard in opened.shards)).hexdigest()
    assert opened.size_bytes == sum(shard.stat().st_size for shard in opened.shards)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (PROCESSOR, lambda data: data["prompt_dictionary"].update({"xx-XX": 7})),
        (PROCESSOR, lambda data: data["feature_extractor"].update(preemphasis=0.5)),
        (CONFIG, lambda data: data["encoder_config"].update(scale_input=not data["encoder_config"]["scale_input"])),
    ],
)
def test_equal_weights_under_another_configuration_are_another_checkpoint(
    multilingual: Pair,
    tmp_path: Path,
    file: str,
    change: Callable[[dict[str, Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that was made or recorded of the one is used for the other."""
    monkeypatch.setenv("NEMOTRON_OV_CACHE", str(tmp_path / "cache"))
    folder = copied(multilingual, tmp_path / "edited")
    before = open_checkpoint(folder)
    data = json.loads((folder / file).read_text())
    change(data)
    (folder / file).write_text(json.dumps(data))
    after = open_checkpoint(folder)
    assert before.sha256 == after.sha256
    assert before.identity != after.identity
    with pytest.raises(UserError, match="another configuration"):
        require_comparable(checkpoint_side(before, 0), checkpoint_side(after, 0))
    plans = [make_plan(Options(tmp_path / "out", checkpoint=str(each))) for each in (multilingual.folder, folder)]
    assert plans[0].inputs.keys() == plans[1].inputs.keys()
    assert plans[0].inputs != plans[1].inputs
    calls: list[int] = []

    def transcribe(*_: object) -> Transcript:
        calls.append(1)
        return Transcript([], [], "", None, 1.0)

    monkeypatch.setattr(TransformersStreaming, "__init__", lambda *_: None)
    monkeypatch.setattr(TransformersStreaming, "transcribe", transcribe)
    utterances = read_manifest(default_manifest())[:1]
    for each in (before, before, after):
        record_checkpoint(each, 0, utterances, oracle="transformers")
    assert len(calls) == 2


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_fp32(multilingual: Pair, tmp_path: Path, kind: torch.dtype) -> None:
    folder = copied(multilingual, tmp_path / "half", WEIGHTS)
    halves = {name: tensor.to(kind) for name, tensor in load_file(multilingual.folder / WEIGHTS).items()}
    save_file(halves, folder / WEIGHTS)
    opened = open_checkpoint(folder)
    model = build_modules(opened, read_weights(opened))
    assert {each.dtype for each in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.joint.enc.weight, halves["encoder_projector.weight"].float())


def test_weights_are_mapped(multilingual: Pair) -> None:
    tensors = read_weights(open_checkpoint(multilingual.folder))
    mapped = (Path("/proc/self/maps")).read_text()
    assert str((multilingual.folder / WEIGHTS).resolve()) in mapped
    model = build_modules(open_checkpoint(multilingual.folder), tensors)
    name = "encoder.layers.0.feed_forward1.linear1.weight"
    assert model.state_dict()[name].data_ptr() == tensors[name].data_ptr()


def test_pieces_beyond_blank_are_none_of_the_models(multilingual: Pair) -> None:
    tokenizer = json.loads((multilingual.folder / TOKENIZER).read_text())
    beyond = [token["content"] for token in tokenizer["added_tokens"] if token["id"] >= 300]
    assert beyond
    assert not set(beyond) & set(open_checkpoint(multilingual.folder).vocabulary)


Json = dict[str, Any]


def put(*keys: str, value: Any) -> Callable[[Json], None]:
    def change(content: Json) -> None:
        for key in keys[:-1]:
            content = content[key]
        if value is ...:
            del content[keys[-1]]
        else:
            content[keys[-1]] = value

    return change


def rename_piece(old: str, new: str) -> Callable[[Json], None]:
    def change(content: Json) -> None:
        vocabulary = content["model"]["vocab"]
        index = vocabulary.pop(old)
        if new:
            vocabulary[new] = index

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (CONFIG, put("architectures", value=["ParakeetForCTC"]), "only cache-aware RNN-T models"),
        (CONFIG, put("architectures", value=7), "architectures is 7"),
        (CONFIG, put("encoder_config", "scale_input", value=...), "encoder_config.scale_input is missing"),
        (CONFIG, put("encoder_config", "hidden_size", value="64"), "encoder_config.hidden_size is '64'"),
        (CONFIG, put("encoder_config", "num_hidden_layers", value=10**9), "num_hidden_layers is 1000000000"),
        (CONFIG, put("encoder_config", "num_hidden_layers", value=500), "describes at least .* million parameters"),
        (CONFIG, put("encoder_config", "model_type", value="parakeet_encoder"), "model_type is 'parakeet_encoder'"),
        (CONFIG, put("encoder_config", "convolution_bias", value=True), "attention_bias False is not convolution_bias"),
        (CONFIG, put("encoder_config", "num_attention_heads", value=3), "no multiple of num_attention_heads 3"),
        (CONFIG, put("encoder_config", "intermediate_size", value=65), "intermediate_size 65 is no multiple"),
        (CONFIG, put("encoder_config", "subsampling_factor", value=6), "subsampling_factor 6 is no power of two"),
        (CONFIG, put("encoder_config", "default_num_lookahead_tokens", value=4), "default_num_lookahead_tokens 4"),
        (CONFIG, put("blank_token_id", value=299), "blank_token_id 299 is not vocab_size 301 - 1"),
        (CONFIG, put("hidden_act", value="gelu"), "hidden_act is 'gelu'"),
        (CONFIG, put("num_prompts", value=64), "num_prompts 64 is not processor_config.json's 128"),
        (CONFIG, put("default_prompt_id", value=5), "default_prompt_id is 5, the prompts' is 101"),
        (CONFIG, put("prompt_intermediate_size", value=64), "prompt_intermediate_size 64 is not twice hidden_size"),
        (PROCESSOR, put("feature_extractor", "hop_length", value=200), "hop_length 200 is not 10 ms"),
        (PROCESSOR, put("feature_extractor", "win_length", value=320), "win_length 320 is not 25 ms"),
        (PROCESSOR, put("feature_extractor", "feature_size", value=80), "num_mel_bins 128 is not .* feature_size 80"),
        (PROCESSOR, put("feature_extractor", "mel_filters_dtype", value="bfloat16"), "mel_filters_dtype is 'bfloat16'"),
        (PROCESSOR, put("feature_extractor", "preemphasis", value=float("nan")), "it has the number NaN"),
        (
            PROCESSOR,
            put("feature_extractor", "feature_extractor_type", value="ParakeetFeatureExtractor"),
            "feature_extractor_type is 'ParakeetFeatureExtractor'",
        ),
        (PROCESSOR, put("supported_num_lookahead_tokens", value=[0, 3]), r"are not processor_config.json's \[0, 3\]"),
        (PROCESSOR, put("prompt_dictionary", value=None), "prompt_dictionary is missing"),
        (PROCESSOR, put("prompt_dictionary", "auto", value=128), "a row beyond num_prompts 128"),
        (TOKENIZER, put("model", "type", value="Unigram"), "model.type is 'Unigram'"),
        (TOKENIZER, put("model", "vocab", value=[["a", 0]]), "model.vocab is"),
        (TOKENIZER, put("model", "vocab", "extra", value=7), "id 7 is"),
        (TOKENIZER, put("model", "vocab", value={"<unk>": 0}), "has no piece of id"),
    ],
    ids=lambda value: None if callable(value) else str(value)[:40],
)
def test_what_a_file_says_wrong_is_one_line(
    multilingual: Pair, tmp_path: Path, file: str, change: Callable[[Json], None], message: str
) -> None:
    folder = copied(multilingual, tmp_path / "changed")
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    change(content)
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=message) as failure:
        open_checkpoint(folder)
    assert "\n" not in str(failure.value)
    assert str(folder) in str(failure.value)


@pytest.mark.parametrize("file", [CONFIG, PROCESSOR, TOKENIZER])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b"[1]", "input should be|architectures is"),
        (None, "is missing"),
    ],
    ids=["empty", "cut", "no text", "deep", "twice", "list", "absent"],
)
def test_a_damaged_file_is_one_line(
    multilingual: Pair, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    folder = copied(multilingual, tmp_path / "damaged")
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    if file == CONFIG and content is None:
        message = "is a folder without config.json"
    with pytest.raises(UserError, match=message) as failure:
        open_checkpoint(folder)
    assert "\n" not in str(failure.value)
    assert str(folder) in str(failure.value)


def test_a_link_may_not_lead_out_of_the_folder(multilingual: Pair, tmp_path: Path) -> None:
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        folder = copied(multilingual, tmp_path / f"without-{name}", name)
        (folder / name).symlink_to(multilingual.folder / name)
        with pytest.raises(UserError, match="is a link that leads out of its folder"):
            open_checkpoint(folder)
    folder = copied(multilingual, tmp_path / "pipe", WEIGHTS)
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(UserError, match="is no plain file"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../outside.safetensors"}}, "which is no file of this folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "which is no file of this folder"),
        ({"weight_map": {"a": "..safetensors"}}, "is missing"),
        ({"weight_map": {"a": "config.json"}}, "which is no file of this folder"),
        ({"weight_map": {"a": 7}}, "is no list of tensors and their files"),
        ({"weight_map": {}}, "is no list of tensors and their files"),
        ([], "is no list of tensors and their files"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "is missing"),
    ],
)
def test_an_index_names_files_of_its_folder(multilingual: Pair, tmp_path: Path, index: Any, message: str) -> None:
    folder = copied(multilingual, tmp_path / "indexed", WEIGHTS)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        open_checkpoint(folder)


def test_two_sets_of_weights_are_refused(multilingual: Pair, tmp_path: Path) -> None:
    folder = sharded(multilingual, tmp_path / "both")
    shutil.copyfile(multilingual.folder / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(UserError, match="so it is not clear which one is meant"):
        open_checkpoint(folder)


Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("encoder_projector.bias"), "joint.enc.bias is missing"),
        (lambda found: found.update(stranger=torch.zeros(2)), "holds stranger, which is no tensor of this model"),
        (lambda found: found.update({REBUILT[0]: torch.ones(1, 128, 257)}), f"holds {REBUILT[0]}, which is no tensor"),
        (lambda found: found.update({"encoder_projector.bias": torch.zeros(3)}), r"joint.enc.bias has shape \[3\]"),
        (lambda found: found["joint.head.bias"].fill_(float("nan")), "joint_net.2.bias holds numbers that are not"),
        (lambda found: found["joint.head.bias"].fill_(float("inf")), "joint_net.2.bias holds numbers that are not"),
        (
            lambda found: found.update({"joint.head.bias": found["joint.head.bias"].to(torch.int32)}),
            "joint_net.2.bias is int32",
        ),
        (
            lambda found: found.update({"joint.head.bias": found["joint.head.bias"].to(torch.float8_e4m3fn)}),
            "joint_net.2.bias is float8_e4m3fn",
        ),
    ],
    ids=["missing", "left over", "filter bank", "shape", "nan", "infinite", "integers", "8 bits"],
)
def test_a_tensor_that_does_not_fit_is_one_line(
    multilingual: Pair, tmp_path: Path, change: Callable[[Tensors], object], message: str
) -> None:
    folder, tensors = copied(multilingual, tmp_path / "tensors", WEIGHTS), load_file(multilingual.folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match=message) as failure:
        export_checkpoint(open_checkpoint(folder), tmp_path / "out")
    assert "\n" not in str(failure.value)
    assert [each.name for each in tmp_path.iterdir()] == ["tensors"], "nothing is left half-written"


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_damaged_weights_are_one_line(multilingual: Pair, tmp_path: Path, keep: int) -> None:
    folder = copied(multilingual, tmp_path / "cut", WEIGHTS)
    data = (multilingual.folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:keep] + bytes(0 if keep < 0 else len(data)))
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read .*download it again") as failure:
        read_weights(open_checkpoint(folder))
    assert "\n" not in str(failure.value)


def test_a_folder_of_something_else_names_the_file_in_it(multilingual: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder without config\.json and model\.safetensors; give a \.nemo"):
        open_checkpoint(tmp_path)
    (tmp_path / "a.nemo").touch()
    with pytest.raises(UserError, match=r"give the file inside it, a\.nemo"):
        open_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"--checkpoint-format nemo: .* is in the layout of transformers"):
        open_checkpoint(multilingual.folder, layout="nemo")
    with pytest.raises(UserError, match="--oracle torch: NeMo's encoder is made with NeMo"):
        export_checkpoint(multilingual.nemo, tmp_path / "out", encoder="nemo", oracle="torch")
