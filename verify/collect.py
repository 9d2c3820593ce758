"""Collect calibration samples: audio through an FP32 folder, and what its graphs were given on the way.

A folder is run as clients run it, by our streaming runtime where its graph allows that and by the published clients'
loop, so that caches, prompts, tokens and LSTM states are real ones. Which of all calls are kept is decided by seeded
reservoirs on disk, one for each graph and language: memory holds one sample, however long the audio is.
"""

from __future__ import annotations

import gc
import hashlib
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle import Bundle
from export.contract import expected_ports
from export.digest import file_facts
from export.errors import UserError, listed
from export.folders import new_directory, refuse_existing
from export.languages import DEFAULT_LANGUAGE, prompt_language
from export.progress import note, task
from export.removal import FolderKind
from quantize.samples import (
    CALIBRATED,
    INDEX,
    CalibrationData,
    GraphSamples,
    Index,
    Inputs,
    Origin,
    graph_hashes,
    source_facts,
    write_index,
    write_shards,
)
from quantize.source import require_fp32
from verify.data.audio import load_audio
from verify.data.manifest import Utterance, cut_utterance, default_manifest, load_utterance, read_manifest
from verify.reservoirs import Reservoirs, generator
from verify.runtimes.generation1 import Generation1
from verify.runtimes.graph import Graph, Observer
from verify.runtimes.streaming import Streaming

CALIBRATION_SET = FolderKind("a calibration set", INDEX, re.compile(rf"({'|'.join(CALIBRATED)})-\d{{3,}}\.npz"))
"""What ``--force`` may replace."""

SAMPLES = 96
"""Encoder steps of a set by default: 0.6 GB for the full-size model."""

AUTO_EVERY = 3
"""One stream in three is prompted with ``auto``, the others with their language."""

NOISY_EVERY = 4
"""One stream in four has noise added: recordings with digital silence in their pauses say nothing about rooms."""

NOISE_DB = (5.0, 30.0)
"""Signal-to-noise ratios of the noise that is added; drawn evenly."""

ENOUGH = 4
"""Recordings are run until a language has so many times the encoder steps that it shall give."""


@dataclass(frozen=True)
class Recording:
    """An utterance that is used, and the hashes of its decoded samples and of the whole file's."""

    utterance: Utterance
    sha256: str
    file_sha256: str

    def as_listed(self) -> dict[str, str]:
        """Its line in the index: no path, so that equal audio gives equal sets."""
        name, language = self.utterance.audio_filepath.name, self.utterance.target_lang
        part_of = {} if self.file_sha256 == self.sha256 else {"file_sha256": self.file_sha256}
        return {"name": name, "language": language, "sha256": self.sha256} | part_of


def collect(
    bundle: Bundle,
    utterances: Sequence[Utterance],
    directory: Path,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    exclude: Sequence[Path] = (),
    noise: bool = True,
    threads: int | None = None,
    force: bool = False,
) -> CalibrationData:
    """Run audio through an FP32 folder and store what encoder, decoder and joint were given.

    Args:
        bundle: the FP32 folder.
        utterances: audio and language of each; a seeded choice of them where there is more than is needed.
        directory: the new set; appears only when complete.
        samples: encoder steps, in equal shares for every language; four times as many decoder and joint inputs. Fewer
            where a language has too few.
        seed: of every choice; equal arguments give equal files.
        exclude: evaluation manifests, besides the demo set's. Their audio is never used, whatever file it is in.
        noise: add some to one stream in :data:`NOISY_EVERY`.
        threads: CPU threads; None leaves the choice to OpenVINO.
        force: replace an existing set.

    Returns:
        The set, which says which recordings could not be run, and which of the evaluation sets' could not be read.

    Raises:
        UserError: the folder is not FP32 or damaged, no audio of a manifest can be read, nothing is left, or
            ``directory`` is taken.
    """
    _check_target(bundle, directory)
    refuse_existing(directory, force=force, kind=CALIBRATION_SET)
    require_fp32(bundle)
    bundle.check_hashes()
    rate = bundle.metadata.sample_rate
    manifests = list(dict.fromkeys((default_manifest(), *exclude)))
    evaluated, unread = _evaluation_audio(manifests, rate)
    recordings, excluded, unusable = _choose(bundle, utterances, evaluated, samples, seed)
    languages = sorted({each.utterance.target_lang for each in recordings})
    try:
        with new_directory(directory, force=force, kind=CALIBRATION_SET) as temporary:
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                reservoirs = Reservoirs(Path(folder), languages, samples, seed)
                _run(bundle, recordings, reservoirs, seed=seed, noise=noise, threads=threads)
                graphs = {graph: _store(temporary, graph, reservoirs) for graph in CALIBRATED}
            index = Index(
                seed=seed,
                requested=samples,
                source=source_facts(bundle),
                files=graph_hashes(bundle),
                audio=[each.as_listed() for each in recordings],
                excluded=excluded,
                evaluation=[{"name": each.name, "sha256": file_facts(each)["sha256"]} for each in manifests],
                tools={name: version(name) for name in ("openvino", "numpy", "nemotron-ov")},
                graphs=graphs,
            )
            write_index(temporary, index)
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be written ({error.strerror or error}); make room, or choose fewer --samples"
        ) from error
    return replace(CalibrationData.open(directory), unusable=unread | unusable)


def default_utterances() -> list[Utterance]:
    """The calibration set that travels with the demo checkpoint."""
    from export import demo

    return read_manifest(demo.CALIBRATION, text=False)


def audio_sha256(audio: NDArray[np.float32]) -> str:
    """Hash of decoded samples: the same for every lossless copy of a recording."""
    return hashlib.sha256(np.ascontiguousarray(audio, "<f4").tobytes()).hexdigest()


def _check_target(bundle: Bundle, directory: Path) -> None:
    target, source = directory.resolve(), bundle.path.resolve()
    if target == source or target in source.parents:
        raise UserError(f"{directory}: is or holds the source folder {bundle.path}; choose another folder")


def _evaluation_audio(manifests: Sequence[Path], rate: int) -> tuple[set[str], dict[str, str]]:
    """Hashes of all recordings that results are measured on, and why some cannot be read: nothing is measured on them.

    Raises:
        UserError: none of a manifest can be read, so that something else than a recording is wrong.
    """
    sets = {manifest: read_manifest(manifest, text=False) for manifest in manifests}
    hashes: set[str] = set()
    bad: dict[str, str] = {}
    with task("hashing evaluation audio", sum(map(len, sets.values()))) as progress:
        for manifest, utterances in sets.items():
            failed: list[str] = []
            for utterance in utterances:
                try:
                    hashes |= utterance_hashes(utterance, load_audio(utterance.audio_filepath, rate), rate)
                except UserError as error:
                    bad[utterance.place] = str(error)
                    failed.append(str(error))
                progress.advance()
            if len(failed) == len(utterances):  # a manifest is never empty
                raise UserError(f"{manifest}: none of its {len(failed)} recordings can be read; the first: {failed[0]}")
    for reason in bad.values():
        note(f"warning: {reason}; calibration cannot tell its audio from other audio")
    return hashes, bad


def utterance_hashes(utterance: Utterance, audio: NDArray[np.float32], rate: int) -> set[str]:
    """Hashes of an utterance and of the whole file that it is cut from: other parts of that may overlap it."""
    part = cut_utterance(utterance, audio, rate)
    return {audio_sha256(audio)} if part is audio else {audio_sha256(audio), audio_sha256(part)}


def matching_recordings(hashes: Collection[str], utterances: Sequence[Utterance], rate: int) -> str:
    """The utterances that one of these hashes is of, as a message names them; empty where there are none.

    Raises:
        UserError: audio cannot be read.
    """
    if not hashes:
        return ""
    names: list[str] = []
    known = set(hashes)
    with task("hashing evaluation audio", len(utterances)) as progress:
        for utterance in utterances:
            if not known.isdisjoint(utterance_hashes(utterance, load_audio(utterance.audio_filepath, rate), rate)):
                names.append(utterance.audio_filepath.name)
            progress.advance()
    return listed(names, 3, ", ")


def _choose(
    bundle: Bundle, utterances: Sequence[Utterance], evaluated: set[str], samples: int, seed: int
) -> tuple[list[Recording], int, dict[str, str]]:
    """Recordings to run, chosen language by language, how many were left out as evaluation audio, and what is bad."""
    meta = bundle.metadata
    hop = meta.chunk_mel_frames * meta.sample_rate // 100  # samples of new audio a step
    by_language: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        by_language.setdefault(utterance.target_lang, []).append(utterance)
    wanted = ENOUGH * -(-samples // len(by_language))
    chosen: list[Recording] = []
    excluded: list[str] = []
    bad: dict[str, str] = {}
    known: set[str] = set()
    for language in sorted(by_language):
        group, steps = by_language[language], 0
        for place in generator(seed, "recordings", language).permutation(len(group)):
            if steps >= wanted:
                break
            try:
                whole = load_audio(group[place].audio_filepath, meta.sample_rate)
                audio = cut_utterance(group[place], whole, meta.sample_rate)
            except UserError as error:  # others take its place
                bad[group[place].place] = str(error)
                continue
            digest = audio_sha256(audio)
            if not evaluated.isdisjoint(utterance_hashes(group[place], whole, meta.sample_rate)):
                excluded.append(group[place].audio_filepath.name)
            elif digest not in known:
                known.add(digest)
                chosen.append(Recording(group[place], digest, audio_sha256(whole)))
                steps += -(-len(audio) // hop)
    if bad and not chosen:
        raise UserError(next(iter(bad.values())) + (f" ({len(bad) - 1} more cannot be used)" if len(bad) > 1 else ""))
    for reason in bad.values():
        note(f"error: {reason}")
    if not chosen:
        raise UserError(
            f"{utterances[0].audio_filepath}: belongs to an evaluation set, and so does all other audio given; "
            "calibrate with recordings that nothing is measured on"
        )
    if excluded:
        note(f"left out {len(excluded)} recordings that belong to an evaluation set, {excluded[0]} among them")
    return chosen, len(excluded), bad


def _run(
    bundle: Bundle,
    recordings: Sequence[Recording],
    reservoirs: Reservoirs,
    *,
    seed: int,
    noise: bool,
    threads: int | None,
) -> None:
    """Every recording through every runtime of the folder, one runtime in memory at a time."""
    runtimes: list[type[Streaming | Generation1]] = [Generation1]
    if bundle.metadata.lead_mel_frames:
        runtimes.insert(0, Streaming)
    for turn, runtime in enumerate(runtimes):
        name = runtime.__name__.lower()
        sampler = _Sampler(bundle, reservoirs)
        recognizer = runtime(bundle, threads=threads, observer=sampler)
        with task(f"collecting, {name}", len(recordings)) as progress:
            for number, recording in enumerate(recordings):
                language = recording.utterance.target_lang
                spoken = prompt_language(language, bundle.metadata.prompt_dictionary)
                prompt = DEFAULT_LANGUAGE if (number + turn) % AUTO_EVERY == 0 else spoken
                audio, snr_db = load_utterance(recording.utterance, bundle.metadata.sample_rate), None
                if noise and number % NOISY_EVERY == turn:
                    draw = generator(seed, "noise", name, str(number))
                    snr_db = round(float(draw.uniform(*NOISE_DB)), 1)
                    audio = with_noise(audio, snr_db, draw)
                origin = Origin(language=language, audio=number, runtime=name, prompt=prompt, call=0, snr_db=snr_db)
                sampler.begin(origin)
                _recognize(recognizer, audio, prompt)
                progress.advance()
        del recognizer, sampler
        gc.collect()


def with_noise(audio: NDArray[np.float32], snr_db: float, draw: np.random.Generator) -> NDArray[np.float32]:
    """A recording with white or pink noise, at a ratio of mean powers; digital silence stays what it is."""
    spectrum = np.fft.rfft(draw.standard_normal(len(audio)))
    if draw.random() < 0.5:
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0))
    noise = np.fft.irfft(spectrum, len(audio))
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    gain = np.sqrt(power / max(float(np.mean(np.square(noise))), 1e-30)) * 10.0 ** (-snr_db / 20.0)
    noisy: NDArray[np.float32] = (audio + gain * noise).astype(np.float32)
    return noisy


def _recognize(recognizer: Streaming | Generation1, audio: NDArray[np.float32], prompt: str) -> None:
    """One recording as a live stream, in blocks of a second."""
    if isinstance(recognizer, Generation1):
        recognizer.transcribe(audio, prompt)
        return
    rate = recognizer.bundle.metadata.sample_rate
    stream = recognizer.stream(prompt)
    for first in range(0, len(audio), rate):
        stream.push(audio[first : first + rate])
    stream.finish(flush=False)


class _Sampler(Observer):
    """Offers what the graphs of a runtime are given to the reservoirs, sample by sample."""

    def __init__(self, bundle: Bundle, reservoirs: Reservoirs) -> None:
        ports = expected_ports(bundle.metadata)
        self._ports = {graph: ports[graph].inputs for graph in CALIBRATED}
        self._blank = bundle.metadata.blank_idx
        self._reservoirs = reservoirs
        self._origin: Origin | None = None
        self._calls: dict[str, int] = {}
        self._last: Inputs = {}

    def begin(self, origin: Origin) -> None:
        """A new stream."""
        self._origin = origin
        self._calls = dict.fromkeys(CALIBRATED, 0)
        self._last = {}

    def after(self, graph: Graph) -> None:
        """See :class:`verify.runtimes.graph.Observer`."""
        name = graph.name
        if self._origin is None or name not in self._ports:  # a runtime is warmed up before the first stream
            return
        inputs = {port.name: graph.output(port.name) for port in self._ports[name]}
        call = self._calls[name]
        self._calls[name] += 1
        if name == "decoder":
            if self._last and all(np.array_equal(array, self._last[port]) for port, array in inputs.items()):
                return  # the clients' loop runs it again after every blank
            self._last = {port: array.copy() for port, array in inputs.items()}
        origin = self._origin.model_copy(update={"call": call})
        if name == "joint":
            # The streaming runtime shows it all frames that are left; those behind an emission get another state.
            emitting = np.flatnonzero(graph.output("logits")[0, :, 0].argmax(axis=1) != self._blank)
            for frame in range(emitting[0] + 1 if len(emitting) else inputs["encoder"].shape[2]):
                self._reservoirs.offer(name, inputs | {"encoder": inputs["encoder"][:, :, frame : frame + 1]}, origin)
        else:
            self._reservoirs.offer(name, inputs, origin)


def _store(directory: Path, graph: str, reservoirs: Reservoirs) -> GraphSamples:
    """A graph's samples in their final order; each file of the drawing goes when it has been copied."""
    ordered = reservoirs.ordered(graph)
    if not ordered:
        raise UserError(f"{directory}: the {graph} never ran on this audio; give longer recordings")

    def read() -> Iterator[Inputs]:
        for file, _ in ordered:
            with np.load(file, allow_pickle=False) as arrays:
                yield {name: arrays[name] for name in arrays.files}
            file.unlink()

    shards = write_shards(directory, graph, read())
    return GraphSamples(origins=[origin for _, origin in ordered], shards=shards)
