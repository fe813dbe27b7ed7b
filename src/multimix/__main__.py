"""`python -m multimix`."""

from .cli import main

main()
