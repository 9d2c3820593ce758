"""Looks for the smallest (or fastest) mixed recipe within a budget of WER points, with Optuna's TPE.

Every conformer layer, pre-encode, prompt kernel, embedding and joint is stored in the recipe's own mode, in INT8 or in
f16. A trial is made, asked for its teacher-forced divergence, which takes seconds, and compared with FP32 on the
manifest only where that leaves hope. The study lies in the output, so that a stopped search goes on.

What is found loses at most the budget against the manifest's text, where a gain over FP32 counts as nothing lost: it is
luck and pays for no loss. Because points alone are noisy, it also gives FP32's tokens as often as the recipe's own
``exact_match`` asks; of equally good ones, that nearest to FP32's text is taken.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import NemotronOVError, UserError
from export.folders import write_atomically
from export.progress import note
from quantize.groups import find_groups, mixed, whole
from quantize.recipe import Recipe, WeightCompression
from quantize.recipe_file import dump_recipe
from scripts.bench.rounds import time_left
from scripts.sweep.calibration import with_calibration
from scripts.sweep.identity import study_identity
from scripts.sweep.plan import Options, Plan, check_room, make_plan
from scripts.sweep.store import Store, claimed
from scripts.sweep.trial import Trial

if TYPE_CHECKING:
    import optuna

REPORT, STUDY = "search.json", "search.journal"

STUDY_VERSION = 2
"""Raised when trials mean something else than before, so that old ones are not compared with new ones."""

HALF = "f16"
_INT8 = WeightCompression(mode="int8_sym")

MARGIN = 1.25
"""A divergence counts as larger than another one where it is so many times as large."""

_ACCURACY = {"points": "wer_delta", "wer_between": "wer_between", "exact_match": "exact_match"}
"""What is kept of a comparison with FP32, and its name there."""

Choices = dict[str, str]


class HopelessError(NemotronOVError):
    """A trial is not worth comparing with FP32."""


def search(options: Options) -> dict[str, Any]:
    """Search, or go on searching, until the study has so many trials.

    Returns:
        The content of ``search.json``: ``trials``, ``best`` (None where none is within the budget), ``recipe``
        (its file).

    Raises:
        UserError: bad input; nothing was written. Or the default calibration set cannot be collected.
    """
    plan = make_plan(options, default=("int4",), extra="optuna")
    base = _base(plan)
    units: dict[str, list[str]] = {}
    for group in find_groups(plan.source):
        members = units.setdefault(group.graph, [])
        members += [group.layer] * (group.layer not in members)
    check_room(plan, [base, base])
    with claimed(plan) as store:
        if whole(base.encoder.compression[0]).needs_calibration:
            plan = with_calibration(plan)
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
        self._steps = (whole(first), _INT8)
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
            "report_version": 2,
            "source": str(self._plan.source.path),
            "checkpoint": self._plan.source.metadata.checkpoint,
            "base": self._base.name,
            "budget": options.budget,
            "exact_match": self._base.tolerance.exact_match,
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
        name = study_identity(plan, self._base, self._names, STUDY_VERSION)
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
        """The objective; constraints and all facts are set on the trial."""
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
            verified = tried.verified()
            facts = {name: verified[field] for name, field in _ACCURACY.items()}
            for name, value in facts.items():
                trial.set_user_attr(name, value)
            for name, excess in self._excess(facts).items():
                trial.set_constraint(name, excess)
            if plan.options.objective == "size":
                return float(megabytes)
            share = 1.0 / tried.measured()["ratios"]["encoder_step"]
            trial.set_user_attr("step_share", share)
            return float(share)
        finally:
            tried.drop_folder()

    def _excess(self, facts: Mapping[str, float]) -> dict[str, float]:
        """By how much a trial misses each limit, in points and in percent of utterances; 0 or less where it holds."""
        return {
            "points over the budget": lost(facts["points"]) - self._plan.options.budget,
            "identical tokens too few": 100.0 * (self._base.tolerance.exact_match - facts["exact_match"]),
        }

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
        """Divergence and lost points of every trial that was compared with FP32."""
        facts = [trial.user_attrs for trial in self._finished()]
        return [(each["kl"], lost(each["points"])) for each in facts if "points" in each]

    def _best(self) -> optuna.trial.FrozenTrial | None:
        within = [
            trial
            for trial in self._finished()
            if trial.value is not None and all(excess <= 1e-9 for excess in self._excess(trial.user_attrs).values())
        ]
        return min(within, key=_merit, default=None)

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
            f"{best.user_attrs['mb']:.2f} MB, {best.user_attrs['points']:+.2f} WER points, "
            f"{verified['wer_between']:.2f} % from FP32's text and {100 * verified['exact_match']:.1f} % identical "
            f"tokens on {len(plan.utterances)} utterances, encoder step {ratios['encoder_step']:.2f}× as fast as fp32; "
            f"checkpoint {str(plan.source.metadata.checkpoint.get('sha256', 'unknown'))[:12]}"
        )
        recipe = self._recipe(best.params, name, description)
        file = plan.output / f"{name}.toml"
        write_atomically(file, dump_recipe(recipe))
        return file

    def _say(self, number: int, wanted: int, left: str) -> None:
        trial = self._study.trials[number]
        facts = trial.user_attrs
        size = f"{facts['mb']:.2f} MB, " if "mb" in facts else ""
        said = facts.get("why") or f"{facts['points']:+.2f} points, {facts['wer_between']:.2f} % from fp32's text"
        note(f"{len(self._finished())} of {wanted}, trial {number}: {size}{said}{left}")


def lost(points: float) -> float:
    """WER points that count against a trial: a gain over FP32 is luck and counts as none."""
    return max(points, 0.0)


def hopeless(kl: float, known: Sequence[tuple[float, float]], budget: float) -> str | None:
    """Why a trial need not be compared with FP32; None where it must be.

    It is without hope where a trial with clearly less divergence missed the budget by as much again, and none with
    nearly as much held it.

    Args:
        kl: teacher-forced divergence of the trial.
        known: divergence and lost WER points of trials that were compared.
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
        **{name: attributes.get(name) for name in ("mb", "kl", *_ACCURACY, "step_share", "why")},
    }


def _merit(trial: optuna.trial.FrozenTrial) -> tuple[float, float, int]:
    """Smaller is better: the objective to 0.01 MB or 1 % of FP32's step, then the distance from FP32's text."""
    return (round(trial.value or 0.0, 2), trial.user_attrs["wer_between"], trial.number)
