"""The parts of ``sweep`` that need no folder of their own: grids, fronts, what is refused, what a ranking gives."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from export.errors import UserError
from export.results import read_result, write_result
from quantize.grid import expand, parse_axis
from quantize.groups import Group, module_pattern, step_for, whole, without
from quantize.ranking import Ranking, more_mb
from quantize.recipe_file import load_recipe
from quantize.recipes import POSITIONS, RECIPES
from quantize.steps import WeightCompression
from scripts.pareto import pareto
from scripts.sweep import plan as planning
from scripts.sweep import probe as probing
from scripts.sweep.options import Options
from scripts.sweep.report import render_sweep
from scripts.sweep.rows import _mark
from scripts.sweep.store import claimed
from scripts.sweep.task import Task
from tests.helpers.command import assert_user_error, run_here
from tests.helpers.tiny_bundle import tiny_bundle
from verify.scoring.divergence import kl


@pytest.mark.parametrize("seed", range(20))
def test_front_is_what_nothing_beats(seed: int) -> None:
    """Of points with many ties: each one off it is dominated by one on it, each one on it by none."""
    points = np.random.default_rng(seed).integers(0, 5, (30, 3 if seed % 2 else 2)).tolist()
    front = pareto(points)

    def dominates(one: list[int], other: list[int]) -> bool:
        return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))

    best = [point for point, on in zip(points, front, strict=True) if on]
    for point, on in zip(points, front, strict=True):
        assert on != any(dominates(other, point) for other in best)
        assert not (on and any(dominates(other, point) for other in points))
    assert pareto(points[::-1]) == front[::-1]
    assert pareto([]) == []


def test_a_gain_that_is_luck_puts_nothing_on_the_front() -> None:
    """Points against the manifest's text do not count, however good they look; distance from FP32's text does."""
    names = ("fp32", "int8", "int4", "worse")
    facts = ((10.0, 0.0, 0.0, 1.0), (6.0, 2.0, -1.0, 0.8), (4.0, 6.0, -1.3, 0.9), (6.5, 7.0, -9.0, 0.95))
    rows = [
        {"name": name, "mb": mb, "wer_between": between, "wer_delta": points, "step_share": share}
        for name, (mb, between, points, share) in zip(names, facts, strict=True)
    ]
    _mark(rows)
    assert [row["front"] for row in rows] == [["size", "step"], ["size", "step"], ["size"], []]


def test_axis_takes_toml_values_and_words() -> None:
    assert parse_axis("encoder.group_size=32, 64,-1").values == (32, 64, -1)
    assert parse_axis("encoder.mode=int4_sym,int4_asym").values == ("int4_sym", "int4_asym")
    assert parse_axis("encoder.ratio=0.6,default").values == (0.6, None)
    assert parse_axis("encoder.awq=true,false").values == (True, False)
    assert parse_axis('encoder.ignored_scope.patterns=[".*a.*"],[]').values == ([".*a.*"], [])


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("encoder.group_size", "VALUE"),
        ("group_size=1", "encoder.group_size=32"),
        ("encoder.group_size=", "empty value"),
        ("encoder.group_size=1,,2", "empty value"),
        ("encoder.group_size=1,1", "twice"),
    ],
)
def test_bad_axis(text: str, mention: str) -> None:
    with pytest.raises(UserError, match=mention):
        parse_axis(text)


def test_grid_reaches_the_field_under_each_of_its_names() -> None:
    for key in ("encoder.group_size", "encoder.compression.group_size", "encoder.compression.0.group_size"):
        (variant,) = expand([RECIPES["int4"]], [parse_axis(f"{key}=64")])
        assert variant.name == f"int4@{key}=64"
        assert variant.recipe is not None
        assert [step.group_size for step in variant.recipe.encoder.compression] == [64, None]
        assert variant.recipe.encoder.compression[1] == RECIPES["int4"].encoder.compression[1]
    second = expand([RECIPES["int4"]], [parse_axis("encoder.compression.1.mode=int8_asym")])[0].recipe
    assert second is not None
    assert second.encoder.compression[1].mode == "int8_asym"
    group = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
    options = expand([RECIPES["int8"]], [parse_axis(f"encoder.runtime_options.{group}=64")])[0].recipe
    assert options is not None
    assert options.encoder.runtime_options == {group: 64}
    alpha = expand([RECIPES["w8a8"]], [parse_axis("encoder.smooth_quant_alphas.matmul=0.7")])[0].recipe
    assert alpha is not None
    assert alpha.encoder.quantization is not None
    assert alpha.encoder.quantization.smooth_quant_alphas is not None
    assert alpha.encoder.quantization.smooth_quant_alphas.matmul == 0.7


def test_grid_multiplies_what_a_recipe_has() -> None:
    axes = [parse_axis("encoder.group_size=32,64"), parse_axis("encoder.awq=true,default")]
    names = [variant.name for variant in expand([RECIPES["int4"], RECIPES["fp16"]], axes)]
    assert len(names) == 5
    assert names[-1] == "fp16"
    assert names[0] == "int4@encoder.group_size=32,encoder.awq=true"
    recipes = [variant.recipe for variant in expand([RECIPES["int4"]], axes)]
    assert len({recipe.name for recipe in recipes if recipe}) == 4


def test_no_two_variants_have_one_name() -> None:
    """A recipe's name is that of its file."""
    layers = expand([RECIPES["int4"]], [parse_axis("encoder.ignored_scope.layers=[-1],[1],[0,-1],[0,1]")])
    assert len({variant.recipe.name for variant in layers if variant.recipe}) == 4
    with pytest.raises(UserError, match=r"patterns=.*\.A.* and .*\.a.* would both be recipe int4-encoder"):
        expand([RECIPES["int4"]], [parse_axis("encoder.ignored_scope.patterns=['.A'],['.a']")])


def test_refused_combination_is_a_row_with_its_rule() -> None:
    fine, refused = expand([RECIPES["int4"], RECIPES["int8"]], [parse_axis("encoder.group_size=64")])
    assert fine.recipe is not None
    assert not fine.refused
    assert refused.recipe is None
    assert "group_size" in refused.refused
    assert "int8_sym" in refused.refused


def test_unknown_key_names_the_valid_ones() -> None:
    for key in ("encoder.bogus", "encoder.group_sizes", "decoder.smooth_quant_alphas.matmul", "encoder.group_size.x"):
        with pytest.raises(UserError, match=r"choose among .*\.group_size|choose among .*decoder\.mode"):
            expand([RECIPES["int4"]], [parse_axis(f"{key}=1")])
    with pytest.raises(UserError, match=r"encoder\.precision"):
        expand([RECIPES["fp16"]], [parse_axis("encoder.group_size=1")])
    with pytest.raises(UserError, match="given twice"):
        expand([RECIPES["int4"]], [parse_axis("encoder.ratio=1"), parse_axis("encoder.ratio=0.5")])


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Each before a recording is decoded and before anything is written."""
    monkeypatch.setattr("verify.data.selection.load_utterance", lambda *_: pytest.fail("a recording was decoded"))
    folder = tiny_bundle(tmp_path / "fp32").path
    small = tiny_bundle(tmp_path / "int8", precision="INT8", recipe={"name": "int8"}).path
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    out = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    for arguments, mention in (
        ([small, "--output", out], "int8"),
        ([tmp_path / "absent", "--output", out], tmp_path / "absent"),
        ([folder, "--output", out, "--recipe", "int9"], "int9"),
        ([folder, "--output", out, "--calibration", tmp_path], tmp_path),
        ([folder, "--output", out, "--recipe", "int4", "--grid", "encoder.x=1"], "encoder.x"),
        ([folder, "--output", out, "--recipe", "int4", "--manifest", tmp_path / "none.jsonl"], "none.jsonl"),
        ([folder, "--output", foreign], foreign),
        ([folder, "--output", folder / "metadata.json"], "metadata.json"),
        ([folder, "--output", foreign / "thesis.txt" / "out"], "thesis.txt"),
        ([folder, "--output", out, "--recipe", "int4", "--grid", "encoder.ratio=2"], "encoder.ratio=2"),
        ([folder, "--output", out, "--recipe", "int4", "--grid", "encoder.group_size=abc"], "valid integer"),
    ):
        assert_user_error(run_here(capfd, "sweep", *arguments), mention)
    for arguments, mention in (
        ([small, "--output", out], "int8"),
        ([folder, "--output", foreign], foreign),
        ([folder, "--output", out, "--recipe", "fp16"], "fp16"),
        ([folder, "--output", out, "--keep-worst", "99"], "--keep-worst 99"),
        ([folder, "--output", out, "--keep-worst", "1", "--kl-budget", "0"], "--keep-worst and --kl-budget"),
    ):
        assert_user_error(run_here(capfd, "rank", *arguments), mention)
    assert sorted(tmp_path.rglob("*")) == before


def test_too_small_a_disk_is_found_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_bundle(tmp_path / "fp32").path
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    done = run_here(capfd, "sweep", folder, "--output", tmp_path / "out", "--recipe", "int8")
    assert_user_error(done, "GB", "--keep none")
    assert not (tmp_path / "out").exists()


def test_output_of_another_folder_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mine, other = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", seed=8)
    plan = planning.make_plan(Options(mine.path, tmp_path / "out", ("int8",)))
    with claimed(plan) as store:
        write_result(store.result_file("made", "x"), {"bytes": 1})
        with pytest.raises(UserError, match="another sweep is at work"):
            claimed(plan).__enter__()
    done = run_here(capfd, "sweep", other.path, "--output", tmp_path / "out", "--recipe", "int8")
    assert_user_error(done, tmp_path / "out", "another FP32 folder")


def test_kl_is_that_of_the_definition() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], np.float32))
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.8, 0.1, 0.1]], np.float32)) + 7
    np.testing.assert_allclose(kl(logits, other), [0.25 * np.log(2), 0.0], atol=1e-6)
    assert kl(other, logits)[0] > 0
    assert kl(np.array([[0.0, -1e4]]), np.array([[-1e4, 0.0]]))[0] == pytest.approx(1e4)


def groups_of(*names: str) -> list[Group]:
    found = []
    for name in names:
        graph = {"embedding": "decoder", "joint": "joint"}.get(name, "encoder")
        prefix = "__module.encoder" if name != "prompt_kernel" else "__module"
        found.append(Group(name, graph, (f"{prefix}.{name}.linear1/aten::linear/MatMul",), 10))
    return found


def test_a_pattern_holds_its_layer_only() -> None:
    one, eleven = groups_of("layers.1.conv", "layers.11.conv")
    assert re.match(one.pattern, one.operations[0])
    assert not re.match(one.pattern, eleven.operations[0])
    assert re.match(module_pattern("layers.1"), one.operations[0])
    assert not re.match(module_pattern("layers.1"), eleven.operations[0])


def test_step_of_one_group_ignores_all_others_of_its_graph() -> None:
    groups = groups_of("layers.0.conv", "layers.1.conv", "pre_encode", "joint")
    scope = step_for(groups[1], groups, RECIPES["int4"].encoder.compression[0]).ignored_scope
    assert set(scope.names) == {groups[0].operations[0], groups[2].operations[0]}
    assert scope.patterns == (POSITIONS,)
    assert step_for(groups[3], groups, RECIPES["int8"].encoder.compression[0]).ignored_scope.empty


def test_step_of_one_group_chooses_nothing_by_itself() -> None:
    """What a ratio would leave out of a whole graph is compressed where it is alone, whatever the ratio goes by."""
    groups = groups_of("layers.0.conv", "layers.1.conv")
    plain = whole(RECIPES["int4"].encoder.compression[0])
    assert plain == RECIPES["int4"].encoder.compression[0]
    by_weights = plain.model_copy(update={"ratio": 0.8, "sensitivity_metric": "weight_quantization_error"})
    alone = step_for(groups[0], groups, by_weights)
    assert alone == step_for(groups[0], groups, plain)
    by_activations = {"ratio": 0.5, "sensitivity_metric": "max_activation_variance", "subset_size": 8}
    mixed_step = WeightCompression.model_validate(plain.model_dump() | by_activations | {"all_layers": None})
    assert mixed_step.needs_calibration
    assert whole(mixed_step) == plain
    aware = plain.model_copy(update={"awq": True, "subset_size": 8})
    assert whole(aware) == aware
    assert whole(RECIPES["int8"].encoder.compression[0]) == RECIPES["int8"].encoder.compression[0]


@pytest.mark.parametrize("edit", ["{}", "[]", '{"result": {"kl": 2}}', None, "[" * 100_000])
def test_a_stored_result_that_somebody_edited_is_none(edit: str | None, tmp_path: Path) -> None:
    file, result = tmp_path / "made-1.json", {"kl": 1.5, "name": "\udcff", "counts": {9: 1, 10: 2}}
    write_result(file, result)
    assert read_result(file) == {"kl": 1.5, "name": "\udcff", "counts": {"9": 1, "10": 2}}
    file.write_text(file.read_text().replace("1.5", "1.4") if edit is None else edit)
    assert read_result(file) is None


@pytest.mark.parametrize("error", [ValueError("no such thing"), RuntimeError(""), MemoryError(), UserError("bad rule")])
def test_a_group_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Builds:
        def __init__(self, *arguments: object) -> None:
            pass

        def measure(self, group: Group | None) -> dict[str, float]:
            if group is not None and group.name == "pre_encode":
                raise error
            return {"kl": float("nan") if group is not None and group.name == "joint" else 1.0}

    monkeypatch.setattr(probing, "_Builds", Builds)
    monkeypatch.setattr(probing, "_half_graphs", lambda _: contextlib.nullcontext(tmp_path))
    folder = tiny_bundle(tmp_path / "fp32").path
    groups = groups_of("pre_encode", "layers.0.conv", "joint")
    files = {name: tmp_path / f"{name}.json" for name in ("f16", "pre_encode", "layers.0.conv", "joint")}
    wanted = {name: str(file) for name, file in files.items()}
    probing.probe(Task(kind="layers", source=folder, folder=tmp_path, groups=groups, wanted=wanted))
    found = {name: read_result(file) or {} for name, file in files.items()}
    assert found["f16"] == found["layers.0.conv"] == {"kl": 1.0}
    assert "no finite number" in found["joint"]["failed"]
    message = found["pre_encode"]["failed"]
    assert str(error) in message
    assert isinstance(error, UserError) or type(error).__name__ in message


def test_mixed_recipe_leaves_the_worst_to_the_second_compression() -> None:
    groups = groups_of("pre_encode", "layers.0.conv", "layers.1.conv", "joint")
    recipe = RECIPES["int4"]
    mixed = without(recipe, groups[1:2], name="int4-kept-1", description="x")
    assert mixed.encoder.compression[0].ignored_scope.patterns[-1] == groups[1].pattern
    assert mixed.encoder.compression[1] == recipe.encoder.compression[1]
    half = without(RECIPES["int8-full"], [groups[1], groups[3]], name="x", description="x")
    assert half.encoder.compression[0].ignored_scope.patterns[-1] == groups[1].pattern
    assert half.joint.compression == ()


def ranking(*rows: tuple[str, float, int]) -> Ranking:
    """Of groups with their divergence and elements, as ``layers.json`` holds it."""
    recipe = RECIPES["int4"]
    groups = [
        {"name": name, "graph": "encoder", "elements": elements, "kl": kl_, "keepable": name != "pre_encode",
         "more_mb": more_mb(recipe, Group(name, "encoder", (), elements)), "agreement": 1.0}
        for name, kl_, elements in rows
    ]  # fmt: skip
    return Ranking.model_validate({"recipe": recipe, "groups": groups})


def test_kept_groups_are_the_worst_by_count_by_what_is_left_or_by_the_byte() -> None:
    names = ("pre_encode", "layers.0.conv", "layers.1.conv", "layers.2.conv")
    ranked = ranking(*zip(names, (4.0, 3.0, 2.5, 1.0), (10, 8_000_000, 2_000_000, 2_000_000), strict=True))
    assert [row.more_mb for row in ranked.groups[1:]] == [4.0, 1.0, 1.0], "half a byte an element"
    assert ranked.kept() == []
    assert ranked.kept(keep_worst=2) == ["layers.0.conv", "layers.1.conv"]
    assert ranked.kept(kl_budget=1.0) == ["layers.0.conv", "layers.1.conv"]
    assert ranked.kept(kl_budget=7.0) == []
    assert ranked.kept(extra_mb=2.0) == ["layers.1.conv", "layers.2.conv"], "the worst group costs least a byte"
    assert ranked.kept(extra_mb=5.5) == ["layers.0.conv", "layers.1.conv"], "half a million bytes less left empty"
    assert ranked.kept(extra_mb=6.0) == ["layers.0.conv", "layers.1.conv", "layers.2.conv"]
    assert ranked.kept(extra_mb=0.5) == ranked.kept(extra_mb=0.0) == []
    with pytest.raises(UserError, match=r"-0\.5 MB more: the smallest mixed recipe adds 0 MB; give 0 or more"):
        ranked.kept(extra_mb=-0.5)


def test_mixing_from_a_stored_ranking(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ranked = ranking(("layers.0.conv", 3.0, 2_000_000), ("layers.1.conv", 2.0, 2_000_000))
    table, groups = RECIPES["int4"].as_table(), [row.model_dump() for row in ranked.groups]
    stored = tmp_path / "layers.json"
    of_before = {"report_version": 1, "kept": [], "drawn": None}
    stored.write_text(json.dumps({"recipe_table": table, "groups": groups, **of_before}))
    file = tmp_path / "mine.toml"
    done = run_here(capfd, "recipes", "mix", stored, file, "--extra-mb", "1.5", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["kept"] == ["layers.0.conv"]
    mixed = load_recipe(file)
    assert mixed.encoder.compression[0].ignored_scope.patterns[-1] == module_pattern("layers.0.conv")
    for arguments, parts in (
        ([stored, file, "--keep-worst", "1"], ("already exists",)),
        ([stored, tmp_path / "a.toml"], ("give --extra-mb",)),
        ([stored, tmp_path / "a.toml", "--extra-mb", "1", "--keep-worst", "1"], ("--keep-worst and --extra-mb",)),
        ([tmp_path / "none.json", tmp_path / "a.toml", "--extra-mb", "1"], ("none.json", "rank")),
        ([file, tmp_path / "a.toml", "--extra-mb", "1"], (file, "is no JSON", "rank")),
        ([stored, tmp_path / "a.toml", "--extra-mb", "inf"], ("int4 stores in int4_sym", "keep fewer")),
        ([stored, tmp_path / "a.toml", "--keep-worst", "2"], ("int4 stores in int4_sym", "keep fewer")),
        ([stored, tmp_path / "a.toml", "--kl-budget", "0"], ("int4 stores in int4_sym", "keep fewer")),
    ):
        assert_user_error(run_here(capfd, "recipes", "mix", *arguments), *parts)
    assert not (tmp_path / "a.toml").exists()
    stored.write_text(json.dumps({"recipe_table": table, "groups": groups, "failed": {"layers.2.conv": "why"}}))
    done = run_here(capfd, "recipes", "mix", stored, tmp_path / "a.toml", "--keep-worst", "2")
    assert done.returncode == 0, "the group that could not be compressed alone is left"


@pytest.mark.parametrize(
    "edit",
    [
        lambda groups: groups[0].update(more_mb=0.0),
        lambda groups: groups[0].update(more_mb=-1.0),
        lambda groups: groups[0].update(more_mb=float("nan")),
        lambda groups: groups[0].update(kl=float("nan")),
        lambda groups: groups.append(groups[0]),
        lambda groups: groups[0].update(graph="Encoder"),  # whose groups no recipe would keep
    ],
    ids=["no room", "less room", "room nan", "divergence nan", "twice", "no graph"],
)
def test_an_edited_ranking_is_refused(
    edit: Callable[[list[dict[str, Any]]], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranked = ranking(("layers.0.conv", 3.0, 2_000_000), ("layers.1.conv", 2.0, 2_000_000))
    groups = [row.model_dump() for row in ranked.groups]
    edit(groups)
    stored = tmp_path / "layers.json"
    stored.write_text(json.dumps({"recipe_table": RECIPES["int4"].as_table(), "groups": groups}))
    done = run_here(capfd, "recipes", "mix", stored, tmp_path / "a.toml", "--extra-mb", "1")
    assert_user_error(done, f"{stored}: groups", "give a layers.json as `nemotron-ov rank` writes it")


def test_the_worst_are_kept_whatever_their_order_in_the_file() -> None:
    rows = (("layers.0.conv", 1.0, 8), ("layers.1.conv", 3.0, 8))
    assert ranking(*rows).kept(keep_worst=1) == ["layers.1.conv"]


def test_table_says_what_failed_and_that_the_machine_was_busy(small_report: dict[str, object]) -> None:
    console = Console(width=200, file=io.StringIO())
    for part in render_sweep(small_report):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "machine busy" in text
    assert "int5 failed: no such mode" in text
    assert "size, step" in text
    assert "1.50 (0.50 to 2.50)" in text
    assert "0.25 / 1.25 / 0.00" in text
    assert "+0.50 (-0.25 to +1.25)" in text


@pytest.fixture
def small_report() -> dict[str, object]:
    row = {"name": "fp32", "mb": 10.0, "encoder_step_ms": 9.0, "step_ratio": 1.0, "times_real_time": 20.0}
    row |= {"peak_rss_mb": 100.0, "wer": 5.0, "wer_delta": 0.0, "wer_between": 1.5, "exact_match": 1.0}
    row |= {"wer_between_interval": [0.5, 2.5]}
    row |= {"between_errors": {"substitutions": 0.25, "deletions": 1.25, "insertions": 0.0}}
    row |= {"farther": {"than": "int8", "points": 0.5, "interval": [-0.25, 1.25]}}
    row |= {"within_limits": True, "front": ["size", "step"], "step_share": 1.0}
    return {
        "source": "fp32",
        "utterances": 2,
        "manifest": "m.jsonl",
        "machine": {"cpu": "x", "cores": 2, "threads": 2, "other_cores": 1.5},
        "seconds": 3.0,
        "text_scored": True,
        "rows": [row],
        "failed": {"int5": "no such mode"},
        "unusable": {},
    }
