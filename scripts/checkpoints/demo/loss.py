"""RNN-T loss over a band of the lattice, vectorized over batch and labels.

NeMo's CPU loss is a Python loop over single cells. Here only the cells that an alignment can plausibly
visit are evaluated (:func:`band`), and one ``logcumsumexp`` a frame advances all labels of all
utterances, forwards and backwards in the same call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_IMPOSSIBLE = -1e4  # log-probability of a cell outside the band; finite, so that cumulative sums stay exact


@dataclass(frozen=True)
class Lattice:
    """Log-probabilities of a batch of lattices: T frames, U labels."""

    blank: Tensor  # [B, T, U + 1]
    label: Tensor  # [B, T, U], of emitting label u in state u
    frames: Tensor  # [B] i64
    labels: Tensor  # [B] i64


class _RnntLoss(torch.autograd.Function):
    """Negative log-likelihood of each lattice, with the gradient from the occupation probabilities."""

    @staticmethod
    def forward(ctx: Any, blank: Tensor, label: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        lattice = Lattice(blank.detach().double(), label.detach().double(), frames, labels)
        alpha, beta, total = _forward_backward(lattice)
        batch, _, states = blank.shape
        after_blank = torch.cat([beta[:, 1:], beta.new_full((batch, 1, states), -torch.inf)], 1)
        rows = torch.arange(batch)
        after_blank[rows, frames - 1, labels] = 0.0
        grad_blank = -torch.exp(alpha + lattice.blank + after_blank - total[:, None, None])
        grad_label = -torch.exp(alpha[:, :, :-1] + lattice.label + beta[:, :, 1:] - total[:, None, None])
        ctx.save_for_backward(grad_blank.to(blank.dtype), grad_label.to(label.dtype))
        return -total.to(blank.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_blank, grad_label = ctx.saved_tensors
        scale = grads[0][:, None, None]
        return grad_blank * scale, grad_label * scale, None, None


def rnnt_loss(lattice: Lattice) -> Tensor:
    """Negative log-likelihood per utterance, [B]."""
    loss: Tensor = _RnntLoss.apply(lattice.blank, lattice.label, lattice.frames, lattice.labels)  # type: ignore[no-untyped-call]
    return loss


def _forward_backward(lattice: Lattice) -> tuple[Tensor, Tensor, Tensor]:
    """Alpha and beta [B, T, U + 1] (-inf outside each lattice) and the log-likelihoods [B]."""
    blank, label = lattice.blank, lattice.label
    batch, length, states = blank.shape
    rows = torch.arange(batch)
    # Seen from its end a lattice is a lattice: states and frames run backwards, blanks are entered at the end.
    time = (lattice.frames[:, None] - 1 - torch.arange(length)).clamp(min=0)  # [B, T]
    state = (lattice.labels[:, None] - torch.arange(states)).clamp(min=0)  # [B, U + 1]
    arc = (lattice.labels[:, None] - 1 - torch.arange(states - 1)).clamp(min=0)  # [B, U]
    back_blank = blank[rows[:, None, None], time[:, :, None], state[:, None, :]]
    back_label = label[rows[:, None, None], time[:, :, None], arc[:, None, :]]
    both_label = torch.cat([label, back_label])  # [2B, T, U]
    climb = torch.nn.functional.pad(both_label.cumsum(2), (1, 0))  # [2B, T, U + 1]
    # Entering frame t costs the blank of frame t - 1 forwards, and the blank of frame t itself backwards.
    enter = torch.cat([torch.nn.functional.pad(blank[:, :-1], (0, 0, 1, 0)), back_blank])
    start = torch.full((2 * batch, states), -torch.inf, dtype=blank.dtype)
    start[:, 0] = 0.0
    values = []
    previous = start
    for t in range(length):
        step = previous + enter[:, t]
        previous = torch.logcumsumexp(step - climb[:, t], dim=1) + climb[:, t]
        values.append(previous)
    stacked = torch.stack(values, 1)
    alpha, reverse = stacked[:batch], stacked[batch:]
    inside = (torch.arange(length)[None, :, None] < lattice.frames[:, None, None]) & (
        torch.arange(states)[None, None, :] <= lattice.labels[:, None, None]
    )
    beta = reverse[rows[:, None, None], time[:, :, None], state[:, None, :]]
    total = beta[:, 0, 0].clone()
    outside = torch.tensor(-torch.inf, dtype=blank.dtype)
    return torch.where(inside, alpha, outside), torch.where(inside, beta, outside), total


class _CellScores(torch.autograd.Function):
    """Log-probabilities of blank and label of cells, without keeping V-wide intermediates in FP32 twice."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, blank_id: int) -> Tensor:
        rows = torch.arange(hidden.shape[0])
        small, matrix = hidden.to(torch.bfloat16), weight.to(torch.bfloat16)
        scores = (small @ matrix.T).float().add_(bias)
        chosen = torch.stack([scores[:, blank_id], scores[rows, labels]], 1)
        peak = scores.amax(1, keepdim=True)
        scores.sub_(peak).exp_()
        mass = scores.sum(1, keepdim=True)
        ctx.save_for_backward(small, matrix, scores.to(torch.bfloat16), mass, labels)
        ctx.blank_id = blank_id
        return chosen - peak - mass.log()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        small, matrix, scores, mass, labels = ctx.saved_tensors
        grad = grads[0]
        rows = torch.arange(scores.shape[0])
        slope = scores.mul_((-grad.sum(1, keepdim=True) / mass).to(torch.bfloat16))
        slope[:, ctx.blank_id] += grad[:, 0].to(torch.bfloat16)
        slope[rows, labels] += grad[:, 1].to(torch.bfloat16)
        return (slope @ matrix).float(), (slope.T @ small).float(), slope.sum(0, dtype=torch.float32), None, None


def cell_scores(hidden: Tensor, output: torch.nn.Linear, labels: Tensor, blank_id: int) -> Tensor:
    """Log-probabilities [N, 2] of blank and of `labels` [N] for N cells of the joint's `hidden` [N, H], in bfloat16."""
    scores: Tensor = _CellScores.apply(hidden, output.weight, output.bias, labels, blank_id)  # type: ignore[no-untyped-call]
    return scores


def cell_labels(cells: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
    """The label each cell may emit, [N]; 0 in the last state, which emits none."""
    return torch.nn.functional.pad(targets, (0, 1))[cells[0], cells[2]]


def scatter_lattice(
    cells: tuple[Tensor, Tensor, Tensor], scores: Tensor, width: int, frames: Tensor, labels: Tensor
) -> Lattice:
    """Put the blank and label scores [N, 2] of N evaluated `cells` (batch, frame, state) into dense lattices.

    `width` is U, the labels of the longest utterance; cells that were not evaluated are impossible.
    """
    rows, times, states = cells
    batch, length = frames.shape[0], int(frames.max())
    flat = (rows * length + times) * (width + 1) + states
    empty = scores.new_full((batch * length * (width + 1),), _IMPOSSIBLE)
    blank = empty.index_put((flat,), scores[:, 0]).view(batch, length, width + 1)
    label = empty.index_put((flat,), scores[:, 1]).view(batch, length, width + 1)[:, :, :-1]
    return Lattice(blank, label, frames, labels)


def band(first: Tensor, last: Tensor, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (batch, frame, state) that lie in the frame window [first, last] ([B, U + 1]) of their state."""
    length = int(frames.max())
    times = torch.arange(length)[None, :, None]
    states = torch.arange(first.shape[1])[None, None, :]
    inside = (times >= first[:, None, :]) & (times <= last[:, None, :])
    inside &= (times < frames[:, None, None]) & (states <= labels[:, None, None])
    rows, frame, state = inside.nonzero(as_tuple=True)
    return rows, frame, state
