"""``python -m adamas`` is the command ``adamas``. May import adamas.lab.commands.main."""

from adamas.lab.commands.main import main

main()
