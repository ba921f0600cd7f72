"""A convolution's sum over samples of |gradient|^power without the gradients: they never leave the registers.

`rules` imports this where it pays. The gradient of one sample is a product of matrices, its unfolded input (positions,
inputs) and its output gradient (positions, outputs). A tile of it is summed over the positions in registers, its power
is taken there and added to the tile of the total, which lies in the cache. Nothing is unfolded: the number of input `r`
at position `k` is number `bases[r] + offsets[k]` of the padded image.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from torch import Tensor
from torch.nn.functional import pad

from dua_lightning.kernels.compiled import compiled, in_threads

WIDE = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")
"""Whether the processor has vectors of 512 bits."""
VECTOR_BYTES = 64 if WIDE else 32
"""The size of a vector."""
VECTORS = 4 if WIDE else 2
"""Vectors of outputs in a tile. Its sums, a row of outputs and one input have to fit the 32 (or 16) registers."""
ROWS = 6
"""Inputs in a tile."""
TILES = 72
"""Tiles of inputs, with the same outputs, that a thread takes at a time: their total lies in the second-level cache."""
PACKED_BYTES = 16 * 2**20
"""The size of images with their gradients in the order of the tiles."""


@torch.no_grad()
def add_(total: Tensor, a: Tensor, bases: Tensor, offsets: Tensor, d: Tensor, power: int) -> None:
    """Compute `total[o, r] += sum_i |sum_k a[i, bases[r] + offsets[k]] d[i, o, k]|^power`.

    All tensors are contiguous and on the CPU. The bits are the same for any number of threads.

    Args:
        total: `(outputs, inputs)`, float32 or float64; it is changed.
        a: `(n, numbers of an image)`, of the same type: the padded images.
        bases: `(inputs,)` int64.
        offsets: `(positions,)` int64.
        d: `(n, outputs, positions)`, of the same type: the gradients of the outputs.
        power: 1 for the absolute gradient of each sample, 2 for its square.
    """
    outputs, inputs = total.shape
    width = VECTORS * VECTOR_BYTES // d.element_size()
    panels = -(-outputs // width)
    rows = -(-inputs // ROWS) * ROWS
    # The rest of the last tile is computed and not read.
    bases = pad(bases, (0, rows - inputs))
    sums = total.new_zeros(panels, rows, width)
    real = sums.numpy().dtype
    step = ROWS * min(TILES, -(-rows // (ROWS * torch.get_num_threads())))

    def part(place: tuple[int, int]) -> None:
        panel, first = place
        last = min(rows, first + step)
        _add(*addresses, len(a_s), len(offsets), a[0].nbytes, panel, panels, first, last, rows, power, real)

    size = max(1, PACKED_BYTES // (a[0].nbytes + panels * width * d[0, 0].nbytes))
    for a_s, d_s in zip(a.split(size), d.split(size), strict=True):
        packed = pad(d_s, (0, 0, 0, panels * width - outputs)).view(len(d_s), panels, width, -1).mT.contiguous()
        addresses = [tensor.data_ptr() for tensor in (sums, packed, a_s, bases, offsets)]
        in_threads(part, list(product(range(panels), range(0, rows, step))))
    total += sums[:, :inputs].mT.reshape(panels * width, inputs)[:outputs]


def _to_tile(power: int) -> Callable[..., Any]:
    """Generate the code of a tile from the addresses of its sums, output gradients, image, bases and offsets."""

    def typing(_: Any, sums: Any, d: Any, a: Any, bases: Any, offsets: Any, positions: Any, real: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = context.get_value_type(real.dtype)
            size = context.get_abi_sizeof(number)
            vector = ir.VectorType(number, VECTOR_BYTES // size)
            integer = ir.IntType(64)
            sums, d, a, bases, offsets, positions, _ = arguments

            def load(kind: Any, address: Any, offset: Any) -> Any:
                place = builder.inttoptr(builder.add(address, offset), kind.as_pointer())
                return builder.load(place, align=align[kind])

            def intrinsic_of(name: str, count: int) -> Any:
                kind = ir.FunctionType(vector, [vector] * count)
                return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{vector.count}f{8 * size}")

            align = {vector: size, number: size, integer: 8}
            fma, fabs = intrinsic_of("fmuladd", 3), intrinsic_of("fabs", 1)
            splat = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
            nothing = ir.Constant(vector, ir.Undefined)
            tile = [(row, v) for row in range(ROWS) for v in range(VECTORS)]
            images = [
                builder.add(a, builder.mul(load(integer, bases, integer(8 * row)), integer(size)))
                for row in range(ROWS)
            ]
            before = builder.block
            loop = builder.append_basic_block()
            after = builder.append_basic_block()
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(integer)
            gradients = {place: builder.phi(vector) for place in tile}
            k.add_incoming(integer(0), before)
            for gradient in gradients.values():
                gradient.add_incoming(ir.Constant(vector, None), before)
            offset = builder.mul(load(integer, offsets, builder.mul(k, integer(8))), integer(size))
            outputs = builder.add(d, builder.mul(k, integer(VECTORS * VECTOR_BYTES)))
            row_of_d = [load(vector, outputs, integer(v * VECTOR_BYTES)) for v in range(VECTORS)]
            inputs = [
                builder.shuffle_vector(
                    builder.insert_element(nothing, load(number, image, offset), ir.IntType(32)(0)), nothing, splat
                )
                for image in images
            ]
            new = {(row, v): builder.call(fma, [inputs[row], row_of_d[v], gradients[row, v]]) for row, v in tile}
            following = builder.add(k, integer(1))
            k.add_incoming(following, loop)
            for place, gradient in gradients.items():
                gradient.add_incoming(new[place], loop)
            builder.cbranch(builder.icmp_signed("<", following, positions), loop, after)

            builder.position_at_end(after)
            for index, place in enumerate(tile):
                at = builder.inttoptr(builder.add(sums, integer(index * VECTOR_BYTES)), vector.as_pointer())
                held = builder.load(at, align=size)
                if power == 1:
                    held = builder.fadd(held, builder.call(fabs, [new[place]]))
                else:
                    held = builder.call(fma, [new[place], new[place], held])
                builder.store(held, at, align=size)
            return context.get_dummy_value()

        return types.void(sums, d, a, bases, offsets, positions, real), code

    return typing


_add_absolute: Callable[..., Any] = intrinsic(_to_tile(1))
_add_squared: Callable[..., Any] = intrinsic(_to_tile(2))


@compiled
def _add(
    sums: int,
    d: int,
    a: int,
    bases: int,
    offsets: int,
    samples: int,
    positions: int,
    image_bytes: int,
    panel: int,
    panels: int,
    first: int,
    last: int,
    rows: int,
    power: int,
    real: Any,
) -> None:
    """All samples for the inputs `first` to `last` of one panel of outputs."""
    width = VECTORS * VECTOR_BYTES
    for i in range(samples):
        gradient = d + (i * panels + panel) * positions * width
        image = a + i * image_bytes
        for row in range(first, last, ROWS):
            tile = sums + (panel * rows + row) * width
            if power == 1:
                _add_absolute(tile, gradient, image, bases + 8 * row, offsets, positions, real)
            else:
                _add_squared(tile, gradient, image, bases + 8 * row, offsets, positions, real)
