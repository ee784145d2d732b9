"""What people run: tasks, training runs, comparisons, reports, charts and the command ``adamas``.

No other part of Adamas imports it.
"""
