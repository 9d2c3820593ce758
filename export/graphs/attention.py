"""The encoder step's self-attention over a cache, in two layouts of that cache.

``channel`` is NeMo's: past inputs of the layer, projected again at every step. ``kv`` holds their keys and values, so
that only new rows are projected; it is twice as large.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

MASKED = -10000.0
"""Score of a masked position: NeMo's ``INF_VAL``, finite in half precision."""


class StepMasks:
    """What a step may see, as factors (1 keep, 0 drop) and as additive attention scores, and how far it lies."""

    def __init__(self, scores: Tensor, rows: Tensor, positions: Tensor) -> None:
        self.scores = scores  # [B, 1, T, left_context + T]
        self.rows = rows  # [B, T, 1]
        self.positions = positions  # [T, left_context + T] int32, rows of the table of relative positions


def positions_used(left_context: int, frames: int) -> int:
    """Relative positions that a step of so many encoder frames reaches.

    Longer steps in whole groups of the lookahead reach no others: what a frame sees is its own group and the left
    context, whatever the step.
    """
    return left_context + 2 * frames - 1


class PositionScores(nn.Module):
    """Scores of relative positions, ``linear_pos(pos_emb)`` a constant.

    It takes ``linear_pos``' place and name, so that what a recipe says of ``linear_pos`` holds for the constant too.
    """

    def __init__(self, attention: Any, pos_emb: Tensor, used: int) -> None:
        super().__init__()
        self.heads: int = attention.h
        self.used = used
        positions = attention.linear_pos(pos_emb[:, :used])  # [1, used, d]
        self.register_buffer("positions", positions.view(1, used, self.heads, attention.d_k).permute(0, 2, 3, 1))
        self.positions: Tensor

    def forward(self, query: Tensor, masks: StepMasks) -> Tensor:
        """Score a biased query [B, h, T, d / h]; returns [B, h, T, rows].

        The shift is Transformer-XL's (arXiv:1901.02860, appendix B).
        """
        frames, rows = masks.positions.shape
        position = torch.matmul(query, self.positions)  # [B, h, T, used]
        step = torch.arange(frames, dtype=torch.int32).unsqueeze(1)
        shifted = (masks.positions + step * self.used).reshape(-1)
        position = torch.index_select(position.flatten(2), 2, shifted)
        return position.reshape(-1, self.heads, frames, rows)


class ChannelAttention(nn.Module):
    """``RelPositionMultiHeadAttention`` with NeMo's cache: past inputs, projected again at every step."""

    def __init__(self, attention: Any, pos_emb: Tensor, left_context: int, frames: int) -> None:
        super().__init__()
        self.heads: int = attention.h
        self.head_dim: int = attention.d_k
        self.left_context = left_context
        query, bias_u, bias_v = _scaled_query(attention)
        self.linear_q = _linear([query], [bias_u])
        self.linear_kv = _linear(*_weights_and_biases(attention.linear_k, attention.linear_v))
        self.linear_pos = PositionScores(attention, pos_emb, positions_used(left_context, frames))
        self.linear_out = attention.linear_out
        self.register_buffer("bias_v", (bias_v - bias_u).reshape(1, 1, self.heads, self.head_dim))
        self.bias_v: Tensor

    def cached(self, cache: Tensor) -> tuple[Tensor, ...]:
        """Each layer's part [B, left_context, d] of the whole cache [B, layers, left_context, d]."""
        return tuple(part.squeeze(1) for part in torch.split(cache, 1, dim=1))

    def next_cache(self, cache: Tensor, new: list[Tensor]) -> Tensor:
        """The whole cache for the next step from every layer's new rows."""
        rows = torch.stack([part[:, -self.left_context :] for part in new], dim=1)
        return torch.cat([cache[:, :, new[0].shape[1] :], rows], dim=2)

    def forward(self, x: Tensor, cache: Tensor, masks: StepMasks) -> tuple[Tensor, Tensor]:
        """Attend from x [B, T, d] to the cache [B, left_context, d] and x; returns [B, T, d] and the new rows."""
        frames, rows = masks.positions.shape
        query = self.linear_q(x).reshape(-1, frames, self.heads, self.head_dim)
        position = self.linear_pos((query + self.bias_v).transpose(1, 2), masks)
        key, value = torch.chunk(self.linear_kv(torch.cat([cache, x], dim=1)), 2, dim=2)
        key = key.reshape(-1, rows, self.heads, self.head_dim).permute(0, 2, 3, 1)
        value = value.reshape(-1, rows, self.heads, self.head_dim)
        return self.linear_out(_attend(query, key, value, position, masks)), x


class KeyValueAttention(nn.Module):
    """``RelPositionMultiHeadAttention`` with a cache of projected keys and values.

    Queries, keys, values and the scores of relative positions are one product of the new rows: the positions'
    projection is a constant, so that it joins the query's weights. A layer's part of the cache is in memory first its
    keys [d, left_context], transposed as the scores need them, then its values [left_context, d].
    """

    def __init__(self, attention: Any, pos_emb: Tensor, left_context: int, frames: int) -> None:
        super().__init__()
        self.heads: int = attention.h
        self.head_dim: int = attention.d_k
        self.dim = self.heads * self.head_dim
        self.left_context = left_context
        query, bias_u, bias_v = _scaled_query(attention)
        self.used = positions_used(left_context, frames)
        positions = attention.linear_pos(pos_emb[:, : self.used]).view(self.used, self.heads, self.head_dim)
        by_head = query.view(self.heads, self.head_dim, self.dim)
        position = torch.einsum("uhk,hkd->hud", positions, by_head).reshape(-1, self.dim)
        position_bias = torch.einsum("uhk,hk->hu", positions, bias_v.view(self.heads, self.head_dim)).reshape(-1)
        weights, biases = _weights_and_biases(attention.linear_k, attention.linear_v)
        self.linear_qkv = _linear([query, *weights, position], [bias_u, *biases, position_bias])
        self.sections = [self.dim, self.dim, self.dim, len(position)]
        self.linear_out = attention.linear_out

    def cached(self, cache: Tensor) -> tuple[Tensor, ...]:
        """Each layer's part [B, 2, left_context * d] of the whole cache [B, layers, left_context, 2 * d]."""
        layers = cache.shape[1]
        parts = torch.split(cache.reshape(-1, 2 * layers, self.left_context * self.dim), 2, dim=1)
        return tuple(parts)

    def next_cache(self, cache: Tensor, new: list[Tensor]) -> Tensor:
        """The whole cache for the next step from every layer's part."""
        return torch.cat(new, dim=1).reshape(-1, cache.shape[1], self.left_context, 2 * self.dim)

    def forward(self, x: Tensor, cache: Tensor, masks: StepMasks) -> tuple[Tensor, Tensor]:
        """As :meth:`ChannelAttention.forward`, the cache [B, 2, left_context * d] and all of the next one."""
        frames, rows = masks.positions.shape
        projected = self.linear_qkv(x)
        # Transformer-XL's shift (arXiv:1901.02860, appendix B)
        head = torch.arange(self.heads, dtype=torch.int32).reshape(-1, 1, 1)
        step = torch.arange(frames, dtype=torch.int32).reshape(1, -1, 1)
        shifted = masks.positions + (step * sum(self.sections) + 3 * self.dim + head * self.used)
        position = torch.index_select(projected.flatten(1), 1, shifted.reshape(-1))
        query, key, value, _ = torch.split(projected, self.sections, dim=2)
        keys, values = torch.split(cache, 1, dim=1)
        keys = torch.cat([keys.reshape(-1, self.dim, self.left_context), key.transpose(1, 2)], dim=2)
        values = torch.cat([values.reshape(-1, self.left_context, self.dim), value], dim=1)
        attended = _attend(
            query.reshape(-1, frames, self.heads, self.head_dim),
            keys.reshape(-1, self.heads, self.head_dim, rows),
            values.reshape(-1, rows, self.heads, self.head_dim),
            position.reshape(-1, self.heads, frames, rows),
            masks,
        )
        kept = [keys[:, :, frames:], values[:, frames:]]
        flat = [part.reshape(-1, 1, self.left_context * self.dim) for part in kept]
        return self.linear_out(attended), torch.cat(flat, dim=1)


ATTENTIONS = {"channel": ChannelAttention, "kv": KeyValueAttention}
"""Layout of the attention's cache to what computes with it."""


def _attend(query: Tensor, key: Tensor, value: Tensor, position: Tensor, masks: StepMasks) -> Tensor:
    """Heads' attention, joined to [B, T, d].

    Args:
        query: [B, T, h, d / h], scaled and biased.
        key: [B, h, d / h, rows].
        value: [B, rows, h, d / h].
        position: [B, h, T, rows], scaled scores of relative positions.
        masks: the step's.
    """
    scores = torch.matmul(query.permute(0, 2, 1, 3), key) + (position + masks.scores)
    attended = torch.matmul(torch.softmax(scores, dim=-1), value.permute(0, 2, 1, 3))
    return attended.permute(0, 2, 1, 3).reshape(-1, query.shape[1], query.shape[2] * query.shape[3]) * masks.rows


def _scaled_query(attention: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``linear_q`` [d, d] and its bias [d] with ``pos_bias_u`` and with ``pos_bias_v``, all by 1 / sqrt(d / h)."""
    scale = 1.0 / math.sqrt(attention.d_k)
    own = attention.linear_q.bias if attention.linear_q.bias is not None else 0.0
    u, v = (scale * (own + bias.reshape(-1)) for bias in (attention.pos_bias_u, attention.pos_bias_v))
    return scale * attention.linear_q.weight, u, v


def _weights_and_biases(*linears: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of layers, zeros where one has no bias."""
    biases = [each.bias if each.bias is not None else each.weight.new_zeros(each.out_features) for each in linears]
    return [each.weight for each in linears], biases


def _linear(weights: list[Tensor], biases: list[Tensor]) -> nn.Linear:
    """One layer of several layers' outputs, one after another; without bias where all are zero."""
    weight, bias = torch.cat(weights), torch.cat(biases)
    joined = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(bias.any()), device="meta")
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if joined.bias is not None:
        joined.bias = nn.Parameter(bias, requires_grad=False)
    return joined
