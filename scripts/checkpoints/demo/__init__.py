"""How the embedded demo checkpoint and its evaluation set are made.

Synthetic speech in five languages (:mod:`.corpus`, :mod:`.speech`) trains a narrow model of the real
NeMo class (:mod:`.model`, :mod:`.loss`, :mod:`.train`); :mod:`.evaluation_set` writes the held-out set and
the calibration set.
"""
