"""Recordings, folders of them and live audio, to text in several forms; a run that was stopped goes on."""
