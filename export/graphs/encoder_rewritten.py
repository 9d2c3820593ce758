"""The encoder step rewritten for inference: same numbers as NeMo's, less work.

Against NeMo's modules (``encoder_nemo``):

- ``linear_pos(pos_emb)`` depends on nothing at run time for a fixed chunk, so every layer holds it as a constant,
  cut to the relative positions that a step reaches;
- projections of the same rows are one product, the attention's scale and query bias inside it;
- the caches of all layers are cut and joined once, not layer by layer;
- pointwise convolutions are matrix products, which stay compressed when quantized;
- the one-hot half of ``prompt_kernel`` is a row lookup added to the bias;
- masks are built once, as finite numbers, from comparisons: no boolean ``Not``;
- the first chunk begins as NeMo's streams do (below);
- views keep free batch and time axes: the saved graph has the chunk's shape, and reshaped to several chunks of whole
  lookahead groups a step computes what so many steps do.

The first chunk. NeMo's streams begin with the zero padding of every convolution stage; a fixed graph is given zero mel
frames before the signal instead, which the first convolution's bias turns into something else. A negative ``cache_len``
says how many mel frames this lead has: they are masked after every stage, and with twice the subsampling factor of
them the step is exactly NeMo's first one. The published clients send ``cache_len`` 0 and the carried frames as zeros,
which would put the signal between NeMo's frames and leave out the nearly empty one with which its streams begin. The
graph therefore moves their first window back to that lead. What this pushes out at the end, less than an encoder frame,
is in no frame of the first step; the next one still carries most of it. That costs far less.

A lead shorter than that belongs to the second step of a stream in chunks shorter than the lead: what NeMo's
convolutions then see as eight frames of zeros stays padding, and the encoder frames that the first step made
count as cached.

The false frame. The clients' second generation ends every chunk's mel with a frame of exact zeros and carries it
over as the last of the carried frames. Log-mel is never zero in all bins, so where ``cache_len`` is positive such a
frame is taken out, and the frames before it move one later; the first carried frame is then missing, which nothing that
is kept depends on.

Parameters are shared with the model where they are not joined, and submodules carry NeMo's names, so that the
names of the traced nodes are NeMo's module paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from export.graphs.attention import ATTENTIONS, MASKED, StepMasks, positions_used

if TYPE_CHECKING:
    from export.geometry import Geometry
    from export.graphs.modules import Recognizer


class PreEncode(nn.Module):
    """``ConvSubsampling`` (``dw_striding``, causal): three stages of stride 2, masked by length after each."""

    def __init__(self, pre_encode: Any) -> None:
        super().__init__()
        self.conv = pre_encode.conv
        self.out = pre_encode.out

    def forward(self, mel: Tensor, mel_length: Tensor, lead: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample mel [B, mel, frames], of which [lead, mel_length) are real, to [B, T, d] and the valid T [B]."""
        length, stride = mel_length, 1
        x = mel.transpose(1, 2).unsqueeze(1)  # [B, 1, frames, mel]
        x = x * _time_mask(x, length, lead, stride)
        for layer in self.conv:
            if getattr(layer, "stride", (1, 1)) != (1, 1):
                length = torch.div(length, 2, rounding_mode="floor") + 1  # (length + 3 - 3) // 2 + 1
                stride *= 2
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                # Masking once a stage is enough: between the stride and here only frames of their own are mixed.
                x = x * _time_mask(x, length, lead, stride)
        x = x.transpose(1, 2).flatten(2)  # [B, T, channels * bins]
        return self.out(x), length


class Pointwise(nn.Module):
    """A convolution of kernel 1 as a matrix product over channels-last input."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.weight = _parameter(conv.weight.squeeze(-1))
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] → [B, T, out]."""
        return nn.functional.linear(x, self.weight, self.bias)


class Depthwise(nn.Module):
    """``CausalConv1D`` over a window that already holds its past."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias

    def forward(self, window: Tensor) -> Tensor:
        """[B, d, kernel - 1 + T] → [B, d, T]."""
        return nn.functional.conv1d(window, self.weight, self.bias, groups=self.weight.shape[0])


class Convolution(nn.Module):
    """``ConformerConvolution`` with layer norm, causal, its cache carried from step to step."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.pointwise_conv1 = Pointwise(conv.pointwise_conv1)
        self.depthwise_conv = Depthwise(conv.depthwise_conv)
        self.batch_norm = conv.batch_norm
        self.pointwise_conv2 = Pointwise(conv.pointwise_conv2)

    def forward(self, x: Tensor, cache: Tensor, masks: StepMasks) -> tuple[Tensor, Tensor]:
        """Convolve x [B, T, d] after the cache [B, kernel - 1, d]; returns [B, T, d] and the next cache."""
        x = nn.functional.glu(self.pointwise_conv1(x), dim=-1) * masks.rows
        window = torch.cat([cache, x], dim=1)
        x = self.depthwise_conv(window.transpose(1, 2)).transpose(1, 2)
        return self.pointwise_conv2(nn.functional.silu(self.batch_norm(x))), window[:, -cache.shape[1] :]


class FeedForward(nn.Module):
    """``ConformerFeedForward``: linear, Swish, linear."""

    def __init__(self, feed_forward: Any) -> None:
        super().__init__()
        self.linear1 = feed_forward.linear1
        self.linear2 = feed_forward.linear2

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] → [B, T, d]."""
        y: Tensor = self.linear2(nn.functional.silu(self.linear1(x)))
        return y


class Layer(nn.Module):
    """``ConformerLayer``: half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, layer: Any, attention: nn.Module) -> None:
        super().__init__()
        self.norm_feed_forward1 = layer.norm_feed_forward1
        self.feed_forward1 = FeedForward(layer.feed_forward1)
        self.norm_self_att = layer.norm_self_att
        self.self_attn = attention
        self.norm_conv = layer.norm_conv
        self.conv = Convolution(layer.conv)
        self.norm_feed_forward2 = layer.norm_feed_forward2
        self.feed_forward2 = FeedForward(layer.feed_forward2)
        self.norm_out = layer.norm_out
        self.fc_factor: float = layer.fc_factor

    def forward(self, x: Tensor, channel: Tensor, time: Tensor, masks: StepMasks) -> tuple[Tensor, Tensor, Tensor]:
        """Take x [B, T, d] and the layer's two caches to x for the next layer and what the caches take in."""
        x = x + self.feed_forward1(self.norm_feed_forward1(x)) * self.fc_factor
        attended, channel = self.self_attn(self.norm_self_att(x), channel, masks)
        x = x + attended
        convolved, time = self.conv(self.norm_conv(x), time, masks)
        x = x + convolved
        x = x + self.feed_forward2(self.norm_feed_forward2(x)) * self.fc_factor
        return self.norm_out(x), channel, time


class Encoder(nn.Module):
    """``ConformerEncoder``'s cache-aware step; its constants fit steps of one chunk and of more."""

    def __init__(self, encoder: Any, geometry: Geometry, cache: str) -> None:
        super().__init__()
        self.frames = geometry.chunk_frames
        self.last_position = positions_used(geometry.left_context, geometry.chunk_frames) - 1
        self.left_context = geometry.left_context
        self.drop = geometry.drop_extra_pre_encoded
        self.lead = geometry.lead_mel_frames
        self.carried = geometry.pre_encode_cache
        self.late = self.lead - self.carried
        self.subsampling = geometry.subsampling_factor
        self.xscale: float | None = encoder.xscale
        self.pre_encode = PreEncode(encoder.pre_encode)
        self.group = geometry.lookahead + 1
        with torch.no_grad():
            _, pos_emb = encoder.pos_enc(torch.zeros(1, self.frames, encoder.d_model), cache_len=self.left_context)
            self.layers = nn.ModuleList(
                Layer(layer, ATTENTIONS[cache](layer.self_attn, pos_emb, self.left_context, self.frames))
                for layer in encoder.layers
            )

    def forward(
        self, mel: Tensor, mel_length: Tensor, cache_channel: Tensor, cache_time: Tensor, cache_len: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`export.graphs.encoder_nemo.NemoEncoderStep.forward`, before the prompt, encoded [B, T, d]."""
        begins = (cache_len == 0).to(torch.int32)
        mel = _moved(mel, self.late, begins)
        mel = self._without_false_frame(mel, cache_len)
        mel_length = torch.clamp(mel_length + self.late * begins, max=mel.shape[2])
        lead = torch.clamp(-cache_len, min=0) + self.lead * begins
        begun = torch.div(self.lead - lead, self.subsampling, rounding_mode="floor") * (lead > 0).to(torch.int32)
        cache_len = torch.clamp(cache_len, min=0) + torch.clamp(begun, min=0)
        x, length = self.pre_encode(mel, mel_length, lead)
        x = x[:, self.drop :]
        length = torch.clamp(length - self.drop, min=0)
        if self.xscale is not None:
            x = x * self.xscale
        masks = self._masks(x.shape[1], length, cache_len)
        attention: Any = self.layers[0].self_attn
        past = torch.split(cache_time.transpose(2, 3), 1, dim=1)  # each [B, 1, kernel - 1, d]
        channels, times = [], []
        for layer, rows, window in zip(self.layers, attention.cached(cache_channel), past, strict=True):
            x, new_rows, new_window = layer(x, rows, window.squeeze(1), masks)
            channels.append(new_rows)
            times.append(new_window)
        channel = attention.next_cache(cache_channel, channels)
        time = torch.stack(times, dim=1).transpose(2, 3)
        return x, length, channel, time, torch.clamp(cache_len + x.shape[1], max=self.left_context)

    def _without_false_frame(self, mel: Tensor, cache_len: Tensor) -> Tensor:
        """Mel [B, mel, T] without a last carried frame of zeros in the rows [B] that go on."""
        carried = mel[:, :, : self.carried]
        loudest = carried[:, :, -1].abs().amax(dim=1)  # [B]
        false = (loudest == 0).to(torch.int32) * (cache_len > 0).to(torch.int32)
        return torch.cat([_moved(carried, 1, false), mel[:, :, self.carried :]], dim=2)

    def _masks(self, frames: int, length: Tensor, cache_len: Tensor) -> StepMasks:
        """Masks of a step of so many frames from the valid ones [B] and the valid cache rows [B], NeMo's
        ``_create_masks``.
        """
        row = torch.arange(self.left_context + frames, dtype=torch.int32).unsqueeze(0)
        step = torch.arange(frames, dtype=torch.int32).unsqueeze(1) + self.left_context  # the rows of the new frames
        group, own = (torch.div(each, self.group, rounding_mode="floor") for each in (row, step))
        behind = own - group  # [T, rows], groups that a row lies behind
        visible = (behind >= 0).float() * (behind <= self.left_context // self.group).float()
        begin = (self.left_context - cache_len).unsqueeze(1)
        end = (self.left_context + length).unsqueeze(1)
        inside = (row >= begin).float() * (row < end).float()  # [B, rows]
        allowed = visible.unsqueeze(0) * inside.unsqueeze(1)  # [B, T, rows]
        rows = inside[:, self.left_context :].unsqueeze(2)
        # A frame sees itself at position left_context + chunk_frames - 1; what lies beyond the table is masked.
        positions = torch.clamp(row - step + (self.left_context + self.frames - 1), min=0, max=self.last_position)
        return StepMasks(((1.0 - allowed) * MASKED).unsqueeze(1), rows, positions)


class PromptedLinear(nn.Module):
    """The first linear of ``prompt_kernel``, the one-hot half of its weights as a table of rows."""

    def __init__(self, linear: nn.Linear, encoder_dim: int) -> None:
        super().__init__()
        self.weight = _parameter(linear.weight[:, :encoder_dim])
        rows = linear.weight[:, encoder_dim:] + linear.bias[:, None]
        self.register_buffer("rows", rows.t().contiguous())  # [prompts, out]
        self.rows: Tensor

    def forward(self, encoded: Tensor, prompt_id: Tensor) -> Tensor:
        """Project encoded [B, T, d] under prompt_id [B] int32 to [B, T, out]."""
        row = nn.functional.embedding(prompt_id, self.rows).unsqueeze(1)
        return nn.functional.linear(encoded, self.weight) + row


class PromptKernel(nn.ModuleDict):
    """``prompt_kernel``: linear, ReLU, linear, under NeMo's names for them (``0`` and ``2``)."""

    def __init__(self, prompt_kernel: Any, encoder_dim: int) -> None:
        first, _, second = prompt_kernel
        super().__init__({"0": PromptedLinear(first, encoder_dim), "2": second})

    def forward(self, encoded: Tensor, prompt_id: Tensor) -> Tensor:
        """Condition encoded [B, T, d] on prompt_id [B] int32; same shape."""
        conditioned: Tensor = self["2"](torch.relu(self["0"](encoded, prompt_id)))
        return conditioned


class RewrittenEncoderStep(nn.Module):
    """The rewritten step with the contract's inputs and outputs; see the module's text for what differs."""

    def __init__(self, model: Recognizer, geometry: Geometry, cache: str = "channel") -> None:
        super().__init__()
        self.encoder = Encoder(model.encoder, geometry, cache)
        prompt_kernel = getattr(model, "prompt_kernel", None)
        self.prompt_kernel = PromptKernel(prompt_kernel, model.encoder.d_model) if prompt_kernel is not None else None

    def forward(
        self,
        mel: Tensor,
        mel_length: Tensor,
        cache_channel: Tensor,
        cache_time: Tensor,
        cache_len: Tensor,
        prompt_id: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`export.graphs.encoder_nemo.NemoEncoderStep.forward`."""
        x, length, channel, time, next_len = self.encoder(mel, mel_length, cache_channel, cache_time, cache_len)
        if self.prompt_kernel is not None and prompt_id is not None:
            x = self.prompt_kernel(x, prompt_id)
        return x.transpose(1, 2), length.to(torch.int32), channel, time, next_len.to(torch.int32)


def _parameter(weight: Tensor) -> nn.Parameter:
    """A view as a parameter of its own: what is none becomes a constant of the trace, which OpenVINO never lets go."""
    return nn.Parameter(weight.detach(), requires_grad=False)


def _moved(mel: Tensor, frames: int, moves: Tensor) -> Tensor:
    """Mel [B, mel, T], later by so many frames of zeros in the rows where ``moves`` [B] is 1 and not 0."""
    moves = moves.to(mel.dtype).reshape(-1, 1, 1)
    later = nn.functional.pad(mel, (frames, 0))[:, :, : mel.shape[2]]
    return mel * (1.0 - moves) + later * moves


def _time_mask(x: Tensor, length: Tensor, lead: Tensor, stride: int) -> Tensor:
    """[B, 1, T, 1] factors that keep those of x's [B, C, T, F] first ``length`` [B] frames that lie after the lead."""
    frames = torch.arange(x.shape[2], dtype=torch.int32).unsqueeze(0)
    inside = (frames < length.unsqueeze(1)).to(x.dtype) * (frames * stride >= lead.unsqueeze(1)).to(x.dtype)
    return inside.reshape(-1, 1, x.shape[2], 1)
