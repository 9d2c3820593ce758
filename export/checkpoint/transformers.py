"""Hugging Face Transformers' model of a checkpoint, with the checkpoint's own weights.

Needs transformers 5.13 or later and no part of NeMo. Its classes ``Nemotron3_5AsrForRNNT`` and
``NemotronAsrStreamingForRNNT`` fix a number of things that NeMo's configuration can say otherwise; such a checkpoint is
refused, because the classes would ignore what it says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from export.checkpoint.archive import WEIGHTS
from export.checkpoint.transformers_names import REBUILT, head_index, is_absent, to_nemo
from export.checkpoint.weights import read_weights
from export.errors import UserError, listed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.models.nemotron_asr_streaming import NemotronAsrStreamingFeatureExtractor

    from export.checkpoint import Checkpoint

_FIXED: dict[str, tuple[object, ...]] = {
    "preprocessor.normalize": (None, "NA", "None", False),
    "preprocessor.window": (None, "hann"),
    "preprocessor.log": (None, True),
    "preprocessor.log_zero_guard_type": (None, "add"),
    "preprocessor.log_zero_guard_value": (None, 2.0**-24),
    "preprocessor.mag_power": (None, 2.0),
    "preprocessor.mel_norm": (None, "slaney"),
    "preprocessor.lowfreq": (None, 0),
    "preprocessor.exact_pad": (None, False),
    "preprocessor.frame_splicing": (None, 1),
    "preprocessor.pad_value": (None, 0),
    "encoder.untie_biases": (None, True),
    "encoder.reduction": (None,),
    "encoder.global_tokens": (None, 0),
    "decoder.blank_as_pad": (None, True),
    "decoder.normalization_mode": (None,),
    "joint.num_extra_outputs": (None, 0),
}
"""Keys of ``model_config.yaml`` that the classes do not read, and the values that mean what they do."""

_ACTIVATIONS = ("relu", "sigmoid", "tanh")  # that NeMo's joint knows; all are Transformers' too


def load_transformers(checkpoint: Checkpoint) -> tuple[PreTrainedModel, NemotronAsrStreamingFeatureExtractor]:
    """Transformers' model and log-mel of a checkpoint: on the CPU, in FP32 and evaluation mode, without gradients.

    Raises:
        UserError: the classes cannot be this model, or a tensor is missing, left over or of another shape.
        ModuleNotFoundError: transformers or torch is not installed.
    """
    check_fixed(checkpoint)
    quiet()
    try:
        from transformers import AutoModelForRNNT, Nemotron3_5AsrForRNNT
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        from transformers import __version__

        raise UserError(
            f"transformers {__version__}: has no class for this model; pip install -U 'nemotron-ov[transformers]'"
        ) from error
    del Nemotron3_5AsrForRNNT  # whether it is there was the question
    weights = read_weights(checkpoint)
    # Transformers' eager attention computes something else than its sdpa (docs/oracles.md).
    model = AutoModelForRNNT.from_config(model_config(checkpoint, weights), attn_implementation="sdpa")
    _fill(checkpoint, model, weights)
    model.eval().float().requires_grad_(False)
    model.generation_config.decoder_start_token_id = checkpoint.blank_id
    extractor = feature_extractor(checkpoint)
    _check_mel(checkpoint, extractor, weights)
    return model, extractor


def quiet() -> None:
    """Keep Transformers' notices off the user's screen; errors still show."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def check_fixed(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that says otherwise of what Transformers' classes fix.

    Raises:
        UserError: naming every such key.
    """
    fixed = {**_FIXED, "preprocessor.highfreq": (None, 0, checkpoint.sample_rate / 2)}
    values = {key: _value(checkpoint.config, key) for key in fixed}
    problems = [f"{key} is {value!r}" for key, value in values.items() if value not in fixed[key]]
    hidden, joint = (
        _value(checkpoint.config, key) for key in ("decoder.prednet.pred_hidden", "joint.jointnet.joint_hidden")
    )
    if hidden != joint:
        problems.append(f"joint.jointnet.joint_hidden is {joint}, decoder.prednet.pred_hidden {hidden}")
    activation = _value(checkpoint.config, "joint.jointnet.activation")
    if activation not in _ACTIVATIONS:
        problems.append(f"joint.jointnet.activation is {activation!r}")
    lefts = sorted({left for left, _ in checkpoint.att_context_sizes})
    if len(lefts) > 1:
        problems.append(f"encoder.att_context_size has left contexts of {' and '.join(map(str, lefts))}")
    if problems:
        raise UserError(
            f"{checkpoint.path}: Transformers' class for it would compute something else: {'; '.join(problems)}; "
            "compare with NeMo alone"
        )


def model_config(checkpoint: Checkpoint, weights: Mapping[str, torch.Tensor]) -> PreTrainedConfig:
    """Transformers' configuration of a checkpoint.

    Args:
        checkpoint: NeMo's configuration.
        weights: by NeMo's names; the width inside ``prompt_kernel`` stands in no configuration.

    Raises:
        UserError: it says what the class cannot hold.
    """
    from transformers import Nemotron3_5AsrConfig, NemotronAsrStreamingConfig, NemotronAsrStreamingEncoderConfig

    encoder, bias = checkpoint.encoder, bool(checkpoint.encoder.get("use_bias", True))
    rights = [right for _, right in checkpoint.att_context_sizes]
    greedy = (checkpoint.config.get("decoding") or {}).get("greedy") or {}
    prompt = weights.get("prompt_kernel.0.weight")
    prompted: dict[str, Any] = {}
    if checkpoint.prompts is not None:
        prompted = {"num_prompts": checkpoint.num_prompts, "default_prompt_id": checkpoint.default_prompt_id}
        prompted |= {} if prompt is None else {"prompt_intermediate_size": int(prompt.shape[0])}
    channels = int(encoder.get("subsampling_conv_channels", -1))
    return (NemotronAsrStreamingConfig if checkpoint.prompts is None else Nemotron3_5AsrConfig)(
        vocab_size=checkpoint.blank_id + 1,
        blank_token_id=checkpoint.blank_id,
        decoder_hidden_size=int(_value(checkpoint.config, "decoder.prednet.pred_hidden")),
        num_decoder_layers=int(_value(checkpoint.config, "decoder.prednet.pred_rnn_layers")),
        hidden_act=str(_value(checkpoint.config, "joint.jointnet.activation")),
        max_symbols_per_step=int(greedy.get("max_symbols") or 10),
        **prompted,
        encoder_config=NemotronAsrStreamingEncoderConfig(
            hidden_size=int(encoder["d_model"]),
            num_hidden_layers=int(encoder["n_layers"]),
            num_attention_heads=int(encoder["n_heads"]),
            intermediate_size=int(encoder["d_model"]) * int(encoder.get("ff_expansion_factor", 4)),
            attention_bias=bias,
            convolution_bias=bias,
            conv_kernel_size=int(encoder.get("conv_kernel_size", 31)),
            subsampling_factor=int(encoder["subsampling_factor"]),
            subsampling_conv_channels=channels if channels > 0 else int(encoder["d_model"]),
            num_mel_bins=checkpoint.mel_features,
            max_position_embeddings=int(encoder.get("pos_emb_max_len", 5000)),
            scale_input=bool(encoder.get("xscaling", True)),
            sliding_window=checkpoint.att_context_sizes[0][0] + 1,
            default_num_lookahead_tokens=rights[0],
            supported_num_lookahead_tokens=rights,
        ),
    )


def feature_extractor(checkpoint: Checkpoint) -> NemotronAsrStreamingFeatureExtractor:
    """Transformers' log-mel of a checkpoint."""
    from transformers import NemotronAsrStreamingFeatureExtractor

    section = checkpoint.config["preprocessor"]
    window = round(float(section["window_size"]) * checkpoint.sample_rate)
    return NemotronAsrStreamingFeatureExtractor(
        feature_size=checkpoint.mel_features,
        sampling_rate=checkpoint.sample_rate,
        hop_length=checkpoint.hop_samples,
        win_length=window,
        n_fft=int(section.get("n_fft") or 1 << (window - 1).bit_length()),
        preemphasis=section.get("preemph", 0.97),
    )


def _fill(checkpoint: Checkpoint, model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Put a checkpoint's tensors into Transformers' model, each in its place and none left over.

    Raises:
        UserError: naming the tensors, by NeMo's names.
    """
    found = head_index(weights)
    head = 2 if found is None else found
    wanted = {to_nemo(name, head) or name: (name, tensor) for name, tensor in model.state_dict().items()}
    problems = [f"{name} is left over" for name in weights if name not in wanted and not is_absent(name)]
    problems += [f"{name} is missing" for name in wanted if name not in weights]
    problems += [
        f"{name} has shape {list(weights[name].shape)}, wanted is {list(tensor.shape)}"
        for name, (_, tensor) in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise UserError(
            f"{checkpoint.path}: its {WEIGHTS} is not that of Transformers' {type(model).__name__}: "
            f"{listed(problems, 3)}; compare with NeMo alone, or download the checkpoint again"
        )
    model.load_state_dict({other: weights[name] for name, (other, _) in wanted.items()}, strict=True)


def _check_mel(
    checkpoint: Checkpoint, extractor: NemotronAsrStreamingFeatureExtractor, weights: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a checkpoint whose stored filter bank or window is not the one that Transformers computes."""
    import torch

    rebuilt = (extractor.mel_filters, torch.hann_window(extractor.win_length, periodic=False))
    for name, ours in zip(REBUILT, rebuilt, strict=True):
        stored = weights.get(name)
        if stored is None:
            continue
        stored = stored.float().reshape(stored.shape[-ours.ndim :])
        if stored.shape != ours.shape or not torch.allclose(stored, ours, rtol=1e-4, atol=1e-6):
            raise UserError(
                f"{checkpoint.path}: its {name} is not what Transformers computes in its place; compare with NeMo alone"
            )


def _value(config: Mapping[str, Any], key: str) -> Any:
    """A value by its dotted key; None where it is not there."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
