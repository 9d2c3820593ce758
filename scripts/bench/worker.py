"""Measures one build once: ``python -m scripts.bench.worker`` reads a :class:`Task` and prints a :class:`Measurement`.

A process does nothing else, so that its peak memory is what loading and transcribing take. That is read before the
encoder is timed alone.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from pydantic import BaseModel, Field

from export.bundle import METADATA, Bundle, Metadata, graph_file
from export.contract import Port, expected_ports
from export.host import peak_rss_mb
from export.languages import prompt_id_for, prompt_language
from scripts.bench.encoders import (
    Array,
    OnnxEncoder,
    TorchEncoder,
    batched,
    encoder_ports,
    mel_windows,
    openvino_encoder,
    time_steps,
)
from scripts.bench.onnx_export import ENCODER
from scripts.bench.plan import Engine, Precision
from scripts.bench.speech import SteadySpeech
from scripts.processes import result_of_a_child
from verify.data.manifest import Utterance, load_utterance
from verify.runtimes.generation1 import EncoderStep
from verify.runtimes.graph import CLIENTS_CONFIG, Config, precision_of
from verify.runtimes.streaming import Recording, Recordings
from verify.runtimes.streaming.recording import whole
from verify.runtimes.transcript import Timings, Transcript

if TYPE_CHECKING:
    from export.geometry import Geometry

WARM_UP_STEPS, STEPS = 8, 40
"""Encoder steps before the timed ones, enough to fill every cache, and timed ones."""

WINDOW_SECONDS = 20.0
"""Audio whose mel the timed encoder steps see."""


class Task(BaseModel):
    """What to measure."""

    engine: Engine
    runtime: str
    path: Path  # folder, or checkpoint
    threads: int
    utterances: list[Utterance]
    batch: int = 1
    precision: Precision = "f32"
    tokens_per_second: float | None = None  # of audio, whatever is recognized; None for what is recognized
    dtype: str = "fp32"  # of the weights of ``transformers``: fp32 or bf16
    lookahead: int = 0  # of a checkpoint that is run as it is
    steps: int = STEPS


class Measurement(BaseModel):
    """What one process found; times in seconds unless the name says otherwise."""

    load_s: float  # reading and compiling, libraries imported before
    pipeline_s: float  # audio to text, all utterances
    audio_s: float
    encoder_step_ms: float  # one chunk of each stream of a batch, the timed steps' median; of ``recordings`` a mean
    chunk_ms: float  # new audio of one chunk
    peak_rss_mb: float
    anonymous_mb: float | None = None  # resident after all audio and no page of a file: what the system cannot drop
    folder_mb: float
    encoder_mb: float | None = None  # weights of the encoder
    seconds: dict[str, float | None] = Field(default_factory=dict)  # of pipeline_s in each graph, where it is counted
    calls: dict[str, int] = Field(default_factory=dict)
    tokens: int = 0
    utterance_tokens: list[list[int]] = Field(default_factory=list)
    lookahead: int = 0
    config: dict[str, Any] = Field(default_factory=dict)  # properties of the engine
    precision: str = "f32"  # that it computed in
    other_cores: float = 0.0  # cores that other processes used meanwhile, on average


def measure(task: Task) -> Measurement:
    """Load, transcribe, read the peak memory, time the encoder alone."""
    with _other_cores() as others:
        run = {"openvino": _openvino, "onnxruntime": _onnxruntime, "nemo": _nemo, "transformers": _transformers}
        facts = run[task.engine](task)
    return Measurement(**facts, other_cores=others[0])


def _openvino(task: Task) -> dict[str, Any]:
    import openvino  # noqa: F401  # before the clock starts

    from verify.runtimes.names import RUNTIMES

    start = time.perf_counter()
    bundle = Bundle.open(task.path)
    wanted = CLIENTS_CONFIG if task.precision == "default" else None
    if task.runtime == "recordings":
        return _recordings(task, bundle, wanted, start)
    runtime: Any = RUNTIMES[task.runtime]  # type: ignore[index]
    batch = {"batch": task.batch} if task.batch > 1 else {}
    recognizer = runtime(bundle, threads=task.threads, config=wanted, observer=_speech(task, bundle.metadata), **batch)
    facts = {"load_s": time.perf_counter() - start, "config": recognizer.config}
    facts |= {"precision": precision_of(recognizer.config, "CPU")}
    facts |= _transcribe(recognizer, task, bundle.metadata.sample_rate, bundle.metadata.prompt_dictionary)
    config = recognizer.config
    del recognizer
    gc.collect()
    facts |= _time_folder(openvino_encoder(bundle, config, task.batch), bundle, task, config)
    facts |= {"lookahead": bundle.metadata.lookahead}
    return facts | _sizes(task.path, graph_file("encoder").replace(".xml", ".bin"))


def _speech(task: Task, metadata: Metadata) -> SteadySpeech | None:
    """What makes a recognizer emit so many tokens a second, where that is asked for."""
    if task.tokens_per_second is None:
        return None
    return SteadySpeech(metadata.blank_idx, task.tokens_per_second * metadata.subsampling_factor / 100)


def _recordings(task: Task, bundle: Bundle, config: Config | None, start: float) -> dict[str, Any]:
    """All utterances together. The encoder's time is its share of that run for one chunk of one recording.

    A step may hold several chunks of a recording. All chunks of its last step count, also those beyond its end, as the
    last chunk of a stream counts.

    Args:
        task: what to measure.
        bundle: the folder.
        config: OpenVINO properties.
        start: when loading began.
    """
    rate, prompts = bundle.metadata.sample_rate, bundle.metadata.prompt_dictionary
    signals = [load_utterance(each, rate) for each in task.utterances]
    together = Recordings(bundle, [len(each) / rate for each in signals], threads=task.threads, config=config)
    facts: dict[str, Any] = {"load_s": time.perf_counter() - start}
    facts |= {"config": vars(together.shape) | together.config, "precision": precision_of(together.config, "CPU")}
    order = sorted(range(len(signals)), key=lambda number: -len(signals[number]))

    def run(numbers: Sequence[int]) -> list[Transcript]:
        waiting = (
            (number, Recording(partial(iter, [signals[number]]), prompt_language(language, prompts)))
            for number, language in ((each, task.utterances[each].target_lang) for each in numbers)
        )
        done = dict(together.transcribe(waiting))
        return [whole(done[number]) for number in sorted(done)]

    run(order[-together.shape.requests :])
    start = time.perf_counter()
    transcripts = run(order)
    facts |= {"pipeline_s": time.perf_counter() - start, **_memory()} | _sums(transcripts)
    chunks = facts["calls"]["encoder"] * together.shape.chunks  # a row of a step is a call
    facts |= {"encoder_step_ms": 1000.0 * facts["seconds"]["encoder"] / chunks}
    facts |= {"chunk_ms": 10.0 * bundle.metadata.chunk_mel_frames, "lookahead": bundle.metadata.lookahead}
    return facts | _sizes(task.path, graph_file("encoder").replace(".xml", ".bin"))


def _onnxruntime(task: Task) -> dict[str, Any]:
    import onnxruntime  # noqa: F401
    import openvino  # noqa: F401

    from verify.runtimes.generation1 import Generation1

    start = time.perf_counter()
    metadata = Metadata.model_validate_json((task.path / METADATA).read_text(encoding="utf-8"))
    bundle = Bundle(task.path, metadata)
    encoder = OnnxEncoder(task.path / ENCODER, task.threads)
    recognizer = Generation1(bundle, threads=task.threads, encoder=encoder, observer=_speech(task, metadata))
    config = {"intra_op_num_threads": str(task.threads), "preprocessor, decoder, joint": recognizer.config}
    facts = {"load_s": time.perf_counter() - start, "config": config}
    facts |= _transcribe(recognizer, task, metadata.sample_rate, metadata.prompt_dictionary)
    facts |= _time_folder(encoder, bundle, task, recognizer.config)
    facts |= {"lookahead": metadata.lookahead}
    return facts | _sizes(task.path, f"{ENCODER}*")


def _nemo(task: Task) -> dict[str, Any]:
    import torch

    from export.checkpoint import open_checkpoint
    from export.checkpoint.nemo import load_model, quiet
    from verify.references.nemo import NemoStreaming

    torch.set_num_threads(task.threads)
    quiet()
    import nemo.collections.asr.models  # noqa: F401

    start = time.perf_counter()
    checkpoint = open_checkpoint(task.path)
    model = load_model(checkpoint)
    geometry, _ = checkpoint.geometry(task.lookahead)
    recognizer = NemoStreaming(checkpoint, geometry.lookahead, model, chunk_frames=geometry.chunk_frames)
    threads = recognizer.threads or task.threads
    facts = {"load_s": time.perf_counter() - start, "config": {"torch_num_threads": str(threads)}}
    facts |= _transcribe(recognizer, task, checkpoint.sample_rate, checkpoint.prompts)
    torch.set_num_threads(threads)
    signal = torch.from_numpy(_signal(task, checkpoint.sample_rate))[None]
    with torch.inference_mode():
        mel, _ = model.preprocessor(input_signal=signal, length=torch.tensor([signal.shape[1]]))
    prompts = checkpoint.prompts or {}
    prompt = prompt_id_for(task.utterances[0].target_lang, prompts, checkpoint.default_prompt_id or 0)
    encoder = TorchEncoder(model, geometry)
    facts |= _timed(encoder, encoder_ports(model, geometry), mel.numpy(), geometry, prompt, task.steps)
    return facts | {"folder_mb": checkpoint.size_bytes / 1e6, "lookahead": task.lookahead}


def _transformers(task: Task) -> dict[str, Any]:
    """Transformers' own streaming, eager: its caches change their shapes over the first steps of every stream."""
    import torch
    import transformers  # noqa: F401

    from export.checkpoint import open_checkpoint
    from verify.references.transformers import TransformersStreaming

    torch.set_num_threads(task.threads)
    start = time.perf_counter()
    checkpoint = open_checkpoint(task.path)
    recognizer = TransformersStreaming(checkpoint, task.lookahead)
    threads = recognizer.threads or task.threads
    recognizer.model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[task.dtype])
    facts = {"load_s": time.perf_counter() - start, "config": {"torch_num_threads": str(threads), "mode": "eager"}}
    seconds = _timed_calls(recognizer.model.encoder)
    facts |= _transcribe(recognizer, task, checkpoint.sample_rate, checkpoint.prompts)
    seconds.clear()
    recognizer.transcribe(_signal(task, checkpoint.sample_rate))
    steps = seconds[WARM_UP_STEPS:] or seconds
    chunk_ms = 10.0 * int(checkpoint.encoder["subsampling_factor"]) * (task.lookahead + 1)
    facts |= {"encoder_step_ms": 1000.0 * statistics.median(steps), "chunk_ms": chunk_ms}
    facts |= {"precision": {"fp32": "f32"}.get(task.dtype, task.dtype), "lookahead": task.lookahead}
    return facts | {"folder_mb": checkpoint.size_bytes / 1e6}


def _timed_calls(module: Any) -> list[float]:
    """Seconds of each call of a module from now on, as a list that grows."""
    forward, seconds = module.forward, []

    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = forward(*arguments, **named)
        seconds.append(time.perf_counter() - start)
        return result

    module.forward = timed
    return seconds


def _transcribe(recognizer: Any, task: Task, sample_rate: int, prompts: Mapping[str, int] | None) -> dict[str, Any]:
    """Audio to text over all utterances, after a step of a full batch; then the peak memory so far."""
    signals = [load_utterance(each, sample_rate) for each in task.utterances]
    languages = [prompt_language(each.target_lang, prompts) for each in task.utterances]

    def run(count: int) -> list[Transcript]:
        if task.batch > 1:
            found: list[Transcript] = recognizer.transcribe_all(signals[:count], languages[:count])
            return found
        return [recognizer.transcribe(*each) for each in zip(signals[:count], languages[:count], strict=True)]

    run(task.batch)
    before = _steps(recognizer, task)
    start = time.perf_counter()
    transcripts = run(len(signals))
    wall = time.perf_counter() - start
    facts = {"pipeline_s": wall, **_memory()} | _sums(transcripts)
    # What a batch's utterances count are their rows; several have one step.
    steps = {name: calls - before[name] for name, calls in _steps(recognizer, task).items()}
    return facts | ({"calls": steps} if steps else {})


def _memory() -> dict[str, float]:
    """The largest memory so far, and of today's what is no page of a file, where the system tells them apart."""
    now = psutil.Process().memory_info()
    shared = getattr(now, "shared", None)
    return {"peak_rss_mb": peak_rss_mb()} | ({} if shared is None else {"anonymous_mb": (now.rss - shared) / 1e6})


def _steps(recognizer: Any, task: Task) -> dict[str, int]:
    """How often each graph of a recognizer of batches has run."""
    if task.batch == 1:
        return {}
    names = {"mel": "preprocessor", "encoder": "encoder", "decoder": "decoder", "joint": "joint"}
    return {name: getattr(recognizer, graph).calls for name, graph in names.items()}


def _sums(transcripts: Sequence[Transcript]) -> dict[str, Any]:
    spent = sum((each.timings for each in transcripts), start=Timings())
    names = ("mel", "encoder", "decoder", "joint")
    return {
        "audio_s": sum(each.audio_seconds for each in transcripts),
        "tokens": sum(len(each.tokens) for each in transcripts),
        "utterance_tokens": [each.tokens for each in transcripts],
        "seconds": {name: getattr(spent, name) or None for name in names},
        "calls": {name: getattr(spent, f"{name}_calls") for name in names},
    }


def _time_folder(encoder: EncoderStep, bundle: Bundle, task: Task, config: dict[str, str]) -> dict[str, Any]:
    """The encoder alone, on the mel of the folder's own preprocessor."""
    import openvino as ov

    from verify.runtimes.graph import Graph

    metadata = bundle.metadata
    signal = _signal(task, metadata.sample_rate)
    preprocessor = Graph.load(ov.Core(), bundle, "preprocessor", "CPU", config)
    preprocessor.input("audio", (1, len(signal)))[:] = signal
    preprocessor.input("audio_length", (1,))[:] = len(signal)
    preprocessor.run()
    prompt = prompt_id_for(
        task.utterances[0].target_lang, metadata.prompt_dictionary or {}, metadata.default_prompt_id or 0
    )
    return _timed(
        encoder,
        batched(expected_ports(metadata)["encoder"].inputs, task.batch),
        preprocessor.output("mel"),
        metadata,
        prompt,
        task.steps,
    ) | {"chunk_ms": 1000.0 * metadata.chunk_mel_frames / 100}


def _timed(
    encoder: EncoderStep, ports: Sequence[Port], mel: Array, cut: Metadata | Geometry, prompt: int, steps: int
) -> dict[str, Any]:
    windows = mel_windows(mel, cut.pre_encode_cache, cut.chunk_mel_frames)
    seconds = time_steps(encoder, ports, windows, prompt, warm_up=WARM_UP_STEPS, steps=steps)
    return {"encoder_step_ms": 1000.0 * statistics.median(seconds), "chunk_ms": cut.chunk_ms}


def _signal(task: Task, sample_rate: int) -> Array:
    """Audio for the encoder alone, [samples]: the first utterances in a row."""
    signals: list[Array] = []
    wanted = WINDOW_SECONDS * sample_rate
    for utterance in task.utterances:
        if sum(map(len, signals)) >= wanted:
            break
        signals.append(load_utterance(utterance, sample_rate))
    return np.concatenate(signals)


def _sizes(folder: Path, weights: str) -> dict[str, float]:
    files = [file for file in folder.iterdir() if file.is_file()]
    encoder = [file for file in files if file.match(weights)]
    folder_bytes, encoder_bytes = (sum(file.stat().st_size for file in some) for some in (files, encoder))
    return {"folder_mb": folder_bytes / 1e6, "encoder_mb": encoder_bytes / 1e6}


@contextmanager
def _other_cores() -> Iterator[list[float]]:
    """Cores that other processes keep busy while the body runs, as the one item of the list after it."""
    own = psutil.Process()

    def busy() -> tuple[float, float, float]:
        times, mine = psutil.cpu_times(), own.cpu_times()
        return time.monotonic(), sum(times) - times.idle - getattr(times, "iowait", 0.0), mine.user + mine.system

    found: list[float] = []
    start = busy()
    yield found
    wall, machine, mine = (after - before for after, before in zip(busy(), start, strict=True))
    found.append(max(0.0, (machine - mine) / wall))


def main() -> None:
    """Read the task from stdin, print the measurement."""
    with result_of_a_child() as output:
        output.write(measure(Task.model_validate_json(sys.stdin.read())).model_dump_json())


if __name__ == "__main__":
    main()
