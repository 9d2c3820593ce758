"""The encoder step from NeMo's own modules: the published build's graph, and the oracle for the rewritten one."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def configure_streaming(model: EncDecRNNTBPEModel, geometry: Geometry) -> None:
    """Set a model's attention context and chunk, so that a step gives all of the chunk's frames."""
    model.encoder.set_default_att_context_size(geometry.att_context_size)
    model.encoder.setup_streaming_params(chunk_size=geometry.chunk_frames, shift_size=geometry.chunk_frames)
