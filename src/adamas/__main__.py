"""``python -m adamas`` is the command ``adamas``. May import adamas.lab.command."""

from adamas.lab.command import main

main()
