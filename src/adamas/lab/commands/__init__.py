"""The command line ``adamas``: one module a command, gathered in ``main``. May import all of adamas.lab."""
