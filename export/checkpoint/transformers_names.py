"""Names of the same weights in Transformers' layout and in NeMo's: renames only, no tensor changes its shape.

After the classes ``Nemotron3_5AsrForRNNT`` and ``NemotronAsrStreamingForRNNT`` of transformers 5.23 and the module tree
of NeMo 3.0. Needs neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

REBUILT = ("preprocessor.featurizer.fb", "preprocessor.featurizer.window")
"""NeMo's filter bank and window: not stored by Transformers, which computes both."""

TRAINING_ONLY = ("ctc_decoder.", "loss.", "ctc_loss.", "wer.", "ctc_wer.", "spec_augmentation.")
"""Beginnings of NeMo's names that recognition does not use."""

_HEAD = "joint.joint_net."
_HEAD_TRANSFORMERS = "joint.head"
_STAGES = 5  # after conv_in; a subsampling factor of 64 has as many

_MODULES = {
    "encoder.subsampling.conv_in": "encoder.pre_encode.conv.0",
    **{
        f"encoder.subsampling.layers.{stage}.{kind}": f"encoder.pre_encode.conv.{first + 3 * stage}"
        for stage in range(_STAGES)
        for first, kind in ((2, "depthwise_conv"), (3, "pointwise_conv"))
    },
    "encoder.subsampling.linear": "encoder.pre_encode.out",
    "prompt_projector.linear_1": "prompt_kernel.0",
    "prompt_projector.linear_2": "prompt_kernel.2",
    "encoder_projector": "joint.enc",
    "decoder.decoder_projector": "joint.pred",
    "decoder.embedding": "decoder.prediction.embed",
    "decoder.lstm": "decoder.prediction.dec_rnn.lstm",
}
"""Transformers' modules and NeMo's, outside of the encoder's layers and without the joint's last one."""

_SAME = (
    *(f"feed_forward{number}.linear{layer}" for number in (1, 2) for layer in (1, 2)),
    *(f"conv.{name}" for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2")),
    *(f"norm_{name}" for name in ("feed_forward1", "self_att", "conv", "feed_forward2", "out")),
)
_IN_LAYER = {
    **{f"self_attn.{each}_proj": f"self_attn.linear_{each}" for each in "qkv"},
    "self_attn.o_proj": "self_attn.linear_out",
    "self_attn.relative_k_proj": "self_attn.linear_pos",
    "self_attn.bias_u": "self_attn.pos_bias_u",
    "self_attn.bias_v": "self_attn.pos_bias_v",
    "conv.norm": "conv.batch_norm",  # a LayerNorm all the same
    **{name: name for name in _SAME},
}
"""The same inside ``encoder.layers.L``, which both call so."""

_LAYER = re.compile(r"(encoder\.layers\.\d+\.)(.+)")


def head_index(names: Iterable[str]) -> int | None:
    """K of NeMo's ``joint.joint_net.K``, the joint's last layer, among NeMo's names; None where there is none.

    It is 2 where the joint has dropout and 1 where it has none.
    """
    found = [re.match(rf"{re.escape(_HEAD)}(\d+)\.", name) for name in names]
    return max((int(each[1]) for each in found if each), default=None)


def to_nemo(name: str, head: int) -> str | None:
    """NeMo's name of a tensor that Transformers calls ``name``; None where it has none.

    Args:
        name: as in ``model.safetensors``.
        head: K of :func:`head_index`.
    """
    layer = _LAYER.fullmatch(name)
    modules = {**_MODULES, _HEAD_TRANSFORMERS: f"{_HEAD}{head}"}
    prefix, rest, table = (layer[1], layer[2], _IN_LAYER) if layer else ("", name, modules)
    for module, nemo in table.items():
        if rest == module or rest.startswith(f"{module}."):
            return f"{prefix}{nemo}{rest[len(module) :]}"
    return None


def is_absent(name: str) -> bool:
    """Whether Transformers rightly has no tensor for this one of NeMo's."""
    return name in REBUILT or name.startswith(TRAINING_ONLY)
