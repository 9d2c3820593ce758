"""How a folder is run: the published clients' loop, and a streaming runtime without its flaws."""
