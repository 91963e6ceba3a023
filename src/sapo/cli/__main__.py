"""`python -m sapo.cli` is the command `sapo`."""

from sapo.cli import main

main()
