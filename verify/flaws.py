"""What each flaw of the published clients' loop costs: the streaming runtime with one of them switched on at a time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.bundle import Bundle, graph_file
from export.checkpoint import Checkpoint
from export.checkpoint.config import identity
from export.errors import UserError
from export.languages import prompt_language
from export.pipeline import ENCODERS, export_checkpoint
from export.progress import task
from export.removal import scratch_folder
from verify.data.manifest import Utterance, load_utterance
from verify.runs import record_checkpoint
from verify.runtimes.generation1 import Generation1
from verify.runtimes.generation2 import Generation2
from verify.runtimes.graph import Graph, Observer
from verify.runtimes.streaming import Audio, Streaming
from verify.runtimes.streaming.signal import MARGIN, StepGeometry
from verify.runtimes.transcript import Transcript
from verify.scoring.rates import macro_average, metric_for, score_text

BATCH = 8
"""Streams a step: the same tokens as one, sooner."""

FAR = 13
"""The right context that fits the same chunk as 0 does."""


@dataclass(frozen=True)
class Flaws:
    """What is done wrong on purpose."""

    edges: bool = False  # each chunk's mel alone: pre-emphasis and windows begin and end at its edges
    carry: bool = False  # the carried frames end in the zero frame that NeMo's preprocessor puts after a chunk
    begin: bool = False  # the graph is not told how many frames come before the signal


class Deviations(Observer):
    """Flaws in what a folder's graphs are given, under the streaming runtime."""

    def __init__(self, bundle: Bundle, flaws: Flaws) -> None:
        self._geometry, self._flaws = StepGeometry(bundle.metadata), flaws

    def before(self, graph: Graph) -> None:
        """See :class:`verify.runtimes.graph.Observer`."""
        geometry, flaws = self._geometry, self._flaws
        if graph.name == "preprocessor" and flaws.edges:
            first = MARGIN * geometry.hop
            graph.output("audio")[:, :first] = 0.0
            length = graph.output("audio_length")
            np.minimum(length, first + geometry.new * geometry.hop, out=length)
        if graph.name == "encoder" and flaws.carry:
            mel, carried = graph.output("mel"), geometry.carried
            mel[:, :, : carried - 1] = mel[:, :, 1:carried].copy()
            mel[:, :, carried - 1] = 0.0
        if graph.name == "encoder" and flaws.begin:
            length = graph.output("cache_len")
            np.maximum(length, 0, out=length)


def flawed(bundle: Bundle, flaws: Flaws, *, batch: int = 1, threads: int | None = None) -> Streaming:
    """The streaming runtime with flaws.

    The bundle's ``lead_mel_frames`` say how a stream begins. Every row of a batch has to be in every step, as
    in :meth:`Streaming.transcribe_all`: what a row carries is changed with each.
    """
    return Streaming(bundle, batch=batch, threads=threads, observer=Deviations(bundle, flaws))


@dataclass(frozen=True)
class Row:
    """One way to transcribe the manifest, and how well it does."""

    name: str
    lookahead: int
    error_rate: float  # %, average over languages; words, or characters where a language has no spaces
    points: float  # more than NeMo's own streaming at this lookahead
    identical: float  # % of the utterances have its tokens


@dataclass(frozen=True)
class _Comparison:
    """A manifest, NeMo's own transcripts of it, and the ways to transcribe it that are compared with these.

    Attributes:
        utterances: the manifest.
        recordings: their audio.
        cut: the audio up to the last sound.
        languages: their prompts.
        nemo: NeMo's transcripts by lookahead.
    """

    utterances: Sequence[Utterance]
    recordings: Sequence[Audio]
    cut: Sequence[Audio]
    languages: Sequence[str]
    nemo: Mapping[int, Sequence[Transcript]]

    def row(self, name: str, lookahead: int, transcripts: Sequence[Transcript]) -> Row:
        """A way's transcripts against NeMo's at this lookahead."""
        reference = self.nemo[lookahead]
        same = sum(ours.tokens == theirs.tokens for ours, theirs in zip(transcripts, reference, strict=True))
        rate = error_rate(self.utterances, transcripts)
        points = rate - error_rate(self.utterances, reference)
        return Row(name, lookahead, rate, points, 100.0 * same / len(self.utterances))

    def streamed(
        self, name: str, bundle: Bundle, flaws: Flaws = Flaws(), *, cut: bool = False, flush: bool = False
    ) -> Row:
        """The streaming runtime."""
        with task(f"transcribing: {name}"):
            recognizer = flawed(bundle, flaws, batch=BATCH)
            recordings = self.cut if cut else self.recordings
            transcripts = recognizer.transcribe_all(recordings, self.languages, flush=flush)
        return self.row(name, bundle.metadata.lookahead, transcripts)

    def looped(self, name: str, bundle: Bundle, client: type[Generation1] = Generation1, *, cut: bool = False) -> Row:
        """A clients' loop."""
        with task(f"transcribing: {name}"):
            loop = client(bundle)
            pairs = zip(self.cut if cut else self.recordings, self.languages, strict=True)
            transcripts = [loop.transcribe(audio, language) for audio, language in pairs]
        return self.row(name, bundle.metadata.lookahead, transcripts)

    def common(self, bundle: Bundle, plain: Bundle) -> list[Row]:
        """The rows of a folder that stand at every lookahead; ``plain`` has NeMo's encoder as it is."""
        return [
            self.streamed("… recordings that end with the last sound", bundle, cut=True),
            self.streamed("… the same, flushed", bundle, cut=True, flush=True),
            self.looped("clients' loop", bundle),
            self.looped("clients' loop, generation 2", bundle, Generation2),
            self.looped("clients' loop, recordings that end with the last sound", bundle, cut=True),
            self.looped("clients' loop, `--encoder nemo`", plain),
        ]


def measure(checkpoint: Checkpoint, utterances: Sequence[Utterance], work: Path) -> list[Row]:
    """Export what is needed to ``work`` (or use what lies there) and transcribe the manifest in every way.

    Raises:
        UserError: an input cannot be used, the checkpoint was not trained with the lookaheads that are compared, or
            ``work`` holds other folders.
    """
    checkpoint.geometry(FAR)
    near, plain = (exported(checkpoint, work / f"fp32-{encoder}", encoder=encoder) for encoder in ENCODERS)
    far, far_plain = (
        exported(checkpoint, work / f"fp32-{encoder}-r{FAR}", lookahead=FAR, encoder=encoder) for encoder in ENCODERS
    )
    audios = [load_utterance(each, checkpoint.sample_rate) for each in utterances]
    chunk_frames = near.metadata.chunk_mel_frames // near.metadata.subsampling_factor
    nemo = {
        lookahead: record_checkpoint(
            checkpoint, lookahead, utterances, chunk_frames=chunk_frames, cache=work
        ).transcripts
        for lookahead in (0, FAR)
    }
    ways = _Comparison(
        utterances,
        audios,
        [without_silence(audio, checkpoint.sample_rate) for audio in audios],
        [prompt_language(each.target_lang, checkpoint.prompts) for each in utterances],
        nemo,
    )
    rows = [
        ways.row("NeMo's own streaming", 0, nemo[0]),
        ways.streamed("streaming runtime", near),
        ways.streamed("… each chunk's mel alone", near, Flaws(edges=True)),
        ways.streamed("… carried frames shifted", near, Flaws(carry=True)),
        ways.streamed("… the clients' first chunk", old_beginning(near), Flaws(begin=True)),
    ]
    with scratch_folder(work / "mixed") as folder:
        mixed = with_encoder(plain, near, folder)
        rows.append(ways.streamed("… the same, `--encoder nemo`", mixed, Flaws(begin=True)))
    rows += ways.common(near, plain)
    rows += [ways.row("NeMo's own streaming", FAR, nemo[FAR]), ways.streamed("streaming runtime", far)]
    return rows + ways.common(far, far_plain)


def exported(checkpoint: Checkpoint, folder: Path, *, lookahead: int = 0, encoder: str = "rewritten") -> Bundle:
    """The folder, exported now unless an earlier call left it there.

    Raises:
        UserError: what lies there is another one.
    """
    if not folder.is_dir():
        return export_checkpoint(checkpoint, folder, lookahead=lookahead, encoder=encoder)
    bundle = Bundle.open(folder, check="hashes")
    geometry, _ = checkpoint.geometry(lookahead)
    meta = bundle.metadata
    there = (identity(meta.checkpoint), meta.lookahead, meta.chunk_ms, meta.encoder, meta.cache)
    old = meta.knows_short_leads != (encoder == "rewritten")  # exported by an earlier version
    if old or there != (checkpoint.identity, lookahead, geometry.chunk_ms, encoder, "channel") or meta.vocabulary:
        raise UserError(
            f"{folder}: is not this checkpoint's {encoder} encoder of lookahead {lookahead}; give another --work"
        )
    return bundle


def old_beginning(bundle: Bundle) -> Bundle:
    """The folder, with streams begun as the clients do: carried frames of zeros before the first chunk."""
    meta = bundle.metadata
    return Bundle(bundle.path, meta.model_copy(update={"lead_mel_frames": meta.pre_encode_cache}))


def with_encoder(plain: Bundle, bundle: Bundle, folder: Path) -> Bundle:
    """A copy of ``bundle`` with the encoder of ``plain``, begun as the clients do."""
    shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
    xml = graph_file("encoder")
    for name in (xml, xml.replace(".xml", ".bin")):
        shutil.copyfile(plain.path / name, folder / name)
    return old_beginning(Bundle.open(folder))


def without_silence(audio: Audio, sample_rate: int) -> Audio:
    """The recording up to its last 10 ms that are louder than a hundredth of its loudest."""
    hop = sample_rate // 100
    whole = len(audio) // hop * hop
    level = np.square(audio[:whole].reshape(-1, hop)).mean(axis=1)
    sounding = np.flatnonzero(level > 1e-4 * level.max(initial=0.0))
    return audio[: (int(sounding[-1]) + 1) * hop] if len(sounding) else audio


def error_rate(utterances: Sequence[Utterance], transcripts: Sequence[Transcript]) -> float:
    """Errors against the manifest's text, %, on average over the languages."""
    pairs = zip(utterances, transcripts, strict=True)
    return macro_average(
        (each.target_lang, score_text(each.text, found.text, metric_for(each.target_lang))) for each, found in pairs
    )
