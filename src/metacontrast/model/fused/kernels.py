"""Loops of the fused normalization block of `block`, compiled for the CPU: every image is read once per pass.

Arrays are contiguous in the order (image, height, width, channel), channels last, so that the inner loop over channels
runs on vector units. They hold all images or some in a row, of which `start` is the first one's number. Sums run
over a row in the arrays' own precision and over rows in that of `sums`. bfloat16 arrays come as their bits, `uint16`.

Letters as in `block`; `argmax` says which place of its window an output was taken from. Results go into the last
arguments; sums are added to what stands there.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.extending import intrinsic
from numpy.typing import NDArray

_generated: Any = intrinsic
"""`numba.extending.intrinsic`, whose result takes other arguments than the function that it is made from."""

_FAST = {"reassoc", "contract", "nsz"}


class BlockLayout(NamedTuple):
    """What is fixed about a block.

    Args:
        size: images of a task; tasks stand one after the other.
        reference: leading images of each task that set its statistics.
        before, after: slope below 0 of the activation before and after the normalization; 1 is no activation. Numbers
            of the statistics' own type, because a wider one would widen every product.
        window: 2 for 2×2 max-pooling, 1 for none.
    """

    size: int
    reference: int
    before: float | np.floating[Any]
    after: float | np.floating[Any]
    window: int


class NormArrays(NamedTuple):
    """γ, β, μ and r per task and channel."""

    gamma: NDArray[Any]
    beta: NDArray[Any]
    mean: NDArray[Any]
    scale: NDArray[Any]


@_generated
def _value(typing_context: Any, stored: Any) -> Any:
    """The number that an array element stands for: itself, or the bfloat16 with these bits as float32."""
    if stored != types.uint16:
        return stored(stored), lambda context, builder, signature, arguments: arguments[0]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(stored), generate


@_generated
def _stored(typing_context: Any, number: Any, like: Any) -> Any:
    """The array element that stands for `number` in an array of the elements `like`; bfloat16 rounds to even."""
    if like != types.uint16:
        return like(number, like), lambda context, builder, signature, arguments: context.cast(
            builder, arguments[0], number, like
        )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(context.cast(builder, arguments[0], number, types.float32), word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(builder.add(bits, odd), ir.Constant(word, 0x7FFF))
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return types.uint16(number, like), generate


class _Distinct(CompilerBase):
    """A compiler that trusts that no two arguments overlap, without which loops over many arrays are not vectorized."""

    def define_pipelines(self):
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call for the types of its arguments; kept on disk, and free of the interpreter's lock."""
    return njit(pipeline_class=_Distinct, nogil=True, cache=True, fastmath=_FAST, error_model="numpy")(
        inspect.unwrap(function)
    )


@_compiled
def _bent(value, slope):
    """max(value, slope · value): leaky ReLU, the identity at slope 1."""
    return value if value > 0 else slope * value


@_compiled
def _slope(value, slope):
    """The derivative of `_bent`."""
    return np.float32(1) if value > 0 else slope


@_compiled
def _window(h, w, pools, small):
    """Row and column of the output that a place of y belongs to, and its place in that window; 255 is none.

    `pools` is 1 for windows of 2, else 0: shifting by it spares a division.
    """
    i, j, place = h >> pools, w >> pools, ((h & pools) << 1) | (w & pools)
    if i >= small.shape[1] or j >= small.shape[2]:
        i, j, place = 0, 0, 255
    return i, j, np.uint8(place)


@_compiled
def _hit(argmax, place):
    """1 where the output was taken from this place, else 0."""
    return np.float32(1) if argmax == place else np.float32(0)


@_compiled
def summarize(y, start, layout, gamma, pivot, sums, picked, argmax):
    """Σ (z − pivot) and Σ (z − pivot)² of the reference images; with a window of 2 also what max-pooling picks of y.

    The pivot is the task's first number: near enough to the mean for the difference of squares to stay exact.
    """
    images, height, _, channels = y.shape
    row, square = np.empty(channels, pivot.dtype), np.empty(channels, pivot.dtype)
    for n in range(images):
        g = (start + n) // layout.size
        if start + n == g * layout.size:
            for c in range(channels):
                pivot[g, c] = _bent(_value(y[n, 0, 0, c]), layout.before)
        for h in range(height):
            if start + n < g * layout.size + layout.reference:
                _add_row(y[n, h], layout.before, pivot[g], row, square)
                for c in range(channels):
                    sums[0, g, c] += row[c]
                    sums[1, g, c] += square[c]
            if layout.window == 2 and h % 2 == 1:
                _pick(y[n, h - 1], y[n, h], gamma[g], picked[n, h // 2], argmax[n, h // 2])


@_compiled
def _add_row(y, before, pivot, row, square):
    """Sums of z − pivot and of its square along one row of an image."""
    row[:] = 0
    square[:] = 0
    for w in range(y.shape[0]):
        for c in range(y.shape[1]):
            z = _bent(_value(y[w, c]), before) - pivot[c]
            row[c] += z
            square[c] += z * z


@_compiled
def _pick(upper, lower, gamma, picked, argmax):
    """The largest y of each 2×2 window where γ > 0, the smallest where γ < 0: there γ x̂ is largest. First of equals."""
    for w in range(picked.shape[0]):
        for c in range(picked.shape[1]):
            sign = np.float32(1) if gamma[c] > 0 else (np.float32(-1) if gamma[c] < 0 else np.float32(0))
            best, place = upper[2 * w, c], np.uint8(0)
            if sign * _value(upper[2 * w + 1, c]) > sign * _value(best):
                best, place = upper[2 * w + 1, c], np.uint8(1)
            if sign * _value(lower[2 * w, c]) > sign * _value(best):
                best, place = lower[2 * w, c], np.uint8(2)
            if sign * _value(lower[2 * w + 1, c]) > sign * _value(best):
                best, place = lower[2 * w + 1, c], np.uint8(3)
            picked[w, c] = best
            argmax[w, c] = place


@_compiled
def normalize(picked, start, layout, norm, out):
    """leaky_relu(γ x̂ + β) of the picked elements."""
    images, height, width, channels = picked.shape
    for n in range(images):
        g = (start + n) // layout.size
        for h in range(height):
            for w in range(width):
                for c in range(channels):
                    x = (_bent(_value(picked[n, h, w, c]), layout.before) - norm.mean[g, c]) * norm.scale[g, c]
                    v = norm.gamma[g, c] * x + norm.beta[g, c]
                    out[n, h, w, c] = _stored(_bent(v, layout.after), out[n, h, w, c])


@_compiled
def picked_sums(cotangent, picked, start, layout, norm, sums):
    """A₁ = Σ G and A₂ = Σ G x̂ over each task's picked elements."""
    images, height, width, channels = picked.shape
    row = np.empty((2, channels), norm.mean.dtype)
    for n in range(images):
        g = (start + n) // layout.size
        for h in range(height):
            row[:] = 0
            for w in range(width):
                for c in range(channels):
                    x = (_bent(_value(picked[n, h, w, c]), layout.before) - norm.mean[g, c]) * norm.scale[g, c]
                    v = norm.gamma[g, c] * x + norm.beta[g, c]
                    moved = _value(cotangent[n, h, w, c]) * _slope(v, layout.after)
                    row[0, c] += moved
                    row[1, c] += moved * x
            for c in range(channels):
                sums[0, g, c] += row[0, c]
                sums[1, g, c] += row[1, c]


@_compiled
def input_gradient(cotangent, y, argmax, start, layout, norm, sums, out):
    """∂y; `sums` are A₁ / M and A₂ / M."""
    images, height, width, channels = y.shape
    pools = layout.window - 1
    for n in range(images):
        g = (start + n) // layout.size
        counted = np.float32(1 if start + n < g * layout.size + layout.reference else 0)
        for h in range(height):
            for w in range(width):
                i, j, place = _window(h, w, pools, cotangent)
                for c in range(channels):
                    value = _value(y[n, h, w, c])
                    x = (_bent(value, layout.before) - norm.mean[g, c]) * norm.scale[g, c]
                    v = norm.gamma[g, c] * x + norm.beta[g, c]
                    moved = (
                        _hit(argmax[n * pools, i * pools, j * pools, c], place)
                        * _value(cotangent[n, i, j, c])
                        * _slope(v, layout.after)
                    )
                    moved -= counted * (sums[0, g, c] + x * sums[1, g, c])
                    moved *= norm.gamma[g, c] * norm.scale[g, c] * _slope(value, layout.before)
                    out[n, h, w, c] = _stored(moved, out[n, h, w, c])


@_compiled
def cotangent_sums(u, cotangent, y, argmax, start, layout, norm, sums):
    """B₁ = Σ U and B₂ = Σ U x̂ over each task's reference images, and C = Σ U G over all of its images."""
    images, height, width, channels = y.shape
    pools = layout.window - 1
    row = np.empty((3, channels), norm.mean.dtype)
    for n in range(images):
        g = (start + n) // layout.size
        counted = np.float32(1 if start + n < g * layout.size + layout.reference else 0)
        for h in range(height):
            row[:] = 0
            for w in range(width):
                i, j, place = _window(h, w, pools, cotangent)
                for c in range(channels):
                    value = _value(y[n, h, w, c])
                    x = (_bent(value, layout.before) - norm.mean[g, c]) * norm.scale[g, c]
                    turned = _value(u[n, h, w, c]) * _slope(value, layout.before)
                    row[0, c] += turned * counted
                    row[1, c] += turned * x * counted
                    v = norm.gamma[g, c] * x + norm.beta[g, c]
                    moved = (
                        _hit(argmax[n * pools, i * pools, j * pools, c], place)
                        * _value(cotangent[n, i, j, c])
                        * _slope(v, layout.after)
                    )
                    row[2, c] += turned * moved
            for k in range(3):
                for c in range(channels):
                    sums[k, g, c] += row[k, c]


@_compiled
def second_gradients(u, cotangent, y, argmax, start, layout, norm, at_cotangent, at_y, out_cotangent, out):
    """The gradients at the cotangent and at y.

    With factors per task and channel: `at_cotangent` of U, 1 and x̂, and `at_y` of U, 1, x̂ and G.
    """
    images, height, width, channels = y.shape
    pools = layout.window - 1
    for n in range(images):
        g = (start + n) // layout.size
        counted = np.float32(1 if start + n < g * layout.size + layout.reference else 0)
        for h in range(height):
            for w in range(width):
                i, j, place = _window(h, w, pools, cotangent)
                for c in range(channels):
                    value = _value(y[n, h, w, c])
                    x = (_bent(value, layout.before) - norm.mean[g, c]) * norm.scale[g, c]
                    turned = _value(u[n, h, w, c]) * _slope(value, layout.before)
                    leaky_relu = _hit(argmax[n * pools, i * pools, j * pools, c], place) * _slope(
                        norm.gamma[g, c] * x + norm.beta[g, c], layout.after
                    )
                    moved = counted * (at_y[0, g, c] * turned + at_y[1, g, c] + at_y[2, g, c] * x)
                    moved += at_y[3, g, c] * _value(cotangent[n, i, j, c]) * leaky_relu
                    seen = at_cotangent[0, g, c] * turned + at_cotangent[1, g, c] + at_cotangent[2, g, c] * x
                    seen = seen * leaky_relu + _value(out_cotangent[n, i, j, c])
                    out_cotangent[n, i, j, c] = _stored(seen, out_cotangent[n, i, j, c])
                    out[n, h, w, c] = _stored(moved * _slope(value, layout.before), out[n, h, w, c])
