"""``python -m distfa``: the command line."""

from distfa.cli import main

main()
