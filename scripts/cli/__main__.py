"""``python -m scripts.cli``: the command where the console script is not installed."""

from scripts.cli import main

main()
