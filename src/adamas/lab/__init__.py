"""Everything people run: tasks, training runs, comparisons, reports, charts and the command ``adamas``.

Nothing outside this package imports it.
"""
