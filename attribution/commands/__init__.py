"""Commands that are too long for `cli.py`; one file, one command. Needs no torch until it is asked."""
