"""Transformers' model of a checkpoint: every tensor in its place, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import Checkpoint, transformers
from export.checkpoint.transformers import check_fixed, load_transformers
from export.checkpoint.transformers_names import head_index, is_absent, to_nemo
from export.checkpoint.weights import read_weights
from export.errors import UserError
from tests.helpers.transformers_folder import write_transformers_folder

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights(small_checkpoint: Checkpoint) -> Weights:
    return read_weights(small_checkpoint)


@pytest.mark.parametrize(("fixture", "head"), [("small_checkpoint", 2), ("demo_checkpoint", 1)])
def test_every_tensor_has_a_name_in_both_layouts(fixture: str, head: int, request: pytest.FixtureRequest) -> None:
    checkpoint: Checkpoint = request.getfixturevalue(fixture)
    tensors = read_weights(checkpoint)
    assert head_index(tensors) == head  # dropout in the joint, and none
    model, _ = load_transformers(checkpoint)
    names = [to_nemo(name, head) for name in model.state_dict()]
    assert len(set(names)) == len(names)
    assert set(names) == {name for name in tensors if not is_absent(name)}


@pytest.mark.parametrize(
    "name",
    ["encoder.subsampling.layers.9", "encoder.layers.0.self_attn.x_proj.weight", "joint.joint_net.2.bias"],
)
def test_other_names_have_none(name: str) -> None:
    assert to_nemo(name, 2) is None


@pytest.mark.parametrize("variant", ["small_checkpoint", "small_english_checkpoint"])
def test_a_folder_loads_through_the_auto_classes(variant: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from transformers import AutoModelForRNNT, AutoProcessor

    checkpoint: Checkpoint = request.getfixturevalue(variant)
    folder = write_transformers_folder(checkpoint, tmp_path / "folder")
    model, found = AutoModelForRNNT.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    ours, _ = load_transformers(checkpoint)
    assert type(model) is type(ours)
    stored = model.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in ours.state_dict().items())
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = {index: piece for piece, index in tokenizer["model"]["vocab"].items()}
    pieces |= {token["id"]: token["content"] for token in tokenizer["added_tokens"] if token["id"] < len(pieces)}
    assert tuple(pieces[index] for index in range(checkpoint.blank_id)) == checkpoint.vocabulary
    processor = AutoProcessor.from_pretrained(folder)
    assert getattr(processor, "prompt_dictionary", None) == checkpoint.prompts


def lose(weights: Weights) -> None:
    del weights["encoder.layers.1.norm_out.bias"]


def add(weights: Weights) -> None:
    weights["encoder.layers.1.adapter.weight"] = torch.zeros(2)


def reshape(weights: Weights) -> None:
    weights["joint.enc.weight"] = weights["joint.enc.weight"][:, :-1]


def no_head(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("joint.joint_net")]:
        weights[f"joint.head.{name}"] = weights.pop(name)


def other_window(weights: Weights) -> None:
    weights["preprocessor.featurizer.window"] = torch.ones(400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose, "encoder.layers.1.norm_out.bias is missing"),
        (add, "encoder.layers.1.adapter.weight is left over"),
        (reshape, r"joint.enc.weight has shape \[64, 63\], wanted is \[64, 64\]"),
        (no_head, "joint.head.joint.joint_net.2.weight is left over; .*joint.joint_net.2.weight is missing"),
        (other_window, "preprocessor.featurizer.window is not what Transformers computes"),
    ],
)
def test_a_tensor_that_does_not_fit_is_an_error(
    change: Callable[[Weights], None],
    message: str,
    small_checkpoint: Checkpoint,
    weights: Weights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = dict(weights)
    change(changed)
    monkeypatch.setattr(transformers, "read_weights", lambda _: changed)
    with pytest.raises(UserError, match=message) as failure:
        load_transformers(small_checkpoint)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("preprocessor", "normalize", "per_feature"),
        ("preprocessor", "window", "hamming"),
        ("preprocessor", "mag_power", 1.0),
        ("preprocessor", "highfreq", 7600),
        ("encoder", "untie_biases", False),
        ("encoder", "att_context_size", [[56, 3], [70, 13]]),
        ("decoder", "blank_as_pad", False),
        ("joint", "jointnet", {"joint_hidden": 32, "activation": "relu"}),
        ("joint", "jointnet", {"joint_hidden": 64, "activation": "gelu"}),
    ],
)
def test_what_the_class_would_ignore_is_refused(
    small_checkpoint: Checkpoint, section: str, key: str, value: Any
) -> None:
    check_fixed(small_checkpoint)
    config = {**small_checkpoint.config, section: {**small_checkpoint.config[section], key: value}}
    with pytest.raises(UserError, match=rf"would compute something else: {section}\.{key}.*compare with NeMo alone"):
        check_fixed(replace(small_checkpoint, config=config))
