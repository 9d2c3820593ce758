"""What graphs are compared with: NeMo's own methods, and its encoder step where that alone has no such case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from export.contract import expected_ports
from export.graphs.encoder_nemo import NemoEncoderStep
from export.graphs.preprocessor import NemoMel
from export.parity import Arrays, Reference

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    from export.bundle import Metadata
    from export.geometry import Geometry


def nemo_reference(
    model: EncDecRNNTBPEModel, geometry: Geometry, metadata: Metadata, rows: Sequence[int] | None = None
) -> Reference:
    """NeMo's own modules, as what the graphs are compared with.

    With ``rows``, a pruned vocabulary's (:class:`export.vocabulary.Pruning`), decoder and joint still run whole: tokens
    go in under the checkpoint's ids, and what is kept of the logits is picked afterwards.
    """
    encoder = NemoStreamStart if metadata.lead_mel_frames else NemoEncoderStep
    own = expected_ports(metadata.model_copy(update={"cache_channel_shape": metadata.channel_cache_shape}))
    return Reference(
        "NeMo PyTorch, FP32",
        {
            "preprocessor": NemoMel(model.preprocessor.featurizer),
            "encoder": encoder(model, geometry).eval(),
            "decoder": _renumbered(NemoPredict(model).eval(), rows),
            "joint": _picked(NemoJoint(model).eval(), rows),
        },
        own,
        {"encoder": _key_values(model)} if metadata.cache == "kv" else {},
    )


def module_reference(modules: Mapping[str, nn.Module], metadata: Metadata) -> Reference:
    """The very modules that the graphs are traced from: shows that tracing and saving change nothing, and no more."""
    functions = {name: module.eval() for name, module in modules.items()}
    return Reference("the traced PyTorch modules, FP32", functions, expected_ports(metadata), full=False)


def _key_values(model: EncDecRNNTBPEModel) -> Callable[[Arrays], Arrays]:
    """Takes NeMo's outputs to those of an encoder whose cache holds keys and values."""

    def convert(outputs: Arrays) -> Arrays:
        cache, filled = (torch.from_numpy(outputs[f"{name}_out"]) for name in ("cache_channel", "cache_len"))
        return outputs | {"cache_channel_out": projected_cache(model.encoder.layers, cache, filled).numpy()}

    return convert


def _renumbered(decoder: nn.Module, rows: Sequence[int] | None) -> Callable[..., Any]:
    """The decoder under a pruned vocabulary's ids."""
    if rows is None:
        return decoder
    checkpoint_ids = torch.tensor(rows)
    return lambda token, **others: decoder(token=checkpoint_ids[token.long()], **others)


def _picked(joint: nn.Module, rows: Sequence[int] | None) -> Callable[..., Tensor]:
    """The joint's logits of a pruned vocabulary."""
    return joint if rows is None else lambda **inputs: joint(**inputs)[..., list(rows)]


class NemoStreamStart(NemoEncoderStep):
    """The oracle for how the rewritten step begins a stream; NeMo's step in every other case. Batch 1 only."""

    def __init__(self, model: EncDecRNNTBPEModel, geometry: Geometry) -> None:
        super().__init__(model, geometry)
        self.geometry = geometry

    def forward(
        self,
        mel: Tensor,
        mel_length: Tensor,
        cache_channel: Tensor,
        cache_time: Tensor,
        cache_len: Tensor,
        prompt_id: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As the parent's, and ``cache_len`` <= 0 begins a stream with NeMo's own first step: nothing dropped.

        A negative one says how many zero frames come before the signal; with 0 it is the carried ones, and the step
        takes no more of the signal than with the whole lead, :attr:`~export.geometry.Geometry.lead_mel_frames`. With a
        shorter negative one it is the stream's second step: NeMo's first one over all of the signal so far, of which
        the last frames are returned.
        """
        if int(cache_len) > 0:
            return super().forward(mel, mel_length, cache_channel, cache_time, cache_len, prompt_id)
        whole = self.geometry.lead_mel_frames
        lead = -int(cache_len) or self.geometry.pre_encode_cache
        begun = (whole - lead) // self.geometry.subsampling_factor if int(cache_len) else 0  # frames made before
        most = self.geometry.total_mel_frames - (lead if int(cache_len) else whole)
        length = torch.clamp(mel_length - lead, max=most)
        caches = torch.zeros_like(cache_channel), torch.zeros_like(cache_time), torch.zeros_like(cache_len)
        streaming = self.encoder.streaming_cfg
        kept = streaming.drop_extra_pre_encoded, streaming.valid_out_len
        streaming.drop_extra_pre_encoded, streaming.valid_out_len = 0, begun + self.geometry.chunk_frames
        try:
            encoded, frames, *states = super().forward(mel[:, :, lead : lead + most], length, *caches, prompt_id)
        finally:
            streaming.drop_extra_pre_encoded, streaming.valid_out_len = kept
        channel, time, filled = states
        return encoded[:, :, begun:], frames - begun, channel, time, filled


class NemoPredict(nn.Module):
    """The oracle for the decoder: ``RNNTDecoder.predict``, which NeMo's greedy decoding calls."""

    def __init__(self, model: EncDecRNNTBPEModel) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, token: Tensor, token_length: Tensor, h_in: Tensor, c_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`export.graphs.transducer.DecoderStep.forward`; blank, as at a start, is no token for NeMo."""
        del token_length
        first = int(token.flatten()[0]) == self.decoder.blank_idx
        output, (h_out, c_out) = self.decoder.predict(
            None if first else token.long(), state=[h_in, c_in], add_sos=False, batch_size=token.shape[0]
        )
        return output.transpose(1, 2), h_out, c_out


class NemoJoint(nn.Module):
    """The oracle for the joint: ``RNNTJoint.joint``, without the softmax that NeMo adds on the CPU by itself."""

    def __init__(self, model: EncDecRNNTBPEModel) -> None:
        super().__init__()
        self.nemo = model.joint

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """As :meth:`export.graphs.transducer.JointStep.forward`."""
        before, self.nemo.log_softmax = self.nemo.log_softmax, False
        try:
            logits: Tensor = self.nemo.joint(encoder.transpose(1, 2), decoder.transpose(1, 2))
        finally:
            self.nemo.log_softmax = before
        return logits


def projected_cache(layers: Any, cache: Tensor, cache_len: Tensor) -> Tensor:
    """NeMo's cache [B, layers, left_context, d] as :class:`KeyValueAttention` holds it; rows not yet filled are zero.

    Args:
        layers: NeMo's conformer layers.
        cache: past inputs of their attention.
        cache_len: [B], filled rows at the end.
    """
    filled = (torch.arange(cache.shape[2]) >= cache.shape[2] - cache_len.unsqueeze(1)).unsqueeze(2)  # [B, rows, 1]
    parts = []
    for index, layer in enumerate(layers):
        key, value = (
            project(cache[:, index]) * filled for project in (layer.self_attn.linear_k, layer.self_attn.linear_v)
        )
        parts.append(torch.cat([key.transpose(1, 2).flatten(1), value.flatten(1)], dim=1))
    return torch.stack(parts, dim=1).reshape(*cache.shape[:3], 2 * cache.shape[3])
