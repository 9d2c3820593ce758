"""Prediction network and joint of the RNN-T, one step each.

Both take the rows of a pruned vocabulary (:class:`export.vocabulary.Pruning`): for every new id the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from export.graphs.modules import Recognizer


class LSTMStep(nn.Module):
    """One step of an ``nn.LSTM`` as matrix products, one a layer.

    Weight compression leaves OpenVINO's own LSTM operation alone, and the CPU plugin unfolds its weights to f32.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for index in range(lstm.num_layers):
            parts = [getattr(lstm, f"weight_{kind}_l{index}") for kind in ("ih", "hh")]
            bias = getattr(lstm, f"bias_ih_l{index}") + getattr(lstm, f"bias_hh_l{index}")
            weight = torch.cat(parts, dim=1)
            layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            layer.weight, layer.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
            self.layers.append(layer)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``nn.LSTM.forward`` over a sequence of one: x [1, B, hidden] and states [layers, B, hidden]."""
        x = x.squeeze(0)
        hidden, cells = [], []
        for index, layer in enumerate(self.layers):
            gates = layer(torch.cat([x, state[0][index]], dim=1))
            update, forget, candidate, output = torch.chunk(gates, 4, dim=1)
            cell = torch.sigmoid(forget) * state[1][index] + torch.sigmoid(update) * torch.tanh(candidate)
            x = torch.sigmoid(output) * torch.tanh(cell)
            hidden.append(x)
            cells.append(cell)
        return x.unsqueeze(0), (torch.stack(hidden), torch.stack(cells))


class DecoderStep(nn.Module):
    """Embedding and LSTM for one token; NeMo's ``RNNTDecoder.predict`` without a start symbol.

    With ``unrolled`` the LSTM is an :class:`LSTMStep`.
    """

    def __init__(self, model: Recognizer, rows: Sequence[int] | None = None, *, unrolled: bool = False) -> None:
        super().__init__()
        embed, recurrent = (model.decoder.prediction[name] for name in ("embed", "dec_rnn"))
        if rows is not None:
            smaller = nn.Embedding(len(rows), embed.embedding_dim)
            smaller.weight = _take(embed.weight, rows)
            embed = smaller
        if unrolled:
            recurrent = LSTMStep(recurrent.lstm)
        self.prediction = nn.ModuleDict({"embed": embed, "dec_rnn": recurrent})

    def forward(self, token: Tensor, token_length: Tensor, h_in: Tensor, c_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advance the prediction network by one token.

        Args:
            token: [B, 1] int32, blank where nothing was emitted yet (its embedding is zero).
            token_length: [B] int32; part of the contract, has no influence.
            h_in: [layers, B, hidden] LSTM output state.
            c_in: [layers, B, hidden] LSTM cell state.

        Returns:
            decoder_out [B, hidden, 1], h_out and c_out.
        """
        del token_length
        embedded = self.prediction["embed"](token).transpose(0, 1)  # [1, B, hidden]
        output, (h_out, c_out) = self.prediction["dec_rnn"](embedded, (h_in, c_in))
        return output.permute(1, 2, 0), h_out, c_out


class JointStep(nn.Module):
    """Joint network to logits, before any softmax."""

    def __init__(self, model: Recognizer, rows: Sequence[int] | None = None) -> None:
        super().__init__()
        self.enc = model.joint.enc
        self.pred = model.joint.pred
        self.joint_net = model.joint.joint_net
        if rows is not None:
            *before, last = self.joint_net
            output = nn.Linear(last.in_features, len(rows))
            output.weight, output.bias = _take(last.weight, rows), _take(last.bias, rows)
            self.joint_net = nn.Sequential(*before, output)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Join encoder [B, d, T] and decoder [B, hidden, U] to logits [B, T, U, pieces + 1]."""
        frames = self.enc(encoder.transpose(1, 2)).unsqueeze(2)
        tokens = self.pred(decoder.transpose(1, 2)).unsqueeze(1)
        logits: Tensor = self.joint_net(frames + tokens)
        return logits


def _take(weights: Tensor, rows: Sequence[int]) -> nn.Parameter:
    """Some rows of a trained tensor, in this order."""
    return nn.Parameter(weights[list(rows)], requires_grad=False)
