"""A plugin of pytest for `make test-long`, with which tests in Triton's interpreter take a third less time.

The interpreter replaces the functions of Triton's language when it launches a kernel, and again at each call of a function
within the kernel. Here it replaces them once for a launch. Nor does it check sums and products of integers for overflows, as
the compiler does not either. The nightly tests do without this plugin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from triton.runtime import interpreter

_replace, _launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
_replaced = set[int]()  # the globals of functions for which it has been done


def _replace_once(function: Any) -> Any:
    namespace = id(function.__globals__)
    if namespace in _replaced:
        return None
    _replaced.add(namespace)
    return _replace(function)


def _launch_anew(self: Any, *arguments: Any, **options: Any) -> None:
    _replaced.clear()
    _launch(self, *arguments, **options)


interpreter._patch_lang = _replace_once
interpreter.GridExecutor.__call__ = _launch_anew
interpreter.interpreter_builder.options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
