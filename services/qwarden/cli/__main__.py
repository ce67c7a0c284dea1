"""`python -m qwarden.cli` is the command `qwarden`."""

from qwarden.cli import main

main()
