"""The page: stored reports as one HTML file that loads nothing from elsewhere, and the same rows as a table.

:mod:`.sources` reads reports of `verify`, `regenerate` and `sweep`, :mod:`.utterances` finds where builds disagree,
:mod:`.sound` makes their audio playable, :mod:`.charts` draws, :mod:`.render` writes the page, :mod:`.table` the table.
"""

from __future__ import annotations

AUDIO_MB = 10.0
"""10⁶ bytes of the page that audio takes at most."""

UTTERANCES = 1000
"""How many utterances a page shows at most: the most severe."""
