"""The colours of all charts: eight that the colour-blind can tell apart, each with a contrast of at least 3 to white and to
the dark page. From Okabe and Ito, "Color Universal Design" (2008), with the light ones darkened and the dark one lightened.

May import the standard library only.
"""

from __future__ import annotations

COLOURS = ("#2b7bba", "#d1581f", "#0f9270", "#b3659b", "#b07d06", "#8a63d2", "#2596ae", "#7f7f7f")
GREY = len(COLOURS) - 1  # for lines that belong to no run, such as a target
NEUTRAL = COLOURS[GREY]
# For values, from dark to light: the part of matplotlib's viridis (van der Walt and Smith, 2015), which is even also to the
# colour-blind, whose ends differ from both a white and a dark page.
SEQUENTIAL = ("#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151")


def colour(index: int) -> str:
    """Return the colour with this index as ``#rrggbb``; after the last, they repeat."""
    return COLOURS[index % len(COLOURS)]


def repeated(index: int) -> bool:
    """Whether the colour with this index is a repeated one, whose lines are dotted to distinguish them."""
    return (index // len(COLOURS)) % 2 == 1
