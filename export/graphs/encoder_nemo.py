"""The encoder step from NeMo's own modules: the published build's graph, and the oracle for the rewritten one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    from export.geometry import Geometry


class NemoEncoderStep(nn.Module):
    """One cache-aware step: NeMo's ``ConformerEncoder`` and, where the model has one, its ``prompt_kernel``."""

    def __init__(self, model: EncDecRNNTBPEModel, geometry: Geometry) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.prompt_kernel = getattr(model, "prompt_kernel", None)
        self.num_prompts = int(model.num_prompts) if self.prompt_kernel is not None else 0
        configure_streaming(model, geometry)

    def forward(
        self,
        mel: Tensor,
        mel_length: Tensor,
        cache_channel: Tensor,
        cache_time: Tensor,
        cache_len: Tensor,
        prompt_id: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Run one step; shapes as in the bundle contract.

        Args:
            mel: [B, mel, frames] carried and new frames.
            mel_length: [B] int32, valid frames.
            cache_channel: [B, layers, left_context, d] inputs of past attention layers.
            cache_time: [B, layers, d, kernel - 1] past inputs of the depthwise convolutions.
            cache_len: [B] int32, valid rows at the end of ``cache_channel``.
            prompt_id: [B] int32, row of the language prompt.

        Returns:
            encoded [B, d, T], encoded_length [B] int32, and the three caches for the next step.
        """
        encoded, encoded_length, channel, time, length = self.encoder.forward_for_export(
            mel, mel_length.to(torch.int64), cache_channel, cache_time, cache_len.to(torch.int64)
        )
        if self.prompt_kernel is not None and prompt_id is not None:
            encoded = encoded.transpose(1, 2)
            one_hot = nn.functional.one_hot(prompt_id.to(torch.int64), self.num_prompts).to(encoded.dtype)
            prompt = one_hot.unsqueeze(1).expand(-1, encoded.shape[1], -1)
            encoded = self.prompt_kernel(torch.cat([encoded, prompt], dim=-1)).transpose(1, 2)
        return encoded, encoded_length.to(torch.int32), channel, time, length.to(torch.int32)


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
        """As the parent's, and ``cache_len`` <= 0 begins a stream.

        With a lead of :attr:`~export.geometry.Geometry.lead_mel_frames`, NeMo's own first step runs: real frames only,
        nothing dropped. With the carried frames as lead, NeMo's modules run with their masks extended to the lead.
        """
        start = int(cache_len)
        caches = cache_channel, cache_time, cache_len.clamp(min=0)
        if start == -self.geometry.lead_mel_frames:
            streaming = self.encoder.streaming_cfg
            kept, streaming.drop_extra_pre_encoded = streaming.drop_extra_pre_encoded, 0
            try:
                return super().forward(mel[:, :, -start:], mel_length + start, *caches, prompt_id)
            finally:
                streaming.drop_extra_pre_encoded = kept
        if start == 0:
            with _lead_masked(self.encoder.pre_encode.conv, self.geometry.pre_encode_cache, mel.shape[2]):
                return super().forward(mel, mel_length, *caches, prompt_id)
        return super().forward(mel, mel_length, *caches, prompt_id)


@contextmanager
def _lead_masked(conv: Any, lead: int, frames: int) -> Iterator[None]:
    """Let NeMo's ``MaskedConvSequential`` also mask every stage's frames that lie before ``lead`` mel frames."""
    original = conv._create_mask

    def create_mask(tensor: Tensor, lengths: Tensor) -> Tensor:
        stride = round(frames / tensor.shape[2])
        behind = torch.arange(tensor.shape[2]) * stride >= lead
        mask: Tensor = original(tensor, lengths) * behind[None, :, None]
        return mask

    conv._create_mask = create_mask
    try:
        yield
    finally:
        del conv._create_mask


def configure_streaming(model: EncDecRNNTBPEModel, geometry: Geometry) -> None:
    """Set a model's attention context and chunk, so that a step gives all of the chunk's frames."""
    model.encoder.set_default_att_context_size(geometry.att_context_size)
    model.encoder.setup_streaming_params(chunk_size=geometry.chunk_frames, shift_size=geometry.chunk_frames)
