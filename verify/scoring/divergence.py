"""Teacher-forced decoding: how far a folder's logits are from FP32's where FP32's own greedy decoding went.

FP32 is run once over some utterances. What it was given (mel windows), its tokens, the cells of the lattice that it
visited (encoder frame, tokens so far) and its logits there are a :class:`ReferencePath`. Another build sees the same
windows with caches of its own, and its joint is asked about the same cells after the same tokens. An error is not
multiplied by what would be decoded after it, so a few utterances say what WER needs many for.
"""

from __future__ import annotations

import tempfile
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
from verify.runtimes.graph import Config, Graph, properties
from verify.runtimes.transcript import MAX_SYMBOLS

Array = NDArray[Any]

CELLS = 64
"""Cells that one call of the joint looks at."""

_STATES = ("h", "c")
_CACHES = ("cache_channel", "cache_time", "cache_len")


@dataclass(frozen=True)
class ReferencePath:
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
    """How far logits are from FP32's, over all cells of all paths.

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
    """Decoder and joint of one build.

    Args:
        decoder: of batch 1.
        joint: of any batch, see :func:`joint_shapes`.
        blank: the blank's id.
    """

    def __init__(self, decoder: Graph, joint: Graph, blank: int) -> None:
        self._decoder, self._joint = decoder, joint
        self._token = decoder.input("token")
        decoder.input("token_length")[:] = 1
        self._state = {name: decoder.input(f"{name}_in") for name in _STATES}
        self._blank = blank

    def decoder_outs(self, tokens: Sequence[int]) -> Array:
        """The decoder's output after 0, 1, … tokens, [tokens + 1, hidden]."""
        outs: list[Array] = []
        state: dict[str, Array] | None = None
        for token in (self._blank, *tokens):
            decoder_out, state = self.advance(token, state)
            outs.append(decoder_out)
        return np.stack(outs)

    def advance(self, token: int, state: dict[str, Array] | None) -> tuple[Array, dict[str, Array]]:
        """One token further: the decoder's output, [hidden], and the state after it; None before the first."""
        self._token[:] = token
        for name, array in self._state.items():
            array[:] = 0 if state is None else state[name]
        self._decoder.run()
        after = {name: self._decoder.output(f"{name}_out").copy() for name in _STATES}
        return self._decoder.output("decoder_out")[0, :, 0].copy(), after

    def logits(self, encoded: Array, decoder_out: Array) -> Array:
        """The joint of n pairs, encoded [n, d] and decoder_out [n, hidden], [n, vocabulary + 1]."""
        found = []
        for first in range(0, len(encoded), CELLS):
            rows = slice(first, first + CELLS)
            self._joint.give("encoder", np.ascontiguousarray(encoded[rows, :, None]))
            self._joint.give("decoder", np.ascontiguousarray(decoder_out[rows, :, None]))
            self._joint.run()
            logits = self._joint.output("logits")
            found.append(logits.reshape(len(logits), -1).copy())
        return np.concatenate(found)

    def greedy(self, encoded: Array) -> tuple[list[int], list[tuple[int, int]], Array]:
        """Tokens, visited cells and their logits of encoded [frames, d], as the clients' loop decodes."""
        tokens: list[int] = []
        cells: list[tuple[int, int]] = []
        logits: list[Array] = []
        decoder_out, state = self.advance(self._blank, None)
        for frame in range(len(encoded)):
            for _ in range(MAX_SYMBOLS):
                row = self.logits(encoded[frame : frame + 1], decoder_out[None])[0]
                cells.append((frame, len(tokens)))
                logits.append(row)
                token = int(row.argmax())
                if token == self._blank:
                    break
                tokens.append(token)
                decoder_out, state = self.advance(token, state)
        return tokens, cells, np.stack(logits)


def joint_shapes(bundle: Bundle) -> dict[str, list[int]]:
    """The joint's input shapes with a free batch axis."""
    return {port.name: [-1, *port.shape[1:]] for port in expected_ports(bundle.metadata)["joint"].inputs}


def open_transducer(bundle: Bundle, threads: int | None, config: Config | None = None) -> Transducer:
    """A folder's decoder and joint."""
    import openvino as ov

    core, wanted = ov.Core(), properties(threads, config)
    decoder = Graph.load(core, bundle, "decoder", "CPU", wanted)
    joint = Graph.load(core, bundle, "joint", "CPU", wanted, shapes=joint_shapes(bundle))
    return Transducer(decoder, joint, bundle.metadata.blank_idx)


def open_encoder(bundle: Bundle, threads: int | None, config: Config | None = None) -> Graph:
    """A folder's encoder."""
    import openvino as ov

    return Graph.load(ov.Core(), bundle, "encoder", "CPU", properties(threads, config))


def encode(encoder: Graph, reference_path: ReferencePath) -> Array:
    """The path's windows through an encoder that carries its own caches, [frames, d]."""
    mel = encoder.input("mel")
    encoder.input("mel_length")[:] = reference_path.windows.shape[2]
    if "prompt_id" in encoder.input_names:
        encoder.input("prompt_id")[:] = reference_path.prompt
    encoder.carry(_CACHES)
    encoded = []
    for window in reference_path.windows:
        mel[:] = window
        encoder.run()
        encoded.append(encoder.output("encoded")[0].T.copy())
        encoder.swap()
    return np.concatenate(encoded)


def record_reference_paths(
    bundle: Bundle, utterances: Sequence[Utterance], directory: Path, *, threads: int | None = None
) -> int:
    """Run FP32 over utterances and store each's path, ``000.npz`` …; the folder appears only when complete.

    Returns:
        How many cells were visited.

    Raises:
        UserError: audio cannot be read, or the folder cannot be written.
    """
    meta, cells = bundle.metadata, 0
    recognizer, transducer = Generation1(bundle, threads=threads), open_transducer(bundle, threads)
    with new_directory(directory, kind=BUNDLE) as temporary, task("recording fp32's path", len(utterances)) as progress:
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


def read_reference_paths(directory: Path) -> Iterator[ReferencePath]:
    """What :func:`record_reference_paths` stored, one in memory at a time."""
    for file in sorted(directory.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); remove its folder and run again") from error
        yield ReferencePath(**held | {"prompt": int(held["prompt"])})


def diverge(
    reference_paths: Sequence[ReferencePath],
    encoded: Sequence[Array],
    transducer: Transducer,
    decoder_outs: Sequence[Array] | None = None,
) -> Divergence:
    """A build's logits against FP32's.

    Args:
        reference_paths: of FP32.
        encoded: for each, [frames, d], from the build's encoder.
        transducer: the build's decoder and joint.
        decoder_outs: for each, [tokens + 1, hidden], where the decoder has run before.
    """
    total, same, until, cells = 0.0, 0, 0.0, 0
    for index, path in enumerate(reference_paths):
        outs = transducer.decoder_outs(path.tokens.tolist()) if decoder_outs is None else decoder_outs[index]
        frames, before = path.cells.T
        logits = transducer.logits(encoded[index][frames], outs[before])
        total += float(kl(path.logits, logits).sum())
        agreeing = logits.argmax(axis=1) == path.logits.argmax(axis=1)
        same += int(agreeing.sum())
        until += (len(agreeing) if agreeing.all() else int(agreeing.argmin())) / len(agreeing)
        cells += len(agreeing)
    return Divergence(total / cells, same / cells, until / len(reference_paths), cells)


def divergence_between(
    reference: Bundle,
    target: Bundle,
    utterances: Sequence[Utterance],
    *,
    threads: int | None = None,
    config: Config | None = None,
) -> Divergence:
    """How far a folder's logits are from a reference folder's along the reference's own path.

    Args:
        reference: in FP32.
        target: the folder.
        utterances: what is transcribed, by the clients' loop.
        threads: of OpenVINO.
        config: OpenVINO properties of the target; None for FP32.

    Raises:
        UserError: the folders' steps or vocabularies differ, or audio cannot be read.
    """
    for name in ("total_mel_frames", "pre_encode_cache", "vocab_size"):
        ours, theirs = getattr(target.metadata, name), getattr(reference.metadata, name)
        if ours != theirs:
            raise UserError(
                f"{target.path}: its {name} is {ours}, that of {reference.path} is {theirs}; "
                "the divergence of logits needs folders of equal steps and pieces"
            )
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "paths"
        record_reference_paths(reference, utterances, directory, threads=threads)
        paths = list(read_reference_paths(directory))
    encoder = open_encoder(target, threads, config)
    return diverge(paths, [encode(encoder, path) for path in paths], open_transducer(target, threads, config))


def kl(reference: Array, other: Array) -> Array:
    """KL(softmax(reference) ‖ softmax(other)) in nats of logits [n, classes], [n]."""
    sure, guess = _log_softmax(reference), _log_softmax(other)
    result: Array = (np.exp(sure) * (sure - guess)).sum(axis=1)
    return result


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
