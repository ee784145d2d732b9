"""``adamas/scipy/methods.py``: the members as methods of ``scipy.optimize.minimize``."""

from __future__ import annotations

from collections.abc import Sequence

from adamas.rule.declaration import Member
from adamas.rule.shared import defaults

from .text import HEADER, exported, in_order

PATH = "src/adamas/scipy/methods.py"
_OF_DECAY = "Its weight decay pulls x to 0, so it does not converge to the minimum of the function."

_TOP = '''"""The members of the family as methods of ``scipy.optimize.minimize``."""

from __future__ import annotations

from ..rule.members import MEMBERS
from .method import Method

'''


def write(members: Sequence[Member]) -> str:
    """The whole module."""
    methods = []
    for member in in_order(members, "scipy"):
        methods.append((member.lower_name, member, member.title, ""))
        for preset in member.presets:
            if "scipy" in preset.only:
                fixed = ", ".join(f'"{name}": {value!r}' for name, value in preset.hyper.items())
                methods.append((preset.name, member, preset.title, f", {{{fixed}}}"))
    names = sorted(["METHODS", *(name for name, *_ in methods)])
    text = HEADER + _TOP + exported(names)
    for name, member, title, fixed in methods:
        told = f"{title}\n\n{_OF_DECAY}\n" if defaults(member, "scipy")["weight_decay"] else title
        text += f'\n{name} = Method("{name}", MEMBERS["{member.name}"]{fixed})\n"""{told}"""\n'
    listed = "".join(f"        {name},\n" for name, *_ in methods)
    return text + f"\nMETHODS = {{\n    method.name: method\n    for method in (\n{listed}    )\n}}\n"
