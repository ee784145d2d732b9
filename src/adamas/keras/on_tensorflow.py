"""What the adapter asks of TensorFlow. Everything here is a graph's operation, and writes into no tensor."""

from __future__ import annotations

import contextlib
import operator
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

Array = Any


def _alike(*values: Any) -> list[Array]:
    """Python's numbers in the dtype of the tensors beside them, float64 where there are none: they would come as float32."""
    dtype = next((x.dtype for x in values if tf.is_tensor(x)), tf.float64)
    return [x if tf.is_tensor(x) else tf.convert_to_tensor(x, dtype) for x in values]


class _Namespace:
    """The functions of an array namespace that the rule and the schedules use."""

    abs, sign, sqrt, cos, floor = tf.abs, tf.sign, tf.sqrt, tf.cos, tf.floor
    exp, log, log1p = tf.exp, tf.math.log, tf.math.log1p

    @staticmethod
    def where(condition: Array, yes: Any, no: Any) -> Array:
        return tf.where(condition, *_alike(yes, no))

    @staticmethod
    def minimum(x: Any, y: Any) -> Array:
        return tf.minimum(*_alike(x, y))

    @staticmethod
    def maximum(x: Any, y: Any) -> Array:
        return tf.maximum(*_alike(x, y))


xp = _Namespace


def read(variable: Any) -> Array:
    """The value of a variable of Keras, or of its own variable."""
    return tf.convert_to_tensor(variable if isinstance(variable, tf.Variable) else getattr(variable, "value", variable))


def exactly() -> AbstractContextManager[Any]:
    """A context in which float64 is float64: here, always."""
    return contextlib.nullcontext()


def eagerly() -> AbstractContextManager[Any]:
    """A context in which variables are written at once, also where a graph is being made."""
    return tf.init_scope()  # type: ignore[no-any-return]  # TensorFlow is untyped


def double(x: Any) -> Array:
    """A number in float64."""
    return tf.cast(x, tf.float64)


def narrowed(x: Any, dtype: str) -> Any:
    """A number that was computed in float64 as it is used; Python's stay as they are."""
    return tf.cast(x, dtype) if tf.is_tensor(x) else x


def cast(x: Array, dtype: str) -> Array:
    """The tensor in another dtype."""
    return tf.cast(x, dtype)


def dense(gradient: Any) -> Array:
    """The gradient as one tensor, where it may come as indices and values."""
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


# ---- for ``adamas.rule.formats``


class Opened:
    """A tensor with what ``adamas.rule.formats`` needs and TensorFlow's tensors lack: shifts, ``view`` and ``astype``."""

    def __init__(self, tensor: Array) -> None:
        self.tensor = tensor

    def view(self, dtype: Any) -> Opened:
        """The same bits as another dtype."""
        return Opened(tf.bitcast(self.tensor, dtype))

    def astype(self, dtype: Any) -> Opened:
        """The values in another dtype."""
        return Opened(tf.cast(self.tensor, dtype))

    def __rshift__(self, bits: int) -> Opened:
        return Opened(tf.bitwise.right_shift(self.tensor, tf.cast(bits, self.tensor.dtype)))

    def __lshift__(self, bits: int) -> Opened:
        return Opened(tf.bitwise.left_shift(self.tensor, tf.cast(bits, self.tensor.dtype)))

    def __neg__(self) -> Opened:
        return Opened(-self.tensor)

    def __invert__(self) -> Opened:
        return Opened(~self.tensor)

    def __getitem__(self, key: Any) -> Opened:
        return Opened(self.tensor[key])


def _bare(x: Any) -> Any:
    return x.tensor if isinstance(x, Opened) else x


def _lift(function: Any) -> Any:
    """The function over opened tensors."""

    def lifted(*args: Any, **kwargs: Any) -> Opened:
        return Opened(function(*map(_bare, args), **kwargs))

    return lifted


for _name in ("add", "sub", "mul", "truediv", "and_", "or_", "xor", "lt", "le", "gt", "ge", "eq", "ne"):
    _function = getattr(operator, _name)
    setattr(Opened, f"__{_name.strip('_')}__", _lift(_function))
    setattr(Opened, f"__r{_name.strip('_')}__", _lift(lambda a, b, f=_function: f(b, a)))


class Codes:
    """TensorFlow as ``adamas.rule.formats`` takes it. ``count`` is any integer that is never negative."""

    int16, int32, int64, float16, float32 = tf.int16, tf.int32, tf.int64, tf.float16, tf.float32
    abs, round, isfinite, where = map(staticmethod, map(_lift, (tf.abs, tf.round, tf.math.is_finite, tf.where)))
    zeros_like, ones_like = staticmethod(_lift(tf.zeros_like)), staticmethod(_lift(tf.ones_like))
    any, amax = staticmethod(_lift(tf.reduce_any)), staticmethod(_lift(tf.reduce_max))

    def __init__(self, count: Array) -> None:
        self._zero = tf.cast(tf.minimum(count, 0), tf.int32)

    @staticmethod
    def full_like(x: Opened, value: float) -> Opened:
        """One value everywhere."""
        return Opened(tf.fill(tf.shape(x.tensor), tf.cast(value, x.tensor.dtype)))

    def separate(self, product: Opened) -> Opened:
        """A float32 product that XLA will not join with a sum: its bits go through an "or" with what only we know is 0."""
        opaque: Opened = product.view(tf.int32) | self._zero
        return opaque.view(tf.float32)


def opened(x: Array) -> Any:
    """The tensor as ``adamas.rule.formats`` takes it."""
    return Opened(x)


def bare(x: Any) -> Array:
    """What ``adamas.rule.formats`` returned, as a tensor."""
    return x.tensor


def dtype_of(x: Array) -> str:
    """The name of the tensor's dtype."""
    return str(x.dtype.name)


def closed(x: Any, dtype: str) -> Array:
    """What ``adamas.rule.formats`` returned, as a tensor of this dtype."""
    return tf.cast(x.tensor, dtype)


def codes(x: Array) -> Any:
    """The bits of a tensor of 16-bit numbers, as integers from 0 to 65535."""
    return Opened(tf.cast(tf.bitcast(x, tf.uint16), tf.int64))


def from_codes(x: Any, dtype: str) -> Array:
    """The numbers that ``codes`` gives these of."""
    return tf.bitcast(tf.cast(x.tensor, tf.uint16), tf.as_dtype(dtype))


def counted(length: int) -> Any:
    """0, 1, 2, … as ``adamas.rule.formats`` takes them."""
    return Opened(tf.range(length, dtype=tf.int64))


def counter(x: Any) -> Any:
    """A count as ``adamas.rule.formats`` takes it."""
    return Opened(tf.cast(x, tf.int64))


def reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    """The tensor in another shape."""
    return Opened(tf.reshape(x.tensor, shape)) if isinstance(x, Opened) else tf.reshape(x, shape)


def padded(x: Any, missing: int) -> Any:
    """The matrix with zeros behind each row."""
    return Opened(tf.pad(x.tensor, ((0, 0), (0, missing))))
