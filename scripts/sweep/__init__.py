"""Many recipes on one FP32 folder: what each costs and what it buys.

:mod:`.plan` checks everything before anything is written, :mod:`.calibration` keeps
calibration and evaluation apart, :mod:`.store` keeps results by the address of their inputs (:mod:`.identity`),
:mod:`.trial` makes, verifies and measures one recipe, :mod:`.rows` does so with all of them and sums up,
:mod:`.report` and :mod:`.picture` show it. :mod:`.layers` ranks groups of weights by what compressing each alone costs
(:mod:`.probe`).
"""

from __future__ import annotations

from scripts.sweep.layers import rank_layers
from scripts.sweep.rows import sweep

__all__ = ["rank_layers", "sweep"]
