"""NeMo's own cache-aware streaming in PyTorch: the reference that no part of the export has touched.

Follows NeMo's example ``speech_to_text_cache_aware_streaming_infer.py`` (Apache-2.0): the mel of the whole signal
is cut by ``CacheAwareStreamingAudioBuffer``, the first step takes fewer frames and no carried ones, only the
last step keeps all outputs, and nothing is appended at the end of the audio.

NeMo steps by R + 1 encoder frames unless told another chunk (``setup_streaming_params``), and that matters a little:
in steps of one frame the second one carries eight zero frames before the first real one, which the convolutions see,
and a rest too short for one encoder frame is left out at the end of a chunk only.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.checkpoint.nemo import load_model, quiet
from export.languages import DEFAULT_LANGUAGE, prompt_id_for
from verify.references.threads import threads_for, torch_threads
from verify.runtimes.transcript import MAX_SYMBOLS, Timings, Transcript, decode

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel


class NemoStreaming:
    """A checkpoint, run by NeMo on the CPU in FP32, one stream at a time.

    Args:
        checkpoint: where the model and its prompts come from.
        lookahead: right context R in encoder frames.
        model: the restored model, where the caller has it already; its attention context is changed.
        chunk_frames: encoder frames a step; None for NeMo's own R + 1.

    Raises:
        UserError: the checkpoint cannot be restored.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        lookahead: int,
        model: EncDecRNNTBPEModel | None = None,
        *,
        chunk_frames: int | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.lookahead = lookahead
        self.model = load_model(checkpoint) if model is None else model
        quiet()
        geometry, _ = checkpoint.geometry(lookahead, force=True)
        self.chunk_frames = chunk_frames or lookahead + 1
        self.model.encoder.set_default_att_context_size(geometry.att_context_size)
        self.model.encoder.setup_streaming_params(chunk_size=self.chunk_frames, shift_size=self.chunk_frames)
        self.threads = threads_for(self.model)
        self._use_greedy()
        from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

        self._buffer = CacheAwareStreamingAudioBuffer(self.model)

    def transcribe(self, audio: NDArray[np.float32], language: str = DEFAULT_LANGUAGE) -> Transcript:
        """Recognize one utterance; see :class:`verify.runtimes.transcript.Recognizer`."""
        import torch

        start = time.perf_counter()
        self._set_prompt(language)
        encoder = self.model.encoder
        caches = encoder.get_initial_cache_state(batch_size=1)
        hypotheses = None
        steps = 0
        with torch.inference_mode(), torch_threads(self.threads):
            buffer = self._buffer
            buffer.reset_buffer()
            mel, _ = buffer.preprocess_audio(np.asarray(audio, dtype=np.float32))  # [1, features, frames]
            buffer.append_processed_signal(mel)
            mel_seconds = time.perf_counter() - start
            times = [time.perf_counter()]  # at the beginning, and after each step
            for signal, length in buffer:
                _, hypotheses, *caches, _ = self.model.conformer_stream_step(
                    processed_signal=signal,
                    processed_signal_length=length,
                    cache_last_channel=caches[0],
                    cache_last_time=caches[1],
                    cache_last_channel_len=caches[2],
                    keep_all_outputs=buffer.is_buffer_empty(),
                    previous_hypotheses=hypotheses,
                    drop_extra_pre_encoded=encoder.streaming_cfg.drop_extra_pre_encoded if steps else 0,
                )
                steps += 1
                times.append(time.perf_counter())
        # NeMo carries both lists from step to step and counts frames from the start of the stream.
        tokens = [int(token) for token in hypotheses[0].y_sequence] if hypotheses else []
        frames = [int(frame) for frame in hypotheses[0].timestamp] if hypotheses else []
        text, detected = decode(tokens, self.checkpoint.vocabulary, self.checkpoint.language_tag_ids)
        timings = Timings(
            wall=time.perf_counter() - start,
            mel=mel_seconds,
            mel_calls=1,
            encoder_calls=steps,
            steps=tuple(end - begin for begin, end in pairwise(times)),
        )
        return Transcript(tokens, frames, text, detected, len(audio) / self.checkpoint.sample_rate, timings)

    def _set_prompt(self, language: str) -> None:
        """Choose the prompt row by the clients' rule, through NeMo's own interface."""
        prompts, default = self.checkpoint.prompts, self.checkpoint.default_prompt_id
        if prompts and default is not None:
            row = prompt_id_for(language, prompts, default)
            self.model.set_inference_prompt(next(name for name, index in prompts.items() if index == row))

    def _use_greedy(self) -> None:
        """Greedy decoding with NeMo's batched algorithm, which carries its state from step to step."""
        from omegaconf import OmegaConf, open_dict

        decoding = OmegaConf.create(OmegaConf.to_container(self.model.cfg.decoding, resolve=True))
        with open_dict(decoding):
            decoding.strategy = "greedy_batch"
            decoding.greedy = {"max_symbols": MAX_SYMBOLS, "loop_labels": True, "use_cuda_graph_decoder": False}
            decoding.fused_batch_size = -1
        self.model.change_decoding_strategy(decoding, verbose=False)
