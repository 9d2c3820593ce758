"""What a configuration must say, and of which type: everything that the exporter or NeMo takes a size from."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.errors import UserError, listed
from export.json_files import described

ASR = "nemo.collections.asr."
"""Where every class lies that a speech recognizer is made of."""

_REMEDY = "use a cache-aware streaming FastConformer-RNNT checkpoint as NeMo wrote it"

Width = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=1, le=512)]
Steps = Annotated[int, Field(ge=0, le=10_000)]
Context = Annotated[list[Steps], Field(min_length=2, max_length=2)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class Tokenizer(_Section):
    """The SentencePiece model and its lists of pieces, by their names in the archive."""

    type: str
    dir: str | None = None
    model_path: str | None = None
    vocab_path: str | None = None
    spe_tokenizer_vocab: str | None = None


class Preprocessor(_Section):
    """The log-mel."""

    sample_rate: Annotated[int, Field(ge=1000, le=384_000)]
    features: Annotated[int, Field(ge=1, le=1024)]
    window_size: float
    window_stride: float
    n_fft: Annotated[int, Field(ge=1, le=65_536)] | None = None


class Encoder(_Section):
    """The FastConformer."""

    feat_in: Annotated[int, Field(ge=1, le=1024)]
    n_layers: Layers
    d_model: Width
    n_heads: Width
    subsampling_factor: Annotated[int, Field(ge=1, le=64)]
    subsampling_conv_channels: Annotated[int, Field(ge=-1, le=65_536)] = -1
    ff_expansion_factor: Annotated[int, Field(ge=1, le=64)] = 4
    conv_kernel_size: Annotated[int, Field(ge=1, le=1024)] = 31
    pos_emb_max_len: Annotated[int, Field(ge=1, le=100_000)] = 5000
    att_context_size: Context | Annotated[list[Context], Field(min_length=1, max_length=100)]


class PredictionNetwork(_Section):
    """The recurrent part of the decoder."""

    pred_hidden: Width
    pred_rnn_layers: Layers


class Decoder(_Section):
    """The decoder."""

    prednet: PredictionNetwork


class JointNetwork(_Section):
    """The joint's layers."""

    joint_hidden: Width
    activation: Literal["relu", "sigmoid", "tanh"]
    dropout: Annotated[float, Field(ge=0, le=1)] | Literal[0, 1] | None = None


class Joint(_Section):
    """The joint."""

    jointnet: JointNetwork


class Defaults(_Section):
    """``model_defaults``: sizes that sections share, and the prompts."""

    enc_hidden: Width | None = None
    pred_hidden: Width | None = None
    initialize_prompt_feature: bool = False
    num_prompts: Width = 128
    prompt_dictionary: dict[str, Annotated[int, Field(ge=0, le=65_536)]] | None = None


class Config(_Section):
    """``model_config.yaml``."""

    target: str
    tokenizer: Tokenizer
    preprocessor: Preprocessor
    encoder: Encoder
    decoder: Decoder
    joint: Joint
    model_defaults: Defaults | None = None


def check_config(path: Path, config: dict[str, Any]) -> Config:
    """The configuration, checked for what is missing, of another type, or beyond any model's size.

    Raises:
        UserError: naming every such key of ``model_config.yaml``.
    """
    if "model" in config:
        raise UserError(f"{path}: its model_config.yaml has a key `model`, which NeMo would read instead; {_REMEDY}")
    problems = [
        f"{key} is {target!r}, which lies outside of {ASR[:-1]}"
        for key, target in _targets(config, "")
        if not isinstance(target, str) or not target.startswith(ASR)
    ]
    try:
        found = Config.model_validate(config)
        problems += _contradictions(found)
    except ValidationError as error:
        problems += [described(each) for each in error.errors(include_url=False)]
    if problems:
        raise UserError(f"{path}: in its model_config.yaml {listed(problems, 6)}; {_REMEDY}")
    return found


def check_size(path: Path, config: Config, pieces: int, weights_bytes: int) -> None:
    """Refuse sizes that the weights cannot hold, before NeMo takes memory for them.

    Args:
        path: the ``.nemo`` file or the folder, for errors.
        config: its configuration.
        pieces: of its vocabulary.
        weights_bytes: of the weights' files; a parameter takes two at least.

    Raises:
        UserError: they cannot.
    """
    encoder, prediction = config.encoder, config.decoder.prednet
    layer = (8 + 4 * encoder.ff_expansion_factor) * encoder.d_model**2 + encoder.conv_kernel_size * encoder.d_model
    parameters = encoder.n_layers * layer + prediction.pred_rnn_layers * 8 * prediction.pred_hidden**2
    parameters += pieces * (prediction.pred_hidden + config.joint.jointnet.joint_hidden)
    if 2 * parameters > weights_bytes:
        raise UserError(
            f"{path}: its configuration describes at least {parameters / 1e6:,.1f} million parameters, and its "
            f"weights have {weights_bytes / 1e6:,.1f} MB; {_REMEDY}"
        )


def tokenizer_members(path: Path, tokenizer: Tokenizer, names: Collection[str]) -> dict[str, str]:
    """The archive's members that NeMo makes the tokenizer of, by the configuration's keys.

    Args:
        path: the ``.nemo`` file, for errors.
        tokenizer: the configuration's section.
        names: the archive's members.

    Raises:
        UserError: another kind of tokenizer, or the archive does not hold what the configuration names.
    """
    if tokenizer.type.lower() != "bpe":
        raise UserError(
            f"{path}: its tokenizer.type is {tokenizer.type!r}, supported is 'bpe' (one SentencePiece model); {_REMEDY}"
        )
    if "custom_tokenizer" in (tokenizer.model_extra or {}):
        raise UserError(f"{path}: has a tokenizer.custom_tokenizer, supported is SentencePiece alone; {_REMEDY}")
    found: dict[str, str] = {}
    for key, default in (
        ("model_path", "tokenizer.model"),
        ("vocab_path", "vocab.txt"),
        ("spe_tokenizer_vocab", "tokenizer.vocab"),
    ):
        named = getattr(tokenizer, key)
        # As NeMo does: a path in the archive, or a path of the machine that trained, by its last part.
        inside = named is not None and named.startswith("nemo:")
        member = posixpath.normpath(named[5:]) if inside else posixpath.basename(named or default)
        if member in names:
            found[key] = member
        elif key != "spe_tokenizer_vocab":
            raise UserError(
                f"{path}: its SentencePiece tokenizer is missing: tokenizer.{key} names {member!r}, which the archive "
                "does not hold; download it again"
            )
    return found


def _targets(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every class that the configuration names, and the key that names it."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _targets(each, f"{where}{index}.")
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "_target_" or (key in ("target", "cls") and (not where or "params" in value)):
                yield f"{where}{key}", each
            yield from _targets(each, f"{where}{key}.")


def _contradictions(config: Config) -> list[str]:
    encoder, defaults = config.encoder, config.model_defaults or Defaults()
    problems = []
    if encoder.feat_in != config.preprocessor.features:
        problems.append(f"encoder.feat_in is {encoder.feat_in}, preprocessor.features {config.preprocessor.features}")
    if encoder.d_model % encoder.n_heads:
        problems.append(f"encoder.d_model {encoder.d_model} is no multiple of n_heads {encoder.n_heads}")
    if defaults.initialize_prompt_feature:
        prompts = defaults.prompt_dictionary or {}
        outside = [f"{name}: {row}" for name, row in prompts.items() if row >= defaults.num_prompts]
        if outside:
            problems.append(f"model_defaults.prompt_dictionary has {outside[0]}, num_prompts is {defaults.num_prompts}")
        if not prompts:
            problems.append("model_defaults.prompt_dictionary is missing")
    return problems
