"""Makes one HTML page of runs and comparisons that opens offline: ``adamas report``.

May import adamas.lab.charts, adamas.lab.compare, adamas.lab.tasks, ``records`` and ``folder`` of adamas.lab.train, and the
standard library. matplotlib, Plotly, Jinja2 and SciPy are imported only when a page or a picture is made, so that ``--help``
does not wait for them.
"""
