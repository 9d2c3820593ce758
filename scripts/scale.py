"""What a table of every locale, latency tier and recipe needs: ``python -m scripts.scale --price 0.04``.

Computed from what was measured and is stored in ``docs/scale.json``; ``python -m scripts.docs`` writes the table of
``docs/scale.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, Field

from export.digest import ROOT
from export.json_files import read_json_as
from scripts.cli import end_with_status

MEASURED = ROOT / "docs" / "scale.json"


class Speed(BaseModel, allow_inf_nan=False):
    """How fast a folder of a recipe was, in chunks of 1,120 ms."""

    times_real_time: float = Field(gt=0)  # seconds of audio per second, on all of `cores`
    measured_as: str


class Scale(BaseModel, allow_inf_nan=False):
    """What was measured, and what a reader may replace."""

    locales: int
    hours_of_audio: float  # of a locale
    cores: int  # that the speeds were measured on
    example_price: float  # of a core-hour; the reader's own counts
    work_of_tiers: Mapping[str, float]  # computing per second of audio, as times that of 1120ms
    recipes: Mapping[str, Speed]
    reference: Speed  # FP32, which every tier needs once

    def core_hours(self, speed: Speed, tier: str) -> float:
        """Of one folder in one tier, all locales."""
        audio = self.locales * self.hours_of_audio
        return audio * self.work_of_tiers[tier] * self.cores / speed.times_real_time

    def table(self) -> str:
        """Core-hours by recipe and tier, their sums, and the price, in Markdown."""
        tiers, price = list(self.work_of_tiers), self.example_price
        rows = {"fp32, the reference": self.reference} | {f"`{name}`": each for name, each in self.recipes.items()}
        lines = [
            f"| core-hours | {' | '.join(tiers)} | all tiers | × real time | measured as |",
            f"| --- |{' ---: |' * (len(tiers) + 2)} --- |",
        ]
        sums = dict.fromkeys(tiers, 0.0)
        for name, speed in rows.items():
            hours = {tier: self.core_hours(speed, tier) for tier in tiers}
            sums = {tier: sums[tier] + hours[tier] for tier in tiers}
            cells = " | ".join(f"{each:,.0f}" for each in [*hours.values(), sum(hours.values())])
            lines.append(f"| {name} | {cells} | {speed.times_real_time:g} | {speed.measured_as} |")
        cells = " | ".join(f"{each:,.0f}" for each in [*sums.values(), sum(sums.values())])
        lines += [f"| together | {cells} | | |"]
        cells = " | ".join(f"{each * price:,.0f}" for each in [*sums.values(), sum(sums.values())])
        return "\n".join([*lines, f"| at {price:g} a core-hour | {cells} | | |"])


def load(path: Path = MEASURED) -> Scale:
    """What is stored.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    return read_json_as(Scale, path, "correct it there")


def main() -> None:
    """Print the table with a reader's own numbers."""
    stored = load()
    parser = argparse.ArgumentParser(prog="python -m scripts.scale")
    parser.add_argument("--price", type=float, default=stored.example_price, help="of a core-hour, in any currency")
    parser.add_argument("--locales", type=int, default=stored.locales)
    parser.add_argument("--hours", type=float, default=stored.hours_of_audio, help="of audio in a locale's test set")
    given = parser.parse_args()
    changes = {"example_price": given.price, "locales": given.locales, "hours_of_audio": given.hours}
    print(stored.model_copy(update=changes).table())  # noqa: T201


if __name__ == "__main__":
    end_with_status(main)
