"""A checkpoint of the real class and configuration with random weights.

Sizes, memory and speed do not depend on the values of the weights, so a full-size random checkpoint measures what
the real one costs; the small one makes tests quick. A random joint almost never emits blank, which would make
decoding many times too expensive: the blank bias is calibrated on the model itself.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from export import progress
from export.checkpoint.config import RANDOM_WEIGHTS
from scripts.checkpoints.packing import new_checkpoint, pack
from scripts.checkpoints.random import blank_bias as random_calibration
from scripts.checkpoints.random import tokenizer as random_tokenizer

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

Size = Literal["full", "small"]
Variant = Literal["multilingual", "english"]

KNOWN_PROMPTS = {
    "en-US": 0, "es": 3, "es-US": 3, "zh-CN": 4, "fr": 8, "de": 9, "ja-JP": 10, "pt": 13, "pt-PT": 13, "auto": 101,
}  # fmt: skip
"""Rows of the multilingual model's prompt dictionary that are known; every other name below is a placeholder."""

_PLACEHOLDER_PROMPTS = (
    "en-GB es-ES zh-TW hi-IN ar-AR ru-RU pt-BR ko-KR it-IT nl-NL pl-PL tr-TR uk-UA ro-RO el-GR cs-CZ hu-HU sv-SE "
    "da-DK fi-FI nb-NO sk-SK hr-HR bg-BG lt-LT th-TH vi-VN id-ID ms-MY bn-IN ur-PK fa-IR ta-IN te-IN mr-IN gu-IN "
    "kn-IN ml-IN si-LK ne-NP km-KH sw-KE am-ET ha-NG zu-ZA yo-NG ig-NG af-ZA rw-RW so-SO ny-MW ln-CD he-IL ku-TR "
    "az-AZ ka-GE hy-AM uz-UZ tg-TJ ky-KG qu-PE ay-BO gn-PY mi-NZ sm-WS to-TO fj-FJ haw-US et-EE lv-LV sl-SI is-IS "
    "ga-IE cy-GB mt-MT sq-AL mk-MK sr-RS bs-BA ca-ES eu-ES gl-ES lb-LU be-BY kk-KZ mn-MN lo-LA my-MM tl-PH jv-ID "
    "su-ID pa-IN ps-AF sd-PK sn-ZW wo-SN xh-ZA"
)

PROMPT_ROWS = 128
"""Width of the prompt's one-hot code."""

PROMPTS_IN_USE = 105
"""Distinct rows that the prompt dictionary names."""


@dataclass(frozen=True)
class Dimensions:
    """What differs between the full and the small checkpoint."""

    layers: int
    width: int
    heads: int
    subsampling_channels: int
    hidden: int  # prediction network and joint
    pieces: int


DIMENSIONS: dict[tuple[Size, Variant], Dimensions] = {
    ("full", "multilingual"): Dimensions(24, 1024, 8, 256, 640, 13087),
    ("full", "english"): Dimensions(24, 1024, 8, 256, 640, 1024),
    ("small", "multilingual"): Dimensions(2, 64, 2, 16, 64, 300),
    ("small", "english"): Dimensions(2, 64, 2, 16, 64, 200),
}


def prompt_dictionary() -> dict[str, int]:
    """Language to row: :data:`KNOWN_PROMPTS`, and placeholders for the other rows in use."""
    taken = set(KNOWN_PROMPTS.values())
    free = [row for row in range(PROMPTS_IN_USE) if row not in taken]
    placeholders = dict(zip(_PLACEHOLDER_PROMPTS.split(), free, strict=True))
    return dict(sorted((KNOWN_PROMPTS | placeholders).items(), key=lambda item: item[1]))


def model_config(dimensions: Dimensions, variant: Variant) -> dict[str, Any]:
    """The published model's configuration at these dimensions, without tokenizer paths and vocabulary."""
    width, hidden = dimensions.width, dimensions.hidden
    left, rights = (56, (3, 0, 6, 13)) if variant == "multilingual" else (70, (13, 6, 1, 0))
    config: dict[str, Any] = {
        RANDOM_WEIGHTS: True,
        "sample_rate": 16000,
        "model_defaults": {"enc_hidden": width, "pred_hidden": hidden, "joint_hidden": hidden},
        "tokenizer": {"dir": None, "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000, "normalize": "NA", "window_size": 0.025, "window_stride": 0.01, "window": "hann",
            "features": 128, "n_fft": 512, "log": True, "frame_splicing": 1, "dither": 1e-5, "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 128, "feat_out": -1, "n_layers": dimensions.layers, "d_model": width, "use_bias": False,
            "subsampling": "dw_striding", "subsampling_factor": 8,
            "subsampling_conv_channels": dimensions.subsampling_channels, "causal_downsampling": True,
            "ff_expansion_factor": 4, "self_attention_model": "rel_pos", "n_heads": dimensions.heads,
            "att_context_size": [[left, right] for right in rights], "att_context_style": "chunked_limited",
            "xscaling": False, "untie_biases": True, "pos_emb_max_len": 5000, "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm", "conv_context_size": "causal", "dropout": 0.1,
            "dropout_pre_encoder": 0.1, "dropout_emb": 0.0, "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True,
            "prednet": {"pred_hidden": hidden, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.2},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False, "fused_batch_size": -1,
            "jointnet": {"joint_hidden": hidden, "activation": "relu", "dropout": 0.2},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {"loss_name": "default"},
        "optim": {"name": "adamw", "lr": 0.001},
    }  # fmt: skip
    if variant == "english":
        config["target"] = "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel"
        return config
    config["model_defaults"] |= {
        "initialize_prompt_feature": True,
        "num_prompts": PROMPT_ROWS,
        "prompt_dictionary": prompt_dictionary(),
    }
    config["target"] = "nemo.collections.asr.models.rnnt_bpe_models_prompt.EncDecRNNTBPEModelWithPrompt"
    return config


def write_random_checkpoint(
    output: Path, size: Size, seed: int = 0, force: bool = False, variant: Variant = "multilingual"
) -> Path:
    """Write a ``.nemo`` file with seeded random weights; the same seed gives the same bytes.

    Args:
        output: the file to write; it appears only when it is complete.
        size: ``full`` has 638 M parameters (2.55 GB), ``small`` half a million.
        seed: of weights and vocabulary.
        force: replace an existing checkpoint.
        variant: ``english`` is the sibling without language prompt.

    Raises:
        UserError: ``output`` exists without ``force``, is something else, or cannot be written.
    """
    with new_checkpoint(output, force=force) as folder:
        _write(folder, output, DIMENSIONS[size, variant], variant, seed)
    return Path(os.path.abspath(output))


def _write(folder: Path, output: Path, dimensions: Dimensions, variant: Variant, seed: int) -> None:
    """Build model and archive under ``folder``."""
    import torch

    tags = random_tokenizer.TAGS if variant == "multilingual" else ()
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    pieces = random_tokenizer.make_pieces(dimensions.pieces, tags, seed)
    random_tokenizer.write(tokenizer, pieces, tags)
    with progress.task("making the random model"):
        model = _build(model_config(dimensions, variant), tokenizer, seed)
    with progress.task("calibrating the blank bias"):
        rate = random_calibration.calibrate_blank(model, seed)
    progress.note(f"greedy decoding emits {rate:.2f} tokens a frame")
    with progress.task(f"writing {output.name}"):
        weights = folder / "model_weights.ckpt"
        torch.save(model.state_dict(), weights)
        members: dict[str, bytes | Path] = {"model_config.yaml": _archived_config(model), "model_weights.ckpt": weights}
        members |= {file.name: file for file in sorted(tokenizer.iterdir())}
        pack(folder / output.name, members)


def _build(config: dict[str, Any], tokenizer: Path, seed: int) -> EncDecRNNTBPEModel:
    """The model with NeMo's own initialization under ``seed``, in evaluation mode on the CPU."""
    import torch

    from export.checkpoint.nemo import quiet

    quiet()
    from nemo.core import ModelPT
    from omegaconf import OmegaConf

    config = copy.deepcopy(config)
    config["tokenizer"]["dir"] = str(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: EncDecRNNTBPEModel = ModelPT.from_config_dict(OmegaConf.create(config))
        _disturb(model)
    model.eval().requires_grad_(False)
    model.preprocessor.featurizer.dither = 0.0
    return model


def _disturb(model: EncDecRNNTBPEModel) -> None:
    """Move norms and position biases off the ones and zeros they begin with, which OpenVINO would optimize away."""
    import torch

    with torch.no_grad():
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.normal_(1.0, 0.05)
                module.bias.normal_(0.0, 0.05)
        for layer in model.encoder.layers:
            layer.self_attn.pos_bias_u.normal_(0.0, 0.1)
            layer.self_attn.pos_bias_v.normal_(0.0, 0.1)


def _archived_config(model: EncDecRNNTBPEModel) -> bytes:
    """``model_config.yaml`` with the tokenizer's files named as members of the archive, as NeMo writes it."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(model.cfg, resolve=True)
    assert isinstance(config, dict)  # noqa: S101  # a model's configuration is a mapping
    config["tokenizer"] = {
        "dir": "tokenizer",
        "type": "bpe",
        "model_path": "nemo:tokenizer.model",
        "vocab_path": "nemo:vocab.txt",
        "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
    }
    return yaml.safe_dump(config, allow_unicode=True, sort_keys=False).encode("utf-8")
