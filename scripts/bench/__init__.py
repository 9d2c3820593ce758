"""Builds of one checkpoint measured side by side: time, memory and size, each build in a process of its own.

:mod:`.plan` checks everything before anything is written, :mod:`.builds` makes what is missing, :mod:`.worker` measures
one build once, :mod:`.rounds` lets the builds take turns, :mod:`.report` sums up, :mod:`.picture` draws.
"""
