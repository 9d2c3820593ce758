"""The page: stored reports as one HTML file that loads nothing from elsewhere, and the same rows as a table.

:mod:`.sources` reads reports of `verify`, `regenerate` and `sweep`, :mod:`.utterances` finds where builds disagree,
:mod:`.sound` makes their audio playable, :mod:`.charts` draws, :mod:`.render` writes the page, :mod:`.table` the table.
"""

from __future__ import annotations
