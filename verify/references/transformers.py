"""Hugging Face Transformers' streaming of the same weights: a reference that shares no line with NeMo.

The model, its log-mel, its caches and its greedy decoding are Transformers' (``generate`` with a generator of chunks,
as its documentation shows). Three things are ours, because ``generate`` takes whole chunks only:

- Zeros are appended to the signal up to a whole chunk, and the frames of that chunk see them. NeMo's last chunk is
  shorter, and ends with one mel frame of 0.0. Tokens of encoder frames that see only appended zeros are dropped.
- Every chunk's log-mel is made of a slice of the signal with half an FFT of zeros in front (``center=False``). The
  documentation makes the first chunk otherwise, with equal values, and its second slice at lookahead 0 would begin
  before the signal.
- A chunk is R + 1 encoder frames, and no other one exists.

Transformers caches every convolution's own input. So its second chunk at lookahead 0 sees no zero frames, which NeMo's
does (:mod:`verify.references.nemo`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.checkpoint.transformers import load_transformers
from export.languages import DEFAULT_LANGUAGE, prompt_id_for
from verify.references.threads import threads_for, torch_threads
from verify.runtimes.transcript import MAX_SYMBOLS, Timings, Transcript, decode

if TYPE_CHECKING:
    import torch


class TransformersStreaming:
    """A checkpoint, run by Transformers on the CPU in FP32, one stream at a time.

    Args:
        checkpoint: where the weights, the configuration and the prompts come from.
        lookahead: right context R in encoder frames; a chunk is R + 1 of them.

    Raises:
        UserError: Transformers' class cannot be this model; see :mod:`export.checkpoint.transformers`.
    """

    def __init__(self, checkpoint: Checkpoint, lookahead: int) -> None:
        self.checkpoint = checkpoint
        self.lookahead = lookahead
        self.model, self._extractor = load_transformers(checkpoint)
        self.model.max_symbols_per_step = MAX_SYMBOLS
        self.threads = threads_for(self.model)
        self._subsampling = int(checkpoint.encoder["subsampling_factor"])

    def transcribe(self, audio: NDArray[np.float32], language: str = DEFAULT_LANGUAGE) -> Transcript:
        """Recognize one utterance; see :class:`verify.runtimes.transcript.Recognizer`."""
        import torch

        start = time.perf_counter()
        times: list[float] = []
        with torch.inference_mode(), torch_threads(self.threads):
            output = self.model.generate(
                input_features=self._chunks(np.asarray(audio, np.float32), times),
                num_lookahead_tokens=self.lookahead,
                max_new_tokens=(MAX_SYMBOLS + 1) * (self._encoder_frames(len(audio)) + self.lookahead),
                **self._prompt(language),
            )
        # The first token is the blank that decoding starts with; a step advances by one frame or by none.
        ids, advances = output.sequences[0].tolist()[1:], output.durations[0].tolist()[1:]
        encoder_frames = self._encoder_frames(len(audio))
        frame, emitted = 0, []
        for token, advance in zip(ids, advances, strict=True):
            if token != self.checkpoint.blank_id and frame < encoder_frames:
                emitted.append((token, frame))
            frame += advance
        tokens = [token for token, _ in emitted]
        text, detected = decode(tokens, self.checkpoint.vocabulary, self.checkpoint.language_tag_ids)
        times.append(time.perf_counter())
        timings = Timings(
            wall=times[-1] - start,
            encoder_calls=len(times) - 1,
            steps=tuple(end - begin for begin, end in pairwise(times)),
        )
        seconds = len(audio) / self.checkpoint.sample_rate
        return Transcript(tokens, [frame for _, frame in emitted], text, detected, seconds, timings)

    def _mel_frames(self, samples: int) -> int:
        """Mel frames of a signal, as NeMo counts them: one a hop, and one more."""
        return samples // self.checkpoint.hop_samples + 1

    def _encoder_frames(self, samples: int) -> int:
        """Encoder frames that see something of a signal: the first sees one mel frame, each other one eight more."""
        return 1 + -(-(self._mel_frames(samples) - 1) // self._subsampling)

    def _chunks(self, audio: NDArray[np.float32], times: list[float]) -> Iterator[torch.Tensor]:
        """The log-mel of each chunk, [1, frames, features]; ``times`` gets the moment at which each was asked for."""
        hop, n_fft = self.checkpoint.hop_samples, int(self._extractor.n_fft)
        mel_frames = self._mel_frames(len(audio))
        frame, count = 0, 1 + self._subsampling * self.lookahead
        while frame < mel_frames:
            times.append(time.perf_counter())
            # Frame f is made of n_fft samples around sample f * hop.
            first, length = frame * hop - n_fft // 2, (count - 1) * hop + n_fft
            samples = np.zeros(length, np.float32)
            begin, end = max(first, 0), min(first + length, len(audio))
            samples[begin - first : max(end, begin) - first] = audio[begin:end]
            yield self._extractor(
                samples, sampling_rate=self.checkpoint.sample_rate, center=False, return_tensors="pt"
            ).input_features
            frame, count = frame + count, self._subsampling * (self.lookahead + 1)

    def _prompt(self, language: str) -> dict[str, torch.Tensor]:
        """The prompt's row by the clients' rule; nothing where the model takes none."""
        import torch

        prompts, default = self.checkpoint.prompts, self.checkpoint.default_prompt_id
        if not prompts or default is None:
            return {}
        return {"prompt_ids": torch.tensor([prompt_id_for(language, prompts, default)])}
