"""Teacher-forced decoding: how far a folder's logits are from FP32's where FP32's own greedy decoding went.

FP32 is run once over some utterances. What it was given (mel windows), said (tokens), the cells of the lattice that it
visited (encoder frame, tokens so far) and its logits there are a :class:`Lesson`. Another build sees the same windows
with caches of its own, and its joint is asked about the same cells after the same tokens; an error is not multiplied
by what would be decoded after it, so that a few utterances say what WER needs many for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import BUNDLE, Bundle
from export.contract import expected_ports
from export.errors import UserError
from export.folders import new_directory
from export.languages import prompt_id_for
from export.progress import task
from verify.data.manifest import Utterance, load_utterance
from verify.runtimes.generation1 import Generation1
from verify.runtimes.graph import compile_graph, properties
from verify.runtimes.transcript import MAX_SYMBOLS

Array = NDArray[Any]

CELLS = 64
"""Cells that one call of the joint looks at."""

_STATES = ("h", "c")
_CACHES = ("cache_channel", "cache_time", "cache_len")


@dataclass(frozen=True)
class Lesson:
    """One utterance as FP32 decoded it.

    Attributes:
        windows: mel of each encoder step, [steps, features, frames].
        prompt: row of the language.
        tokens: what was emitted, [tokens].
        cells: encoder frame and number of tokens before, in the order of decoding, [cells, 2].
        logits: FP32's at the cells, [cells, vocabulary + 1].
    """

    windows: Array
    prompt: int
    tokens: Array
    cells: Array
    logits: Array


@dataclass(frozen=True)
class Divergence:
    """How far logits are from FP32's, over all cells of all lessons.

    Attributes:
        kl: mean KL(FP32 ‖ build) of the softmax over the vocabulary, in nats.
        agreement: share of cells with FP32's best token.
        agreed_until: share of an utterance's cells before the first with another best token, on average.
        cells: how many cells there were.
    """

    kl: float
    agreement: float
    agreed_until: float
    cells: int


class Transducer:
    """Compiled decoder and joint of one build.

    Args:
        decoder: compiled for batch 1.
        joint: compiled for any batch, see :func:`joint_shapes`.
        blank: the blank's id.
    """

    def __init__(self, decoder: Any, joint: Any, blank: int) -> None:
        self._decoder, self._joint = decoder.create_infer_request(), joint.create_infer_request()
        self._shapes = {f"{name}_in": tuple(decoder.input(f"{name}_in").shape) for name in _STATES}
        self._token_type = decoder.input("token").get_element_type().to_dtype()
        self._blank = blank

    def states(self, tokens: Sequence[int]) -> Array:
        """What the joint hears after 0, 1, … tokens, [tokens + 1, hidden]."""
        said: list[Array] = []
        state: dict[str, Array] | None = None
        for token in (self._blank, *tokens):
            output, state = self.advance(token, state)
            said.append(output)
        return np.stack(said)

    def advance(self, token: int, state: dict[str, Array] | None) -> tuple[Array, dict[str, Array]]:
        """One token further: what the joint hears, [hidden], and the state after it; None before the first."""
        inputs = state or {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
        given = {"token": np.full((1, 1), token, self._token_type), "token_length": np.ones(1, np.int32)}
        self._decoder.infer(given | inputs)
        after = {f"{name}_in": self._decoder.get_tensor(f"{name}_out").data.copy() for name in _STATES}
        return self._decoder.get_tensor("decoder_out").data[0, :, 0].copy(), after

    def logits(self, encoded: Array, said: Array) -> Array:
        """The joint of n pairs, encoded [n, d] and said [n, hidden], [n, vocabulary + 1]."""
        found = []
        for first in range(0, len(encoded), CELLS):
            rows = slice(first, first + CELLS)
            self._joint.infer({"encoder": encoded[rows, :, None], "decoder": said[rows, :, None]})
            logits = self._joint.get_tensor("logits").data
            found.append(logits.reshape(len(logits), -1).copy())
        return np.concatenate(found)

    def greedy(self, encoded: Array) -> tuple[list[int], list[tuple[int, int]], Array]:
        """Tokens, visited cells and their logits of encoded [frames, d], as the clients' loop decodes."""
        tokens: list[int] = []
        cells: list[tuple[int, int]] = []
        logits: list[Array] = []
        said, state = self.advance(self._blank, None)
        for frame in range(len(encoded)):
            for _ in range(MAX_SYMBOLS):
                row = self.logits(encoded[frame : frame + 1], said[None])[0]
                cells.append((frame, len(tokens)))
                logits.append(row)
                token = int(row.argmax())
                if token == self._blank:
                    break
                tokens.append(token)
                said, state = self.advance(token, state)
        return tokens, cells, np.stack(logits)


def joint_shapes(bundle: Bundle) -> dict[str, list[int]]:
    """The joint's input shapes with a free batch axis."""
    return {port.name: [-1, *port.shape[1:]] for port in expected_ports(bundle.metadata)["joint"].inputs}


def open_transducer(bundle: Bundle, threads: int | None) -> Transducer:
    """A folder's decoder and joint."""
    import openvino as ov

    core, config = ov.Core(), properties(threads, None)
    decoder = compile_graph(core, bundle, "decoder", "CPU", config)
    joint = compile_graph(core, bundle, "joint", "CPU", config, joint_shapes(bundle))
    return Transducer(decoder, joint, bundle.metadata.blank_idx)


def encode(encoder: Any, lesson: Lesson) -> Array:
    """A lesson's windows through a compiled encoder that carries its own caches, [frames, d]."""
    request = encoder.create_infer_request()
    names = {name for port in encoder.inputs for name in port.get_names()}
    given: dict[str, Array] = {"mel_length": np.full(1, lesson.windows.shape[2], np.int32)}
    if "prompt_id" in names:
        given["prompt_id"] = np.full(1, lesson.prompt, np.int32)
    for name in _CACHES:
        port = encoder.input(name)
        given[name] = np.zeros(tuple(port.shape), port.get_element_type().to_dtype())
    encoded = []
    for window in lesson.windows:
        request.infer(given | {"mel": window[None]})
        given |= {name: request.get_tensor(f"{name}_out").data.copy() for name in _CACHES}
        encoded.append(request.get_tensor("encoded").data[0].T.copy())
    return np.concatenate(encoded)


def record(bundle: Bundle, utterances: Sequence[Utterance], directory: Path, *, threads: int | None = None) -> int:
    """Run FP32 over utterances and store a lesson for each, ``000.npz`` …; the folder appears only when complete.

    Returns:
        How many cells were visited.

    Raises:
        UserError: audio cannot be read, or the folder cannot be written.
    """
    meta, cells = bundle.metadata, 0
    recognizer, transducer = Generation1(bundle, threads=threads), open_transducer(bundle, threads)
    with new_directory(directory, kind=BUNDLE) as temporary, task("teaching with fp32", len(utterances)) as progress:
        for number, utterance in enumerate(utterances):
            windows, encoded = [], []
            for step in recognizer.steps(load_utterance(utterance, meta.sample_rate), utterance.target_lang):
                windows.append(step.mel[0].copy())
                encoded.append(step.encoded[0].T.copy())
            tokens, visited, logits = transducer.greedy(np.concatenate(encoded))
            prompt = prompt_id_for(utterance.target_lang, meta.prompt_dictionary or {}, meta.default_prompt_id or 0)
            np.savez(
                temporary / f"{number:03d}.npz",
                windows=np.stack(windows),
                prompt=np.array(prompt),
                tokens=np.array(tokens, np.int64),
                cells=np.array(visited, np.int64),
                logits=logits,
            )
            cells += len(visited)
            progress.advance()
    return cells


def lessons(directory: Path) -> Iterator[Lesson]:
    """What :func:`record` stored, one in memory at a time."""
    for file in sorted(directory.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); remove its folder and run again") from error
        yield Lesson(**held | {"prompt": int(held["prompt"])})


def diverge(
    taught: Sequence[Lesson], encoded: Sequence[Array], transducer: Transducer, said: Sequence[Array] | None = None
) -> Divergence:
    """A build's logits against FP32's.

    Args:
        taught: the lessons.
        encoded: of each, [frames, d], from the build's encoder.
        transducer: the build's decoder and joint.
        said: of each, [tokens + 1, hidden], where the decoder has run before.
    """
    total, same, until, cells = 0.0, 0, 0.0, 0
    for index, lesson in enumerate(taught):
        states = transducer.states(lesson.tokens.tolist()) if said is None else said[index]
        frames, before = lesson.cells.T
        logits = transducer.logits(encoded[index][frames], states[before])
        total += float(kl(lesson.logits, logits).sum())
        agreeing = logits.argmax(axis=1) == lesson.logits.argmax(axis=1)
        same += int(agreeing.sum())
        until += (len(agreeing) if agreeing.all() else int(agreeing.argmin())) / len(agreeing)
        cells += len(agreeing)
    return Divergence(total / cells, same / cells, until / len(taught), cells)


def kl(reference: Array, other: Array) -> Array:
    """KL(softmax(reference) ‖ softmax(other)) in nats of logits [n, classes], [n]."""
    sure, guess = _log_softmax(reference), _log_softmax(other)
    result: Array = (np.exp(sure) * (sure - guess)).sum(axis=1)
    return result


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
