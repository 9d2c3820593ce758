"""Audio to log-mel, from operations that every OpenVINO device has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from export.errors import UserError

if TYPE_CHECKING:
    from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures

    from export.graphs.modules import Featurizer


class NemoMel(nn.Module):
    """NeMo's featurizer as it is, its ``torch.stft`` included: the published graph.

    For a chunk of n whole hops it returns n + 1 frames, the last masked to 0.0.
    """

    def __init__(self, featurizer: FilterbankFeatures) -> None:
        super().__init__()
        self.featurizer = featurizer

    def forward(self, audio: Tensor, audio_length: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`LogMel.forward`, but mel [B, mel, samples // hop + 1]."""
        mel, length = self.featurizer(audio, audio_length.to(torch.int64))
        return mel, length.to(torch.int32)


class LogMel(nn.Module):
    """NeMo's ``FilterbankFeatures`` in evaluation mode, with a windowed DFT as a strided convolution.

    NeMo centres its frames and returns ``samples // hop + 1`` of them, the last always masked to zero because
    ``length // hop`` are valid; this module returns the ``samples // hop`` frames only, so a chunk of whole hops
    gives exactly that many and a client that carries over the tensor's last frames carries real ones.

    Args:
        featurizer: NeMo's, or ours of the same attributes.
        masked_frame: return the masked frame too. A client keeps as many of a chunk's frames as it carries, so a
            chunk with one frame fewer than that shifts everything; the encoder takes the masked frame out again.
    """

    def __init__(self, featurizer: Featurizer, *, masked_frame: bool = False) -> None:
        super().__init__()
        _require_supported(featurizer)
        window = featurizer.window.double()
        self.hop: int = featurizer.hop_length
        self.masked_frame = masked_frame
        self.half_window: int = featurizer.win_length // 2
        self.preemph: float = featurizer.preemph or 0.0
        self.log_guard: float = float(featurizer.log_zero_guard_value_fn(torch.zeros(())))

        # torch.stft centres the window in its n_fft frame, so the phase origin lies before the window's start;
        # the power does not depend on it, and the taps outside of the window are zero.
        bins = torch.arange(featurizer.n_fft // 2 + 1, dtype=torch.float64)[:, None]
        taps = torch.arange(featurizer.win_length, dtype=torch.float64)[None, :]
        angle = 2 * torch.pi * bins * taps / featurizer.n_fft
        kernel = torch.cat([torch.cos(angle) * window, -torch.sin(angle) * window])
        self.register_buffer("dft", kernel.float().unsqueeze(1))  # [2 * bins, 1, taps]
        filters = featurizer.fb[0]  # [mel, bins]
        self.register_buffer("filters", torch.cat([filters, filters], dim=1))  # [mel, 2 * bins]
        self.dft: Tensor
        self.filters: Tensor

    def forward(self, audio: Tensor, audio_length: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel of the first ``audio_length`` samples.

        Args:
            audio: [B, samples] float32 in ±1.
            audio_length: [B] int32, samples.

        Returns:
            mel [B, mel, samples // hop] float32 (one frame more with ``masked_frame``), zero past its length, and
            mel_length [B] int32.
        """
        positions = torch.arange(audio.shape[1], dtype=torch.int32)
        inside = (positions.unsqueeze(0) < audio_length.unsqueeze(1)).to(audio.dtype)
        previous = nn.functional.pad(audio, (1, 0))[:, :-1]
        emphasized = (audio - self.preemph * previous) * inside
        padded = nn.functional.pad(emphasized, (self.half_window, self.half_window)).unsqueeze(1)
        spectrum = nn.functional.conv1d(padded, self.dft, stride=self.hop)  # [B, 2 * bins, frames + 1]
        if not self.masked_frame:
            spectrum = spectrum[:, :, :-1]
        power = spectrum * spectrum
        mel = torch.log(torch.matmul(self.filters, power) + self.log_guard)

        mel_length = torch.div(audio_length, self.hop, rounding_mode="floor").to(torch.int32)
        frames = torch.arange(mel.shape[2], dtype=torch.int32)
        valid = (frames.unsqueeze(0) < mel_length.unsqueeze(1)).to(mel.dtype)
        return mel * valid.unsqueeze(1), mel_length


def _require_supported(featurizer: Featurizer) -> None:
    """Raise where the checkpoint's featurizer does something that :class:`LogMel` does not.

    Raises:
        UserError: names every such setting.
    """
    problems = [
        name
        for name, wrong in {
            "exact_pad": featurizer.exact_pad,
            "frame_splicing > 1": featurizer.frame_splicing > 1,
            "log: false": not featurizer.log,
            "log_zero_guard_type: clamp": featurizer.log_zero_guard_type != "add",
            "mag_power other than 2": featurizer.mag_power != 2.0,
            "no window": featurizer.window is None,
            "an odd window": featurizer.win_length % 2 == 1,
        }.items()
        if wrong
    ]
    if problems:
        raise UserError(f"preprocessor: {', '.join(problems)} cannot be exported; use a checkpoint without it")
