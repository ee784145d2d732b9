"""``python -m adamas`` is the command ``adamas``. May import adamas.cli."""

from adamas.cli import main

main()
