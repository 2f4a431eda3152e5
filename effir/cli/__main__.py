"""`python -m effir.cli`, where the `effir` command is not on the path."""

from effir.cli import main

main(prog_name="effir")
