"""Addresses of ``sweep``'s results: each changes with every input of its result, and with nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile

from export.digest import code_sha256
from quantize.grid import expand, parse_axis
from quantize.groups import Group
from quantize.recipe import Recipe, Tolerance
from quantize.recipes import RECIPES
from scripts.sweep import identity
from scripts.sweep.options import Options, Plan
from scripts.sweep.plan import make_plan
from tests.helpers.command import ROOT
from tests.helpers.tiny_bundle import speech, tiny_bundle

Addresses = Callable[[Plan], dict[str, str]]

GROUPS = [Group("joint", "joint", ("a", "b"), 10), Group("embedding", "decoder", ("c",), 10)]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Of one utterance on a tiny folder."""
    soundfile.write(tmp_path / "a.wav", speech(), 16000)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "text": "ab", "target_lang": "en-US"}) + "\n")
    folder = tiny_bundle(tmp_path / "fp32").path
    return make_plan(Options(folder, tmp_path / "out", ("int4",), manifest=manifest, threads=1))


def addresses(plan: Plan) -> dict[str, str]:
    """Of every kind of result."""
    base = RECIPES["int4-aware"]
    step = base.encoder.compression[0]
    found = {stage: identity.stage_identity(plan, stage) for stage in ("verified", "measured", "diverged")}
    return found | {
        "made": identity.recipe_identity(plan, base),
        "reference_paths": identity.reference_paths_identity(plan),
        "probed": identity.probe_identity(plan, GROUPS[0], GROUPS, step),
        "probed-f16": identity.probe_identity(plan, None, GROUPS, step),
    }


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name, address in before.items() if after[name] != address}


HEARD = {"verified", "measured", "diverged", "reference_paths", "probed", "probed-f16"}


def test_nothing_changes_by_itself(plan: Plan) -> None:
    assert addresses(plan) == addresses(plan)
    assert len(set(addresses(plan).values())) == len(addresses(plan))


def test_machine(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer kernels round otherwise elsewhere; only folders are the same everywhere."""
    before = addresses(plan)
    monkeypatch.setattr(identity, "machine", lambda: {"cpu": "another", "cores": 2, "flags": []})
    assert changed(before, addresses(plan)) == HEARD


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"threads": 2}, HEARD),
        ({"identity": {"code": "other"}}, {"made", *HEARD} - {"verified", "measured"}),  # stored beside "made"
        ({"score_text": False}, {"verified"}),
        ({"calibration": SimpleNamespace(sha256="x")}, {"made", "probed"}),
    ],
)
def test_inputs(plan: Plan, changes: dict[str, Any], expected: set[str]) -> None:
    assert changed(addresses(plan), addresses(replace(plan, **changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"repeats": 5}, {"measured"}),
        ({"runtime": "streaming"}, {"verified", "measured", "diverged"}),
        ({"keep_worst": 7, "keep": "none", "output": Path("elsewhere")}, set()),
    ],
)
def test_options(plan: Plan, changes: dict[str, Any], expected: set[str]) -> None:
    assert changed(addresses(plan), addresses(replace(plan, options=replace(plan.options, **changes)))) == expected


def test_audio_and_language(plan: Plan, tmp_path: Path) -> None:
    before = addresses(plan)
    soundfile.write(tmp_path / "a.wav", speech(seed=2), 16000)
    assert changed(before, addresses(plan)) == HEARD


def test_a_recording_under_another_name_is_compared_anew(plan: Plan, tmp_path: Path) -> None:
    """Rows name their recordings, and rows of two recipes are paired by that."""
    before = addresses(plan)
    (tmp_path / "a.wav").rename(tmp_path / "b.wav")
    (tmp_path / "m.jsonl").write_text((tmp_path / "m.jsonl").read_text().replace("a.wav", "b.wav"))
    assert changed(before, addresses(make_plan(plan.options))) == {"verified"}


def test_recipe_counts_and_its_name_and_limits_do_not(plan: Plan) -> None:
    same, other = expand([RECIPES["int4"]], [parse_axis("encoder.group_size=64,128")])
    assert same.recipe is not None
    assert other.recipe is not None
    address = identity.recipe_identity(plan, RECIPES["int4"])
    assert identity.recipe_identity(plan, same.recipe) == address != identity.recipe_identity(plan, other.recipe)
    lenient = {"tolerance": Tolerance(exact_match=0.0, wer_delta=9.0), "description": "x"}
    assert identity.recipe_identity(plan, RECIPES["int4"].model_copy(update=lenient)) == address
    newer: Recipe = RECIPES["int4"].model_copy(update={"version": RECIPES["int4"].version + 1})
    assert identity.recipe_identity(plan, newer) != address


def test_graphs(plan: Plan, tmp_path: Path) -> None:
    elsewhere = make_plan(replace(plan.options, source=tiny_bundle(tmp_path / "b", seed=8).path))
    assert changed(addresses(plan), addresses(elsewhere)) == {"made", *HEARD} - {"verified", "measured"}


def test_probe_knows_operations_and_compression(plan: Plan) -> None:
    """Groups of another split have the same names; what the others hold is what this one leaves alone."""
    step = RECIPES["int4"].encoder.compression[0]

    def address(groups: list[Group], step: Any = step) -> str:
        return identity.probe_identity(plan, groups[0], groups, step)

    first, second = GROUPS
    neighbour = replace(second, graph="joint")
    found = [
        address(GROUPS),
        address([replace(first, operations=("a",)), second]),
        address([replace(first, graph="decoder"), second]),
        address([first, neighbour]),
        address([first, replace(neighbour, operations=("d",))]),
        address(GROUPS, step.model_copy(update={"group_size": 32})),
    ]
    assert len(set(found)) == len(found)
    mixed = step.model_copy(update={"ratio": 0.8, "sensitivity_metric": "weight_quantization_error"})
    assert address(GROUPS, mixed) == found[0]  # a ratio chooses nothing here


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Path]:
    """A copy of the code that results depend on."""
    for pattern in identity.CODE:
        files = list(ROOT.glob(pattern))
        assert files, pattern
        for file in files:
            copy = tmp_path / "code" / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    yield tmp_path / "code"
    code_sha256.cache_clear()


def test_code(code: Path) -> None:
    """Every module that makes, transcribes, measures or scores; recipes have hashes of their own."""
    before = identity.code_identity(code)
    names = [
        *(
            "export/weight_types.py",
            "export/graphs/attention.py",
            "quantize/compression.py",
            "quantize/effect.py",
            "quantize/groups.py",
        ),
        *(
            "verify/scoring/rates.py",
            "verify/scoring/divergence.py",
            "verify/runtimes/streaming/stream.py",
            "verify/report.py",
        ),
        *(f"scripts/bench/{name}.py" for name in ("encoders", "plan", "report", "rounds", "worker")),
        *(f"scripts/sweep/{name}.py" for name in ("probe", "trial", "worker")),
    ]
    for name in names:
        file = code / name
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        code_sha256.cache_clear()
        assert identity.code_identity(code) != before, name
        file.write_bytes(content)
    with (code / "quantize" / "recipes.py").open("a") as file_object:
        file_object.write("\n")
    code_sha256.cache_clear()
    assert identity.code_identity(code) == before
