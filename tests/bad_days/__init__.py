"""Bad days: runs that are killed, interrupted, run out of disk or meet each other, and what is lost by it.

``scripts/bad-days`` prints the figures, ``test_bad_days.py`` tries a few of each (heavy). :mod:`.warm` runs the real
command line in processes forked after the imports, :mod:`.checks` says what counts as lost, :mod:`.days` has the
disasters.
"""
