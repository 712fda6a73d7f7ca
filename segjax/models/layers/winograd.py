"""3x3 convolution with 4 products where the definition has 9: Winograd's minimal filtering F(2x2, 3x3), for CPUs.

Winograd 1980; Lavin and Gray, CVPR 2016, arXiv:1509.09308, section 4.1, whose B, G and A these are. The padded image is
cut into tiles d of 4x4 that overlap by 2; each gives 2x2 pixels of the result, A' [(G k G') * (B' d B)] A, where the
product in brackets, of numbers in the paper, is here one of matrices for each of the 16 places in a tile: all tiles by
all channels. Float32 rounds about twice as much as in the direct sum.

The gradient of the image is the same with the kernel turned; that of the kernel is G' [(B' d B)' (A y A')] G, where y
is the result's gradient.
"""

import functools

import jax
import jax.numpy as jnp

from segjax.core.sharding import by_examples, examples_parts, row_parts

B_TRANSPOSED = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
A_TRANSPOSED = ((1, 1, 1, 0), (0, 1, -1, -1))

Pads = tuple[tuple[int, int], tuple[int, int]]

MIN_CHANNELS, MIN_TILES = 32, 16
"""With fewer the products are too small to be worth the transforms around them."""
MAX_BYTES = 2**25
"""Of the tiles, which take four times the room of an image: more would not stay in a processor's cache. In training XLA
keeps each layer's tiles for its kernel's gradient, which is faster than to make them again."""


def suits(image: jax.Array, kernel: jax.Array, pads: Pads) -> bool:
    """Whether `convolve_3x3` takes these and is faster on a CPU than XLA's convolution.

    Args:
      image: [N, H, W, C], of all devices that split the examples.
      kernel: [3, 3, C, F].
      pads: rows and columns of zeros (before, after) the image; the stride is 1.
    """
    count, left = divmod(image.shape[0], examples_parts())
    height, width = _results(image, pads)
    tiles, channels = count * -(-height // 2) * -(-width // 2), kernel.shape[2:]
    return (
        row_parts() == 1
        and left == 0
        and image.dtype == kernel.dtype == jnp.float32
        and all(side in (0, 1) for pad in pads for side in pad)
        and min(channels) >= MIN_CHANNELS
        and min(height, width, tiles - MIN_TILES + 1) >= 1
        and 16 * tiles * max(channels) * 4 <= MAX_BYTES
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_3x3(image: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """float32 [N, H, W, C] and [3, 3, C, F], with rows and columns of zeros added, to [N, H', W', F]."""

    def convolve(kernel, image):
        return _convolve(_pad(image, pads), kernel, _results(image, pads), 0)

    return by_examples(convolve, kernel, image)


def _forward(image, kernel, pads):
    return convolve_3x3(image, kernel, pads), (image, kernel)


def _backward(pads, saved, gradient):
    def gradients(kernel, image, gradient):
        sizes = gradient.shape[1:3]
        turned = tuple((2 - before, 2 - after) for before, after in pads)
        padded = _pad(gradient, turned)
        d_image = _convolve(padded, kernel[::-1, ::-1], image.shape[1:3], 1)
        inner = padded[:, turned[0][0] :, turned[1][0] :]
        d_kernel = _kernel_gradient(_pad(image, pads), inner, sizes)
        return d_image, d_kernel[None]

    image, kernel = saved
    d_image, parts = by_examples(gradients, kernel, image, gradient)
    return d_image, parts.sum(0)  # over the devices that split the examples


convolve_3x3.defvjp(_forward, _backward)


def _results(image, pads):
    return tuple(size + sum(pad) - 2 for size, pad in zip(image.shape[1:3], pads, strict=True))


def _pad(image, pads):
    """With a row and a column more at the end where the tiles need them."""
    widths = [(before, after + size % 2) for size, (before, after) in zip(_results(image, pads), pads, strict=True)]
    return jnp.pad(image, ((0, 0), *widths, (0, 0)))


def _convolve(padded, kernel, sizes, contracted):
    """contracted: the axis of the kernel's matrices that is summed over."""
    tiles = [-(-size // 2) for size in sizes]
    products = _pairwise(
        lambda part, matrix: jax.lax.dot_general(part, matrix, (((1,), (contracted,)), ((), ()))),
        _transform(B_TRANSPOSED, _places(padded, 4, tiles)),
        _transform(G, [list(row) for row in kernel]),
    )
    shape = (-1, *tiles, products[0][0].shape[-1])
    rows = [jnp.stack([pixels.reshape(shape) for pixels in row], 3) for row in _transform(A_TRANSPOSED, products)]
    image = jnp.stack(rows, 2)
    return image.reshape(shape[0], 2 * tiles[0], 2 * tiles[1], shape[-1])[:, : sizes[0], : sizes[1]]


def _kernel_gradient(padded, gradient, sizes):
    tiles = [-(-size // 2) for size in sizes]
    sums = _pairwise(
        lambda part, back: jax.lax.dot_general(part, back, (((0,), (0,)), ((), ()))),
        _transform(B_TRANSPOSED, _places(padded, 4, tiles)),
        _transform(_turn(A_TRANSPOSED), _places(gradient, 2, tiles)),
    )
    return jnp.stack([jnp.stack(row) for row in _transform(_turn(G), sums)])


def _places(image, size, tiles):
    """[size][size] of [all tiles, C]: what stands at each place of the tiles."""
    rows, columns = (2 * count - 1 for count in tiles)
    channels = image.shape[-1]
    return [
        [image[:, i : i + rows : 2, j : j + columns : 2].reshape(-1, channels) for j in range(size)]
        for i in range(size)
    ]


def _transform(matrix, grid):
    """M grid M' of a square of arrays."""
    half = [[_weighted(row, column) for row in matrix] for column in _turn(grid)]
    return [[_weighted(row, column) for row in matrix] for column in _turn(half)]


def _weighted(weights, arrays):
    """Sum without products by 0 and 1."""
    total = None
    for weight, array in zip(weights, arrays, strict=True):
        if weight:
            term = array if abs(weight) == 1 else abs(weight) * array
            total = (term if weight > 0 else -term) if total is None else total + term if weight > 0 else total - term
    return total


def _turn(grid):
    return list(zip(*grid, strict=True))


def _pairwise(function, first, second):
    return [[function(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)]
