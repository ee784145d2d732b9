"""TensorFlow as a namespace. Everything here is a graph operation, and writes to no tensor."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

Tensor = Any


class Array:
    """A tensor with the array methods that TensorFlow's tensors lack: shifts, ``view``, ``astype`` and ``reshape``."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; the first size is -1 if only the compiled program knows it."""
        return tuple([-1 if size is None else size for size in self.tensor.shape])

    @property
    def dtype(self) -> Any:
        """The dtype of the tensor."""
        return self.tensor.dtype

    def view(self, dtype: Any) -> Array:
        """The same bits as another dtype."""
        return Array(tf.bitcast(self.tensor, dtype))

    def astype(self, dtype: Any) -> Array:
        """The values in another dtype."""
        return Array(tf.cast(self.tensor, dtype))

    def reshape(self, *shape: Any) -> Array:
        """The values in another shape."""
        return Array(tf.reshape(self.tensor, shape[0] if len(shape) == 1 else shape))

    def __rshift__(self, bits: Any) -> Array:
        return Array(tf.bitwise.right_shift(self.tensor, tf.cast(_bare(bits), self.tensor.dtype)))

    def __lshift__(self, bits: Any) -> Array:
        return Array(tf.bitwise.left_shift(self.tensor, tf.cast(_bare(bits), self.tensor.dtype)))

    def __neg__(self) -> Array:
        return Array(-self.tensor)

    def __invert__(self) -> Array:
        return Array(~self.tensor)

    def __getitem__(self, key: Any) -> Array:
        return Array(self.tensor[key])


def _bare(x: Any) -> Any:
    return x.tensor if isinstance(x, Array) else x


def _lifted(function: Callable[..., Tensor]) -> Callable[..., Array]:
    """The function, lifted from tensors to arrays."""

    def lifted(*args: Any, **kwargs: Any) -> Array:
        return Array(function(*map(_bare, args), **kwargs))

    return lifted


def _alike(*values: Any) -> list[Tensor]:
    """The values as tensors, with Python's numbers in the dtype of the others, or float64 (by default they become float32)."""
    dtype = next((x.dtype for x in values if tf.is_tensor(x)), tf.float64)
    return [x if tf.is_tensor(x) else tf.convert_to_tensor(x, dtype) for x in values]


def _known(x: Tensor, shape: Sequence[int]) -> Sequence[Any]:
    """The shape, in which a first size of -1 is that of x."""
    return [tf.shape(x)[0], *shape[1:]] if -1 in shape else shape


for _name in ("add", "sub", "mul", "truediv", "pow", "and_", "or_", "xor", "lt", "le", "gt", "ge", "eq", "ne"):
    _function = getattr(operator, _name)
    setattr(Array, f"__{_name.strip('_')}__", _lifted(_function))
    setattr(Array, f"__r{_name.strip('_')}__", _lifted(lambda a, b, f=_function: f(b, a)))


class Namespace:
    """TensorFlow over ``Array``. See ``adamas.step.namespaces``.

    Args:
        count: any nonnegative integer that is known only when the program runs; ``separate`` needs one.
    """

    int16, int32, int64, float16, float32 = tf.int16, tf.int32, tf.int64, tf.float16, tf.float32
    abs, sign, sqrt, cos, floor = map(staticmethod, map(_lifted, (tf.abs, tf.sign, tf.sqrt, tf.cos, tf.floor)))
    exp, log, log1p, round = map(staticmethod, map(_lifted, (tf.exp, tf.math.log, tf.math.log1p, tf.round)))
    zeros_like, ones_like, isfinite = map(staticmethod, map(_lifted, (tf.zeros_like, tf.ones_like, tf.math.is_finite)))
    any, amax, sum = map(staticmethod, map(_lifted, (tf.reduce_any, tf.reduce_max, tf.reduce_sum)))
    broadcast_to = staticmethod(_lifted(lambda x, shape: tf.broadcast_to(x, _known(x, shape))))
    where = staticmethod(_lifted(lambda condition, yes, no: tf.where(condition, *_alike(yes, no))))
    minimum = staticmethod(_lifted(lambda x, y: tf.minimum(*_alike(x, y))))
    maximum = staticmethod(_lifted(lambda x, y: tf.maximum(*_alike(x, y))))
    full_like = staticmethod(_lifted(lambda x, value: tf.fill(tf.shape(x), tf.cast(value, x.dtype))))

    def __init__(self, count: Any = 0) -> None:
        self._count = count

    @staticmethod
    def concatenate(parts: Sequence[Array], axis: int) -> Array:
        """The concatenated arrays."""
        return Array(tf.concat([part.tensor for part in parts], axis))

    def separate(self, product: Array) -> Array:
        """The float32 product, kept from being fused with a sum by XLA: its bits are combined by "or" with a zero that the
        compiler cannot prove to be zero."""
        zero = tf.cast(tf.minimum(_bare(self._count), 0), tf.int32)
        return Array(tf.bitcast(tf.bitwise.bitwise_or(tf.bitcast(product.tensor, tf.int32), zero), tf.float32))

    @staticmethod
    def computing() -> AbstractContextManager[None]:
        """Nothing to do here."""
        return nullcontext()

    @staticmethod
    def double(x: Any) -> Array:
        """A number in float64."""
        return Array(tf.cast(_bare(x), tf.float64))

    @staticmethod
    def narrowed(x: Any, dtype: str) -> Any:
        """A number that was computed in float64, in the dtype in which it is used; Python's numbers are unchanged."""
        return x.astype(dtype) if isinstance(x, Array) else x

    @staticmethod
    def cast(x: Array, dtype: str) -> Array:
        """The array in another dtype."""
        return x.astype(dtype)

    @staticmethod
    def dtype_name(x: Array) -> str:
        """The name of the array's dtype."""
        return str(x.dtype.name)

    @staticmethod
    def bits(x: Array) -> Array:
        """The bits of 16-bit numbers, as integers from 0 to 65535."""
        return x.view(tf.uint16).astype(tf.int64)

    @staticmethod
    def from_bits(bits: Array, dtype: str) -> Array:
        """The numbers with these bits."""
        return bits.astype(tf.uint16).view(tf.as_dtype(dtype))

    @staticmethod
    def index(shape: Sequence[int], first: int) -> Array:
        """Consecutive integers from ``first`` on."""
        return Array(tf.reshape(tf.range(first, first + math.prod(shape), dtype=tf.int64), shape))

    @staticmethod
    def counter(count: Array) -> Array:
        """A count in the type that the formats take."""
        return count.astype(tf.int64)
