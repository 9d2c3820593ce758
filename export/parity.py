"""Proof that a graph computes what a reference in PyTorch computes: NeMo, or the modules that it was traced from.

Two phases, so that the PyTorch model and the compiled graph need not be in memory together: :func:`record` runs the
reference on seeded inputs and keeps the results, :func:`check` replays them on a saved graph. Caches and LSTM states
are carried from step to step on each side for itself, so that differences may add up as they would in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.contract import Ports
from export.errors import ParityError
from export.mapped_weights import pages_given_back

if TYPE_CHECKING:
    from export.bundle import Metadata
    from export.geometry import Geometry

Arrays = dict[str, NDArray[Any]]

LIMIT = 1e-4
"""Largest difference in FP32, as a share of the largest value of that output."""

_CARRIED = {
    "encoder": {name: f"{name}_out" for name in ("cache_channel", "cache_time", "cache_len")},
    "decoder": {"h_in": "h_out", "c_in": "c_out"},
}


@dataclass
class Step:
    """One call: its inputs without the carried ones, and what the reference returned."""

    inputs: Arrays
    expected: Arrays


@dataclass
class Recording:
    """Runs of one graph; every run starts from ``initial`` and carries outputs to inputs as ``carried`` says."""

    reference: str
    initial: Arrays
    carried: dict[str, str]
    runs: list[list[Step]] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """What graphs are compared with.

    Attributes:
        title: what it is, for reports.
        functions: for each graph what computes its outputs from its inputs, both by the contract.
        ports: their inputs and outputs.
        stored: takes a graph's outputs to what the exported one returns, where that is something else.
        full: run the encoder until its caches are full and beyond; else two steps of each run.
    """

    title: str
    functions: Mapping[str, Callable[..., Any]]
    ports: Mapping[str, Ports]
    stored: Mapping[str, Callable[[Arrays], Arrays]] = field(default_factory=dict)
    full: bool = True


def record(
    reference: Reference, geometry: Geometry, metadata: Metadata, ports: Mapping[str, Ports]
) -> dict[str, Recording]:
    """Run a reference on seeded inputs for each of the four graphs, which have these ``ports``."""
    import torch

    functions = reference.functions
    runs: dict[str, Iterator[list[Arrays]]] = {
        "preprocessor": _audio_runs(geometry),
        "encoder": _encoder_runs(functions["preprocessor"], geometry, metadata, full=reference.full),
        "decoder": _decoder_runs(metadata),
        "joint": _joint_runs(metadata),
    }
    recordings = {}
    with torch.no_grad():
        for graph, inputs in runs.items():
            carried = _CARRIED.get(graph, {})
            stored = reference.stored.get(graph, lambda outputs: outputs)
            recording = Recording(reference.title, _zeros(ports[graph], carried), carried)
            recording.runs = [
                _record_run(functions[graph], reference.ports[graph], carried, run, stored) for run in inputs
            ]
            recordings[graph] = recording
    return recordings


def _zeros(ports: Ports, names: Iterable[str]) -> Arrays:
    """Zeros for these inputs of a graph."""
    dtypes = {"f32": np.float32, "i32": np.int32}
    return {port.name: np.zeros(port.shape, dtypes[port.dtype]) for port in ports.inputs if port.name in set(names)}


def _record_run(
    function: Callable[..., Any],
    ports: Ports,
    carried: dict[str, str],
    run: list[Arrays],
    stored: Callable[[Arrays], Arrays],
) -> list[Step]:
    """Run a reference over one run; ``stored`` takes its outputs to what the graph returns."""
    import torch

    steps, state = [], _zeros(ports, carried)
    for inputs in run:
        arguments = {port.name: torch.from_numpy({**state, **inputs}[port.name]) for port in ports.inputs}
        results = function(**arguments)
        results = results if isinstance(results, tuple) else (results,)
        outputs = {port.name: value.numpy() for port, value in zip(ports.outputs, results, strict=True)}
        steps.append(Step(inputs, stored(outputs)))
        state = {name: outputs[source] for name, source in carried.items()}
    return steps


def _sound(samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """[1, samples] of noise and gliding tones whose loudness changes from near silence to near full scale."""
    time = np.arange(samples) / 16_000
    glide = np.sin(2 * np.pi * (rng.uniform(80, 300) * time + rng.uniform(100, 900) * time**2))
    envelope = 10 ** (-1.5 + 1.3 * np.sin(2 * np.pi * rng.uniform(1, 4) * time + rng.uniform(0, 6)))
    sound = envelope * (0.5 * glide + 0.3 * rng.standard_normal(samples))
    return np.clip(sound, -1, 1).astype(np.float32)[None]


def _audio_runs(geometry: Geometry) -> Iterator[list[Arrays]]:
    """Lengths around the hop and the chunk, and a padded chunk whose stated length is shorter."""
    rng = np.random.default_rng(1)
    hop, chunk = geometry.hop_samples, geometry.chunk_samples
    lengths = [chunk, chunk - 1, chunk + 1, hop, hop + 1, 3 * hop - 1, 2 * chunk + hop // 2]
    for length in lengths:
        yield [{"audio": _sound(length, rng), "audio_length": np.array([length], np.int32)}]
    yield [{"audio": _sound(chunk, rng), "audio_length": np.array([chunk // 2 + 7], np.int32)}]


def _encoder_runs(
    log_mel: Callable[..., Any], geometry: Geometry, metadata: Metadata, *, full: bool
) -> Iterator[list[Arrays]]:
    """Cold start to full caches and two steps beyond; odd lengths under another prompt; a start as NeMo's own.

    Unless ``full``, each of them takes two steps.
    """
    rng = np.random.default_rng(2)
    prompts = sorted({metadata.default_prompt_id or 0, *(metadata.prompt_dictionary or {"": 0}).values()})
    steps = -(-geometry.left_context // geometry.chunk_frames) + 2 if full else 2
    total, carried = geometry.total_mel_frames, geometry.pre_encode_cache
    yield _encoder_run(log_mel, geometry, metadata, rng, prompts[0], [total] * steps, carried)
    odd = [total, total, total - 1, total // 2 + 1, carried + 1] if full else [total - 1, carried + 1]
    yield _encoder_run(log_mel, geometry, metadata, rng, prompts[-1], odd, carried)
    if metadata.lead_mel_frames:
        run = _encoder_run(
            log_mel, geometry, metadata, rng, prompts[-1], [total] * (3 if full else 2), metadata.lead_mel_frames
        )
        for step, length in enumerate(range(geometry.lead_mel_frames, 0, -geometry.chunk_mel_frames)):
            run[step]["cache_len"] = np.array([-length], np.int32)
        yield run


def _encoder_run(
    log_mel: Callable[..., Any],
    geometry: Geometry,
    metadata: Metadata,
    rng: np.random.Generator,
    prompt: int,
    lengths: list[int],
    lead: int,
) -> list[Arrays]:
    """Consecutive windows of one signal's mel after ``lead`` zero frames, each with its stated length."""
    import torch

    audio = torch.from_numpy(_sound(geometry.chunk_samples * len(lengths), rng))
    mel, _ = log_mel(audio, torch.tensor([audio.shape[1]], dtype=torch.int32))
    frames = np.concatenate([np.zeros((1, metadata.mel_features, lead), np.float32), mel.numpy()], axis=2)
    run = []
    for index, length in enumerate(lengths):
        begin = index * geometry.chunk_mel_frames
        inputs: Arrays = {
            "mel": np.ascontiguousarray(frames[:, :, begin : begin + geometry.total_mel_frames]),
            "mel_length": np.array([length], np.int32),
        }
        if metadata.has_prompt:
            inputs["prompt_id"] = np.array([prompt], np.int32)
        run.append(inputs)
    return run


def _decoder_runs(metadata: Metadata) -> Iterator[list[Arrays]]:
    """Blank first, as at a stream's start, then random pieces."""
    rng = np.random.default_rng(3)
    tokens = [metadata.blank_idx, *rng.integers(0, metadata.vocab_size, 9).tolist()]
    one = np.ones(1, np.int32)
    yield [{"token": np.array([[token]], np.int32), "token_length": one} for token in tokens]


def _joint_runs(metadata: Metadata) -> Iterator[list[Arrays]]:
    rng = np.random.default_rng(4)
    for scale in (0.1, 1.0, 3.0):
        yield [
            {
                "encoder": (scale * rng.standard_normal((1, metadata.encoder_dim, 1))).astype(np.float32),
                "decoder": (scale * rng.standard_normal((1, metadata.decoder_hidden, 1))).astype(np.float32),
            }
        ]


def compare(path: Path, recording: Recording) -> dict[str, dict[str, float]]:
    """Replay a recording on a saved graph, in FP32 on the CPU.

    Returns:
        For each output ``max_difference``, ``scale`` (largest expected magnitude) and their ratio ``relative``.
    """
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    with pages_given_back(model, path.with_suffix(".bin")):
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    del model
    request = compiled.create_infer_request()
    differences: dict[str, float] = {}
    scales: dict[str, float] = {}
    for run in recording.runs:
        state = dict(recording.initial)
        for step in run:
            request.infer({**state, **step.inputs})
            actual = {name: request.get_tensor(name).data.copy() for name in step.expected}
            for name, expected in step.expected.items():
                wide = actual[name].astype(np.float64), expected.astype(np.float64)
                if name == "mel":
                    # NeMo's tensor ends in one masked frame more than its length; a graph may leave it out.
                    wide = wide[0], wide[1][:, :, : max(wide[0].shape[2], wide[1].shape[2] - 1)]
                difference = (
                    float(np.abs(wide[0] - wide[1]).max(initial=0.0))
                    if wide[0].shape == wide[1].shape
                    else float("inf")
                )
                # A NaN compares false with everything, so it must count as a difference by name.
                difference = float("inf") if np.isnan(difference) else difference
                differences[name] = max(differences.get(name, 0.0), difference)
                scales[name] = max(scales.get(name, 0.0), float(np.abs(wide[1]).max(initial=0.0)))
            state = {name: actual[source] for name, source in recording.carried.items()}
    return {
        name: {
            "max_difference": difference,
            "scale": scales[name],
            "relative": difference / scales[name] if scales[name] else difference,
        }
        for name, difference in differences.items()
    }


def check(graph: str, path: Path, recording: Recording) -> dict[str, Any]:
    """Compare a saved graph with its recording and raise where it differs.

    Returns:
        What the bundle's metadata stores: limit, number of steps, and :func:`compare`'s numbers.

    Raises:
        ParityError: an output differs by more than :data:`LIMIT` of its scale.
    """
    outputs = compare(path, recording)
    wrong = [
        f"{name} by {numbers['relative']:.2g}" for name, numbers in outputs.items() if not numbers["relative"] <= LIMIT
    ]
    if wrong:
        raise ParityError(
            f"{path.name}: the {graph} graph differs from {recording.reference} in {', '.join(wrong)} of the output's "
            f"scale (limit {LIMIT:g}); nothing was written"
        )
    steps = sum(len(run) for run in recording.runs)
    return {"reference": recording.reference, "limit": LIMIT, "steps": steps, "outputs": outputs}
