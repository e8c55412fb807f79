"""`python -m attribution` is the command line."""

from attribution.cli import main

main()
