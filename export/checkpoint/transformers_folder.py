"""A checkpoint as Hugging Face Transformers lays it out: its configuration, prompts and pieces, in NeMo's terms.

``config.json``, ``processor_config.json`` and ``tokenizer.json`` say what a ``.nemo`` file's ``model_config.yaml`` and
SentencePiece model say, so they become the same configuration and vocabulary; nothing after this room knows the
difference. What Transformers' classes fix and do not store is written out here. ``tokenizer_config.json`` and
``generation_config.json`` say nothing more. Weights are read by :mod:`export.checkpoint.weights`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.checkpoint.config import Checkpoint, check_supported
from export.checkpoint.schema import Layers, Steps, Width, check_config, check_size
from export.digest import digest, file_state
from export.errors import UserError, listed
from export.json_files import described

CONFIG, PROCESSOR, TOKENIZER = "config.json", "processor_config.json", "tokenizer.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FILES = (CONFIG, PROCESSOR, TOKENIZER, WEIGHTS, INDEX, "model-*-of-*.safetensors")
"""What is read of such a folder, as patterns."""

_REMEDY = "give a folder as Transformers wrote it, or download it again"
_LARGEST = 64_000_000
"""Bytes of the largest JSON file; the tokenizer of 13,087 pieces takes one million."""

_SHARD = re.compile(r"[\w.-]+\.safetensors")
_SHARDS = 1000

_ASR = "nemo.collections.asr"
_TARGETS = {
    "Nemotron3_5AsrForRNNT": f"{_ASR}.models.rnnt_bpe_models_prompt.EncDecRNNTBPEModelWithPrompt",
    "NemotronAsrStreamingForRNNT": f"{_ASR}.models.rnnt_bpe_models.EncDecRNNTBPEModel",
}
"""Transformers' classes and NeMo's."""

_JOINT_DROPOUT = 0.2
"""Does nothing in a trained model, but numbers the joint's last layer, and so names it, as in the published one."""

Row = Annotated[int, Field(ge=0, le=65_536)]
Lookaheads = Annotated[list[Steps], Field(min_length=1, max_length=100)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=(), allow_inf_nan=False)


_Model = TypeVar("_Model", bound=_Section)


class EncoderConfig(_Section):
    """``encoder_config``: no size has a default, because a missing one would be taken from another model."""

    model_type: Literal["nemotron_asr_streaming_encoder"]
    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Width
    intermediate_size: Annotated[int, Field(ge=1, le=4_194_304)]
    attention_bias: bool
    convolution_bias: bool
    conv_kernel_size: Annotated[int, Field(ge=1, le=1024)]
    subsampling_factor: Annotated[int, Field(ge=1, le=64)]
    subsampling_conv_channels: Width
    num_mel_bins: Annotated[int, Field(ge=1, le=1024)]
    max_position_embeddings: Annotated[int, Field(ge=1, le=100_000)]
    scale_input: bool
    sliding_window: Annotated[int, Field(ge=1, le=10_001)]
    default_num_lookahead_tokens: Steps
    supported_num_lookahead_tokens: Lookaheads | None = None
    hidden_act: Literal["silu"] = "silu"
    subsampling_conv_kernel_size: Literal[3] = 3
    subsampling_conv_stride: Literal[2] = 2


class ModelConfig(_Section):
    """``config.json``."""

    architectures: Annotated[list[str], Field(min_length=1, max_length=1)]
    encoder_config: EncoderConfig
    vocab_size: Annotated[int, Field(ge=2, le=1_000_000)]
    blank_token_id: Annotated[int, Field(ge=1, le=1_000_000)]
    decoder_hidden_size: Width
    num_decoder_layers: Layers
    hidden_act: Literal["relu", "sigmoid", "tanh"]
    joint_hidden_size: Width | None = None
    max_symbols_per_step: Annotated[int, Field(ge=1, le=1000)] = 10
    num_prompts: Width | None = None
    default_prompt_id: Row | None = None
    prompt_intermediate_size: Annotated[int, Field(ge=1, le=131_072)] | None = None
    transformers_version: str = ""


class FeatureExtractor(_Section):
    """``feature_extractor``: the log-mel, in samples; what has a default has that of Transformers' class."""

    sampling_rate: Annotated[int, Field(ge=1000, le=384_000)]
    feature_size: Annotated[int, Field(ge=1, le=1024)]
    n_fft: Annotated[int, Field(ge=1, le=65_536)]
    win_length: Annotated[int, Field(ge=1, le=65_536)]
    hop_length: Annotated[int, Field(ge=1, le=65_536)]
    preemphasis: Annotated[float, Field(ge=0.0, lt=1.0)] | None = 0.97
    feature_extractor_type: Literal["NemotronAsrStreamingFeatureExtractor"] = "NemotronAsrStreamingFeatureExtractor"
    mel_filters_dtype: Literal["float32"] = "float32"


class ProcessorConfig(_Section):
    """``processor_config.json``."""

    feature_extractor: FeatureExtractor
    supported_num_lookahead_tokens: Lookaheads | None = None
    default_num_lookahead_tokens: Steps | None = None
    prompt_dictionary: dict[str, Row] | None = None
    num_prompts: Width | None = None


class AddedToken(_Section):
    """One of ``added_tokens``."""

    id: Annotated[int, Field(ge=0)]
    content: str


class Pieces(_Section):
    """``model`` of a tokenizer: every piece and its id."""

    type: Literal["BPE"]
    vocab: dict[str, Annotated[int, Field(ge=0)]]


class Tokenizer(_Section):
    """``tokenizer.json``."""

    model: Pieces
    added_tokens: list[AddedToken] = Field(default_factory=list)


def open_folder(folder: Path, source: str, name: str) -> Checkpoint:
    """Read and check a folder's configuration, prompts and pieces; no weight is read.

    Args:
        folder: holds :data:`FILES`.
        source: what the user asked for.
        name: of the model.

    Raises:
        UserError: a file is missing, damaged or leads out of the folder, or the model is none that can be exported.
    """
    model = _validated(folder, CONFIG, ModelConfig)
    processor = _validated(folder, PROCESSOR, ProcessorConfig)
    pieces = _pieces(folder, model.blank_token_id)
    _check_agreement(folder, model, processor)
    config = _as_nemo(model, processor)
    check_supported(folder, config)
    shards = _shards(folder)
    opened = tuple(map(file_state, shards))
    check_size(folder, check_config(folder, config), len(pieces), sum(shard.stat().st_size for shard in shards))
    checkpoint = Checkpoint(
        folder,
        source,
        config,
        pieces,
        name,
        opened,
        shards=shards,
        writer=model.transformers_version,
        config_sha256=digest([config, pieces]),
    )
    if model.default_prompt_id not in (None, checkpoint.default_prompt_id):
        raise UserError(
            f"{folder / CONFIG}: default_prompt_id is {model.default_prompt_id}, the prompts' is "
            f"{checkpoint.default_prompt_id}; {_REMEDY}"
        )
    return checkpoint


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in this layout, and no finished graphs."""
    return all((folder / name).exists() for name in (CONFIG, PROCESSOR))


def _validated(folder: Path, name: str, kind: type[_Model]) -> _Model:
    """A JSON file, checked for what is missing, of another type, or beyond any model's size.

    Raises:
        UserError: naming every such key.
    """
    data = _read_json(folder, name)
    if name == CONFIG and isinstance(data, dict):
        _check_class(folder, data)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = [described(each) for each in error.errors(include_url=False)]
        raise UserError(f"{folder / name}: {listed(problems, 6)}; {_REMEDY}") from error


def _check_class(folder: Path, data: dict[str, Any]) -> None:
    found = data.get("architectures")
    named = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(named, str) or named not in _TARGETS:
        raise UserError(
            f"{folder / CONFIG}: architectures is {str(found)[:80]}; only cache-aware RNN-T models "
            f"({' or '.join(_TARGETS)}) can be exported"
        )


def _read_json(folder: Path, name: str) -> Any:
    file = inside(folder, name)
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file}: has {file.stat().st_size:,} bytes, more than any model's; {_REMEDY}")
        text = file.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); check who may read it") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON that can be used ({str(error)[:120]}); {_REMEDY}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it has the number {name}")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)[:60]!r} twice")
    return found


def inside(folder: Path, name: str) -> Path:
    """A file of the folder; a link may lead no further, or to the blobs of huggingface_hub's cache.

    Raises:
        UserError: there is none, it is no plain file, or it lies elsewhere.
    """
    file = folder / name
    real = file.resolve()
    snapshot = folder.resolve()
    blobs = snapshot.parents[1] / "blobs" if snapshot.parent.name == "snapshots" else None
    if real.parent not in {snapshot, blobs}:
        raise UserError(f"{file}: is a link that leads out of its folder, to {real}; put the file itself there")
    if not real.exists():
        raise UserError(f"{file}: is missing; {_REMEDY}")
    if not real.is_file():
        raise UserError(f"{file}: is no plain file; {_REMEDY}")
    return file


def _shards(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights, in order.

    Raises:
        UserError: there are none, or the index names files that are none of the folder's.
    """
    if not (folder / INDEX).is_symlink() and not (folder / INDEX).exists():
        return (inside(folder, WEIGHTS),)
    if (folder / WEIGHTS).exists():
        raise UserError(f"{folder}: holds {WEIGHTS} and {INDEX}, so it is not clear which one is meant; {_REMEDY}")
    index = _read_json(folder, INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(each, str) for each in names.values()):
        raise UserError(f"{folder / INDEX}: weight_map is no list of tensors and their files; {_REMEDY}")
    files = sorted(set(names.values()))
    wrong = [name for name in files if not _SHARD.fullmatch(name)]
    if wrong or len(files) > _SHARDS:
        what = f"names {wrong[0][:80]!r}, which is no file of this folder" if wrong else f"names {len(files):,} files"
        raise UserError(f"{folder / INDEX}: weight_map {what}; do not use this folder")
    return tuple(inside(folder, name) for name in files)


def _pieces(folder: Path, blank: int) -> tuple[str, ...]:
    """The model's pieces in id order; ids from ``blank`` on are the tokenizer's own and no outputs of the model.

    Raises:
        UserError: an id has no piece, or two.
    """
    tokenizer = _validated(folder, TOKENIZER, Tokenizer)
    pieces: dict[int, str] = {}
    added = [(token.content, token.id) for token in tokenizer.added_tokens]
    for piece, index in [*tokenizer.model.vocab.items(), *added]:
        if index >= blank:
            continue
        if pieces.setdefault(index, piece) != piece:
            raise UserError(f"{folder / TOKENIZER}: id {index} is {pieces[index][:40]!r} and {piece[:40]!r}; {_REMEDY}")
    missing = [str(index) for index in range(blank) if index not in pieces]
    if missing:
        ids = listed(missing, 3, ", ")
        raise UserError(f"{folder / TOKENIZER}: has no piece of id {ids}, and blank_token_id is {blank}; {_REMEDY}")
    ordered = tuple(pieces[index] for index in range(blank))
    wrong = next((index for index, piece in enumerate(ordered) if not _is_text(piece)), None)
    if wrong is not None or len(set(ordered)) != len(ordered):
        what = "two ids have one piece" if wrong is None else f"the piece of id {wrong} is no text"
        raise UserError(f"{folder / TOKENIZER}: {what}; {_REMEDY}")
    return ordered


def _is_text(piece: str) -> bool:
    try:
        piece.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_agreement(folder: Path, model: ModelConfig, processor: ProcessorConfig) -> None:
    """Refuse files that contradict each other or themselves.

    Raises:
        UserError: naming every contradiction.
    """
    encoder, features = model.encoder_config, processor.feature_extractor
    lookaheads = [encoder.supported_num_lookahead_tokens, processor.supported_num_lookahead_tokens]
    rows, listed = model.num_prompts, processor.num_prompts
    prompted = model.architectures[0] == "Nemotron3_5AsrForRNNT"
    wrong = {
        f"blank_token_id {model.blank_token_id} is not vocab_size {model.vocab_size} - 1": model.blank_token_id
        != model.vocab_size - 1,
        f"attention_bias {encoder.attention_bias} is not convolution_bias": encoder.attention_bias
        != encoder.convolution_bias,
        f"intermediate_size {encoder.intermediate_size} is no multiple of hidden_size {encoder.hidden_size}": (
            encoder.intermediate_size % encoder.hidden_size
        )
        > 0,
        f"num_mel_bins {encoder.num_mel_bins} is not {PROCESSOR}'s feature_size {features.feature_size}": (
            encoder.num_mel_bins != features.feature_size
        ),
        f"hidden_size {encoder.hidden_size} is no multiple of num_attention_heads {encoder.num_attention_heads}": (
            encoder.hidden_size % encoder.num_attention_heads
        )
        > 0,
        # The clients cut audio by 10 ms a frame, and the second generation computes its own windows of 25 ms.
        f"{PROCESSOR}'s hop_length {features.hop_length} is not 10 ms": features.hop_length * 100
        != features.sampling_rate,
        f"{PROCESSOR}'s win_length {features.win_length} is not 25 ms": features.win_length * 40
        != features.sampling_rate,
        f"subsampling_factor {encoder.subsampling_factor} is no power of two": (
            encoder.subsampling_factor.bit_count() != 1 or encoder.subsampling_factor == 1
        ),
        f"supported_num_lookahead_tokens stand neither here nor in {PROCESSOR}": lookaheads == [None, None],
        f"supported_num_lookahead_tokens {lookaheads[0]} are not {PROCESSOR}'s {lookaheads[1]}": None not in lookaheads
        and lookaheads[0] != lookaheads[1],
        f"default_num_lookahead_tokens {encoder.default_num_lookahead_tokens} is not supported": any(
            found is not None and encoder.default_num_lookahead_tokens not in found for found in lookaheads
        ),
        f"num_prompts {rows} is not {PROCESSOR}'s {listed}": prompted and listed is not None and rows != listed,
        "num_prompts is missing": prompted and rows is None,
        f"prompt_dictionary is missing in {PROCESSOR}": prompted and not processor.prompt_dictionary,
        f"{PROCESSOR}'s prompt_dictionary has a row beyond num_prompts {rows}": max(
            (processor.prompt_dictionary or {"": 0}).values()
        )
        >= (rows or 65_537),
        f"prompt_intermediate_size {model.prompt_intermediate_size} is not twice hidden_size": prompted
        and model.prompt_intermediate_size not in (None, 2 * encoder.hidden_size),
        f"prompts are {PROCESSOR}'s, and {model.architectures[0]} takes none": not prompted
        and bool(processor.prompt_dictionary or rows),
    }
    problems = [text for text, is_wrong in wrong.items() if is_wrong]
    if problems:
        raise UserError(f"{folder / CONFIG}: {'; '.join(problems)}; {_REMEDY}")


def _as_nemo(model: ModelConfig, processor: ProcessorConfig) -> dict[str, Any]:
    """``model_config.yaml`` as NeMo would write it for this model, but for what only training reads."""
    encoder, features = model.encoder_config, processor.feature_extractor
    rights = encoder.supported_num_lookahead_tokens or processor.supported_num_lookahead_tokens or []
    first = encoder.default_num_lookahead_tokens
    width, hidden = encoder.hidden_size, model.decoder_hidden_size
    joined = model.joint_hidden_size or hidden
    defaults: dict[str, Any] = {"enc_hidden": width, "pred_hidden": hidden, "joint_hidden": joined}
    if model.num_prompts is not None:
        defaults |= {
            "initialize_prompt_feature": True,
            "num_prompts": model.num_prompts,
            "prompt_dictionary": processor.prompt_dictionary,
        }
    return {
        "target": _TARGETS[model.architectures[0]],
        "sample_rate": features.sampling_rate,
        "model_defaults": defaults,
        "tokenizer": {"type": "bpe"},
        "preprocessor": {
            "_target_": f"{_ASR}.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": features.sampling_rate, "features": features.feature_size, "n_fft": features.n_fft,
            "window_size": features.win_length / features.sampling_rate,
            "window_stride": features.hop_length / features.sampling_rate,
            "preemph": features.preemphasis, "normalize": "NA", "window": "hann", "log": True, "frame_splicing": 1,
            "dither": 0.0, "pad_to": 0,
        },
        "encoder": {
            "_target_": f"{_ASR}.modules.ConformerEncoder",
            "feat_in": encoder.num_mel_bins, "feat_out": -1, "n_layers": encoder.num_hidden_layers, "d_model": width,
            "n_heads": encoder.num_attention_heads, "use_bias": encoder.attention_bias,
            "ff_expansion_factor": encoder.intermediate_size // width, "conv_kernel_size": encoder.conv_kernel_size,
            "subsampling_factor": encoder.subsampling_factor,
            "subsampling_conv_channels": encoder.subsampling_conv_channels,
            "pos_emb_max_len": encoder.max_position_embeddings, "xscaling": encoder.scale_input,
            "att_context_size": [
                [encoder.sliding_window - 1, right] for right in [first, *(each for each in rights if each != first)]
            ],
            "att_context_style": "chunked_limited", "conv_norm_type": "layer_norm", "conv_context_size": "causal",
            "causal_downsampling": True, "self_attention_model": "rel_pos", "subsampling": "dw_striding",
            "untie_biases": True,
        },
        "decoder": {
            "_target_": f"{_ASR}.modules.RNNTDecoder",
            "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True,
            "prednet": {"pred_hidden": hidden, "pred_rnn_layers": model.num_decoder_layers, "t_max": None,
                        "dropout": 0.0},
        },
        "joint": {
            "_target_": f"{_ASR}.modules.RNNTJoint",
            "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False, "fused_batch_size": -1,
            "jointnet": {"joint_hidden": joined, "activation": model.hidden_act, "dropout": _JOINT_DROPOUT},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": model.max_symbols_per_step}},
        "loss": {"loss_name": "default"},
    }  # fmt: skip
