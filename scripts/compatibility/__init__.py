"""Folders under several versions of OpenVINO: do they load, and do they give the same tokens?

``python -m scripts.compatibility DIR… --output DIR`` makes a virtual environment for each version, runs the clients'
loop in it (:mod:`.worker`), compares the tokens with those of the newest version (:mod:`.run`), and writes
``compatibility.json`` and a table (:mod:`.table`), which ``card --report`` reads too.
"""
