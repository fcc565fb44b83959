"""`python -m flashlight` is the `flashlight` command."""

from flashlight.cli import main

main()
