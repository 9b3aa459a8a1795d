"""`python -m dbdurable` is the command `dbdurable`."""

from dbdurable.cli import main

main()
