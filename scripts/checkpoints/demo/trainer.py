"""One worker's part of the training: model, losses, optimizer step, averaged weights, state on disk.

The loss is RNN-T plus two on the encoder's output, whose head lives only here and is in no saved checkpoint: CTC,
and in the beginning a classification of single frames by the guessed moments of the tokens. They lead the
model off the plateau on which it listens to nothing and predicts the grammar alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.checkpoints.demo.batches import Batch
from scripts.checkpoints.demo.corpus import generator
from scripts.checkpoints.demo.loss import band, cell_labels, cell_scores, rnnt_loss, scatter_lattice
from scripts.checkpoints.demo.model import LEFT_CONTEXT, LOOKAHEADS, build_model, standardize_subsampling
from scripts.checkpoints.packing import new_file

PEAK_RATE = 1.5e-3
WARM_UP = 200  # steps
FREEZE_SHARE = 0.4  # of the time, after which the first convolutions stay as they are: a quarter of a step's cost
EMA_DECAY = 0.998
EARLY, LATE = 10, 15  # encoder frames a token may be emitted before and after the guessed moment
BLANK_SHARE = 0.6  # of the frames, roughly
FRAMES_ONLY_STEPS = 400  # of the encoder, by frames alone: by RNN-T and CTC it would learn to be constant
FADING_STEPS = 800  # after these, in which the classification of frames fades out
FRAME_DELAY, FRAME_REACH = 1.5, 8.0  # encoder frames: of its token before a frame, at least; the longest token
LABEL_NOISE = 0.08  # share of wrong tokens in the prediction network's input
CLIENT_LOOKAHEADS = (0, 6, 13)  # those whose chunks divide a client's chunk of 14 frames


@dataclass
class Progress:
    """Where the training stands."""

    step: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0


class Trainer:
    """Model, averaged weights, optimizer and their state on disk."""

    def __init__(self, work: Path, seed: int, minutes: float, rank: int = 0, workers: int = 1) -> None:
        self.work = work
        self.minutes = minutes
        self.rank, self.workers = rank, workers
        self.model: Any = build_model(work / "tokenizer", seed)
        self.model.encoder.sync_max_audio_length = False  # no exchange between workers but that of the gradients
        self.model.encoder.pre_encode.conv.to(memory_format=torch.channels_last)
        self.blank = int(self.model.joint.num_classes_with_blank) - 1
        self.ctc = torch.nn.Linear(self.model.cfg.model_defaults.enc_hidden, self.blank + 1)
        self.parameters = [*self.model.parameters(), *self.ctc.parameters()]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-2, fused=True
        )
        self.progress = Progress()
        self._resume()
        self.rng = generator(f"train-{seed}-{rank}-{self.progress.step}")
        self.started = time.monotonic() - self.progress.seconds

    @property
    def share(self) -> float:
        """How much of the planned time is over, 0 to 1."""
        return min(self.progress.seconds / (self.minutes * 60.0), 1.0)

    @property
    def finished(self) -> bool:
        """Whether the planned time is over."""
        return self.share >= 1.0

    @property
    def state_path(self) -> Path:
        """Where the resumable state lies."""
        return self.work / "state.pt"

    def save(self) -> None:
        """Write the state atomically.

        Raises:
            UserError: it cannot be written.
        """
        state = {
            "weights": [parameter.detach() for parameter in self.parameters],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        with new_file(self.state_path) as file:
            torch.save(state, file)

    def _resume(self) -> bool:
        """Load the state if there is one."""
        if not self.state_path.exists():
            return False
        state = torch.load(self.state_path, weights_only=False)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["weights"], strict=True):
                parameter.copy_(value)
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        return True

    def rate(self) -> float:
        """The learning rate: linear warm-up, flat until half of the planned time, then a linear descent to zero."""
        return PEAK_RATE * min((self.progress.step + 1) / WARM_UP, 1.0) * min((1.0 - self.share) / 0.5, 1.0)

    def prepare(self, batch: Batch, frequencies: Tensor) -> None:
        """Fit a fresh model to the features and to the tokens' `frequencies`, and give all workers the same weights."""
        if self.progress.step == 0:
            standardize_subsampling(self.model.encoder.pre_encode, batch.windows)
            with torch.no_grad():
                for layer in (self.ctc, self.model.joint.joint_net[-1]):
                    layer.weight *= 0.3
                    layer.bias.copy_(torch.cat([frequencies * (1.0 - BLANK_SHARE), torch.tensor([BLANK_SHARE])]).log())
        if self.workers > 1:
            for parameter in self.parameters:
                torch.distributed.broadcast(parameter.data, 0)
        if self.progress.step == 0:
            self.average = [parameter.detach().clone() for parameter in self.parameters]

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step."""
        self.model.train()
        lookahead = self.rng.choice(LOOKAHEADS if batch.windows_per_utterance == 1 else CLIENT_LOOKAHEADS)
        if self.share > FREEZE_SHARE:
            self.model.encoder.pre_encode.conv.requires_grad_(False)
        listening = self.progress.step < FRAMES_ONLY_STEPS
        rnnt, ctc, frame = losses(self.model, self.ctc, batch, lookahead, listening=listening)
        guessing = min(max(1.0 - (self.progress.step - FRAMES_ONLY_STEPS) / FADING_STEPS, 0.0), 1.0)
        loss = rnnt + (0.0 if listening else 0.3 * (1.0 - self.share)) * ctc + guessing * frame
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        audio = float(batch.lengths.sum()) / 100.0
        self.progress.seconds, shared_audio = self._share_gradients(time.monotonic() - self.started, audio)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, error_if_nonfinite=False)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        if torch.isfinite(norm):
            self.optimizer.step()
        decay = min(EMA_DECAY, (self.progress.step + 1) / (self.progress.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1.0 - decay)
        self.progress.step += 1
        self.progress.audio_seconds += shared_audio
        return {
            "rnnt": float(rnnt.detach()),
            "ctc": float(ctc.detach()),
            "frame": float(frame.detach()),
            "norm": float(norm),
        }

    def _share_gradients(self, clock: float, audio: float) -> tuple[float, float]:
        """Average the gradients over the workers; returns the mean clock and the sum of the audio."""
        if self.workers == 1:
            return clock, audio
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([grad.flatten() for grad in grads] + [torch.tensor([clock, audio])])
        torch.distributed.all_reduce(flat)
        flat /= self.workers
        *parts, tail = torch.split(flat, [grad.numel() for grad in grads] + [2])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return float(tail[0]), float(tail[1]) * self.workers


def encode(model: Any, batch: Batch, lookahead: int) -> tuple[Tensor, Tensor]:
    """Encoder output before the prompt, [B, T, D], and its lengths, with the attention of `lookahead`."""
    encoder = model.encoder
    with torch.autocast("cpu", torch.bfloat16):
        hidden = subsample(encoder.pre_encode, batch.windows)
        hidden = hidden[:, batch.dropped :]
        if batch.windows_per_utterance > 1:
            hidden = hidden.reshape(-1, batch.windows_per_utterance * hidden.shape[1], hidden.shape[2])
        encoder.att_context_probs = [float(value == lookahead) for value in LOOKAHEADS]
        encoder.set_default_att_context_size([LEFT_CONTEXT, lookahead])
        encoded, lengths = encoder(audio_signal=hidden, length=batch.frames, bypass_pre_encode=True)
    return encoded.transpose(1, 2), lengths


def subsample(pre_encode: Any, windows: Tensor) -> Tensor:
    """NeMo's convolutional subsampling without its masks, which only matter in the padding: [W, frames, D]."""
    hidden = windows[:, None].contiguous(memory_format=torch.channels_last)
    for layer in pre_encode.conv:
        hidden = layer(hidden)
    output: Tensor = pre_encode.out(hidden.transpose(1, 2).flatten(2))
    return output


def losses(
    model: Any, ctc_head: torch.nn.Module, batch: Batch, lookahead: int, *, listening: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """RNN-T and CTC loss per token, and the classification loss per frame.

    With `listening` no gradient of the RNN-T loss reaches the encoder.
    """
    encoded, frames = encode(model, batch, lookahead)
    tokens = batch.labels.sum()
    blank = model.joint.num_classes_with_blank - 1
    with torch.autocast("cpu", torch.bfloat16):
        ctc_logits = ctc_head(encoded).float()
    ctc = torch.nn.functional.ctc_loss(
        ctc_logits.log_softmax(-1).transpose(0, 1), batch.targets, frames, batch.labels,
        blank=blank, reduction="sum", zero_infinity=True,
    )  # fmt: skip
    guessed = frame_targets(batch, encoded.shape[1])
    frame = torch.nn.functional.cross_entropy(ctc_logits[..., :blank].flatten(0, 1), guessed.flatten())
    if listening:
        encoded = encoded.detach()
    with torch.autocast("cpu", torch.bfloat16):
        one_hot = torch.nn.functional.one_hot(batch.prompts, model.num_prompts).to(encoded.dtype)
        prompted = model.prompt_kernel(torch.cat([encoded, one_hot[:, None].expand(-1, encoded.shape[1], -1)], -1))
        acoustic = model.joint.enc(prompted)
    predicted, _, _ = model.decoder(targets=misremember(batch.targets, blank), target_length=batch.labels)
    cells = band(*emission_windows(batch, frames), frames, batch.labels)
    with torch.autocast("cpu", torch.bfloat16):
        linguistic = model.joint.pred(predicted.transpose(1, 2))
        hidden = model.joint.joint_net[:-1](acoustic[cells[0], cells[1]] + linguistic[cells[0], cells[2]])
    scores = cell_scores(hidden, model.joint.joint_net[-1], cell_labels(cells, batch.targets), blank)
    lattice = scatter_lattice(cells, scores, batch.targets.shape[1], frames, batch.labels)
    return rnnt_loss(lattice).sum() / tokens, ctc / tokens, frame


def misremember(targets: Tensor, pieces: int) -> Tensor:
    """`targets` with some tokens replaced by random ones: what the prediction network believes was spoken before.

    A small grammar is predicted so well that one wrong word can lead the rest of a sentence astray.
    """
    wrong = torch.rand(targets.shape) < LABEL_NOISE
    return torch.where(wrong, torch.randint_like(targets, pieces), targets)


def frame_targets(batch: Batch, length: int) -> Tensor:
    """The token that each of `length` encoder frames belongs to by the guessed moments, [B, T]; -100 where none."""
    columns = torch.arange(batch.spots.shape[1])
    spots = torch.where(columns < batch.labels[:, None], batch.spots, torch.inf)
    times = (torch.arange(length) - FRAME_DELAY).expand(spots.shape[0], -1).contiguous()
    nearest = torch.searchsorted(spots.contiguous(), times)  # the first token spoken at or after the time
    nearest = nearest.clamp(max=spots.shape[1] - 1)
    targets = batch.targets.gather(1, nearest)
    return torch.where(spots.gather(1, nearest) - times <= FRAME_REACH, targets, -100)


def emission_windows(batch: Batch, frames: Tensor) -> tuple[Tensor, Tensor]:
    """First and last encoder frame of each state [B, U + 1]: from its token's moment to the next one's."""
    rows = torch.arange(batch.spots.shape[0])
    first = torch.nn.functional.pad(batch.spots - EARLY, (1, 0), value=0.0).floor().long()
    last = torch.nn.functional.pad(batch.spots + LATE, (0, 1)).ceil().long()
    last[rows, batch.labels] = frames
    first = torch.minimum(first, (frames - 1)[:, None])
    return first, torch.maximum(last, torch.ones_like(last))
