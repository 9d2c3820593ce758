"""Looks for the smallest (or fastest) mixed recipe within a budget of WER points, with Optuna's TPE.

Every conformer layer, pre-encode, prompt kernel, embedding and joint is stored in the recipe's own mode, in INT8 or in
f16. A trial is made, asked for its teacher-forced divergence, which takes seconds, and compared with FP32 on the
manifest only where that leaves hope. The study lies in the output, so that a stopped search goes on.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import write_atomically
from export.errors import NemotronOVError, UserError
from export.progress import note
from quantize.recipe import Recipe, WeightCompression
from quantize.recipe_file import dump_recipe
from scripts.bench.rounds import time_left
from scripts.sweep.groups import find_groups, mixed
from scripts.sweep.plan import Options, Plan, check_room, digest, lessons_identity, make_plan, stage_identity
from scripts.sweep.store import Store, claimed
from scripts.sweep.trial import Trial

if TYPE_CHECKING:
    import optuna

REPORT, STUDY = "search.json", "search.journal"

HALF = "f16"
_INT8 = WeightCompression(mode="int8_sym")

MARGIN = 1.25
"""A divergence counts as larger than another one where it is so many times as large."""

Choices = dict[str, str]


class HopelessError(NemotronOVError):
    """A trial is not worth comparing with FP32."""


def search(options: Options) -> dict[str, Any]:
    """Search, or go on searching, until the study has so many trials.

    Returns:
        The content of ``search.json``: ``trials``, ``best`` (None where none is within the budget), ``recipe``
        (its file).

    Raises:
        UserError: bad input; nothing was written.
    """
    plan = make_plan(options, default=("int4",), extra="optuna")
    base = _base(plan)
    units: dict[str, list[str]] = {}
    for group in find_groups(plan.source):
        members = units.setdefault(group.graph, [])
        members += [group.layer] * (group.layer not in members)
    check_room(plan, [base, base])
    with claimed(plan) as store:
        hunt = _Hunt(plan, store, base, units)
        hunt.run()
        report = hunt.report()
        write_atomically(plan.output / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def _base(plan: Plan) -> Recipe:
    """The recipe whose first compression is the smallest choice."""
    if len(plan.recipes) != 1:
        raise UserError(f"--search: takes one --recipe, not {len(plan.recipes)}; search with one after the other")
    recipe = plan.recipes[0]
    if not recipe.encoder.compression or recipe.encoder.compression[0].kind.bits >= 8:
        raise UserError(
            f"--recipe {recipe.name}: stores no weights of the encoder in less than 8 bits; search with int4 or "
            "another such recipe"
        )
    if not plan.score_text:
        raise UserError(
            "--search: the manifest's text says nothing about this checkpoint, so there are no WER points to hold; "
            "give a --manifest with text"
        )
    return recipe


class _Hunt:
    """One search."""

    def __init__(self, plan: Plan, store: Store, base: Recipe, units: dict[str, list[str]]) -> None:
        self._plan, self._store, self._base, self._units = plan, store, base, units
        first = base.encoder.compression[0]
        # A ratio, and data that only the encoder's products have, are for a whole graph to say.
        self._small = first.model_copy(update={"ratio": None, "sensitivity_metric": None})
        self._steps = (self._small, _INT8)
        self._labels = (str(first.mode), _INT8.mode, HALF)
        self._names = [unit for members in units.values() for unit in members]
        self._failed: dict[str, str] = {}
        self._study = self._open()

    def run(self) -> None:
        """Trials until there are as many as wanted; the plain ones first."""
        import optuna

        study, wanted = self._study, self._plan.options.trials
        for label in self._labels[:2]:
            study.enqueue_trial(dict.fromkeys(self._names, label), skip_if_exists=True)
        seconds: dict[str, list[float]] = {}
        while (done := len(self._finished())) < wanted:
            start = time.monotonic()
            trial = study.ask()
            choices = {name: str(trial.suggest_categorical(name, self._labels)) for name in self._names}
            try:
                value = self._evaluate(trial, choices)
                study.tell(trial, value)
            except HopelessError as error:
                trial.set_user_attr("why", str(error))
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except NemotronOVError as error:
                trial.set_user_attr("why", str(error))
                self._failed[f"trial {trial.number}"] = str(error)
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            seconds[str(trial.number)] = [time.monotonic() - start]
            waiting: dict[str, list[float]] = {f"-{left}": [] for left in range(wanted - done - 1)}
            self._say(trial.number, wanted, time_left(seconds | waiting, [*seconds, *waiting], 1))

    def report(self) -> dict[str, Any]:
        """What was found; the best recipe is measured, and written with its numbers."""
        best = self._best()
        file = None if best is None else self._write(best)
        options = self._plan.options
        return {
            "report_version": 1,
            "source": str(self._plan.source.path),
            "checkpoint": self._plan.source.metadata.checkpoint,
            "base": self._base.name,
            "budget": options.budget,
            "objective": options.objective,
            "utterances": len(self._plan.utterances),
            "choices": list(self._labels),
            "trials": [_facts(trial) for trial in self._finished()],
            "best": None if best is None else _facts(best),
            "recipe": None if file is None else str(file),
            "failed": self._failed,
        }

    def _open(self) -> optuna.Study:
        """The study of this output; a trial that was cut off is to be repeated."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        plan, options = self._plan, self._plan.options
        facts = [self._base.hash, self._names, options.budget, options.objective]
        name = digest([*facts, plan.identity["source"], stage_identity(plan, "verified"), lessons_identity(plan)])
        storage = JournalStorage(JournalFileBackend(str(plan.output / STUDY)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True, direction="minimize")
            # A sampler begins anew with each run: with one seed it would propose the same again.
            study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials), multivariate=True)
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params.keys() >= set(self._names):
                study.enqueue_trial(trial.params)
        return study

    def _evaluate(self, trial: optuna.Trial, choices: Choices) -> float:
        """The objective; the constraint and all facts are set on the trial."""
        plan, budget = self._plan, self._plan.options.budget
        tried = Trial(plan, self._store, f"trial {trial.number}", self._recipe(choices, f"trial-{trial.number}"))
        try:
            megabytes = tried.made()["bytes"] / 1e6
            trial.set_user_attr("mb", megabytes)
            kl = tried.diverged()["kl"]
            trial.set_user_attr("kl", kl)
            reason = hopeless(kl, self._known(), budget)
            if reason:
                raise HopelessError(reason)
            error = tried.verified()["wer_delta"]
            trial.set_user_attr("error", error)
            trial.set_constraint("points over the budget", error - budget)
            if plan.options.objective == "size":
                return float(megabytes)
            share = 1.0 / tried.measured()["ratios"]["encoder_step"]
            trial.set_user_attr("step_share", share)
            return float(share)
        finally:
            tried.drop_folder()

    def _recipe(self, choices: Choices, name: str, description: str = "") -> Recipe:
        return mixed(
            self._base,
            self._steps,
            {unit: self._labels.index(label) for unit, label in choices.items()},
            self._units,
            name=name,
            description=description or f"proposed by a search from {self._base.name}",
        )

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that ended, but those that a killed run left."""
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]
        return [trial for trial in trials if trial.state.name != "FAIL" or "why" in trial.user_attrs]

    def _known(self) -> list[tuple[float, float]]:
        """Divergence and points of every trial that was compared with FP32."""
        facts = [trial.user_attrs for trial in self._finished()]
        return [(each["kl"], each["error"]) for each in facts if "error" in each]

    def _best(self) -> optuna.trial.FrozenTrial | None:
        within = [
            trial
            for trial in self._finished()
            if trial.value is not None and trial.user_attrs["error"] <= self._plan.options.budget
        ]
        return min(within, key=lambda trial: (trial.value, trial.number), default=None)

    def _write(self, best: optuna.trial.FrozenTrial) -> Path:
        """The best trial as a recipe's file, measured, its numbers in the description."""
        plan = self._plan
        tried = Trial(plan, self._store, f"trial {best.number}", self._recipe(best.params, f"trial-{best.number}"))
        measured, verified = tried.measured(), tried.verified()
        if plan.options.keep == "none":
            tried.drop_folder()
        else:
            tried.ensure_folder()
        ratios = measured["ratios"]
        name = f"{self._base.name}-search"
        description = (
            f"found by trial {best.number} of {len(self._finished())} for at most {plan.options.budget:g} points: "
            f"{best.user_attrs['mb']:.2f} MB, {best.user_attrs['error']:+.2f} WER points and "
            f"{100 * verified['exact_match']:.1f} % identical tokens on {len(plan.utterances)} utterances, encoder "
            f"step {ratios['encoder_step']:.2f}× as fast as fp32; checkpoint "
            f"{str(plan.source.metadata.checkpoint.get('sha256', 'unknown'))[:12]}"
        )
        recipe = self._recipe(best.params, name, description)
        file = plan.output / f"{name}.toml"
        write_atomically(file, dump_recipe(recipe))
        return file

    def _say(self, number: int, wanted: int, left: str) -> None:
        trial = self._study.trials[number]
        facts = trial.user_attrs
        size = f"{facts['mb']:.2f} MB, " if "mb" in facts else ""
        said = facts.get("why") or f"{facts['error']:+.2f} points"
        note(f"{len(self._finished())} of {wanted}, trial {number}: {size}{said}{left}")


def hopeless(kl: float, known: Sequence[tuple[float, float]], budget: float) -> str | None:
    """Why a trial need not be compared with FP32; None where it must be.

    It is without hope where a trial with clearly less divergence missed the budget by as much again, and none with
    nearly as much held it.

    Args:
        kl: teacher-forced divergence of the trial.
        known: divergence and WER points of trials that were compared.
        budget: WER points.
    """
    if any(error <= budget and MARGIN * other >= kl for other, error in known):
        return None
    worse = [other for other, error in known if error > 2 * budget and MARGIN * other <= kl]
    if not worse:
        return None
    return f"KL {kl:.2e}, where {min(worse):.2e} missed the budget twice over: not compared"


def _facts(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "choices": dict(trial.params),
        **{name: attributes.get(name) for name in ("mb", "kl", "error", "step_share", "why")},
    }
