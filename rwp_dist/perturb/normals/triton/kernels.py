"""Triton kernels: one launch perturbs all weights, one adds up the energy of many gradients.

A program takes one filter row, or a piece of a long one, which it finds by two tables, so that
parameters may be any mix of shapes anywhere in memory:

- ``rows``, int32 ``[programs, 3]``: number of a parameter, row within it, and piece of the row;
  pieces of a row follow each other, and long rows come first;
- ``places``, int64 ``[parameters, 6]``: address of its first element, elements of a row, where its
  filters begin in the table of energies, 1 if it has one dimension, and so one energy for each
  element, what its noise is keyed by, and the address that it is written to.

A row is read twice, for its norm and to be perturbed; the second time it comes from the cache. One
program would be long at work on a long row (a position embedding is a single one), so a launch
before adds up its pieces. Sums are taken in a fixed order and without atomics, so a launch is
repeatable bit for bit. Which noise an element gets is defined, and repeated in NumPy, in
``philox.py``.

This file needs Triton. With TRITON_INTERPRET=1 in the environment it runs on the CPU, slowly.
"""
# mypy: ignore-errors

import triton
import triton.language as tl

COLUMNS = tl.constexpr(6)
LANES = tl.constexpr(128)
BLOCK = tl.constexpr(512)
PIECE = tl.constexpr(8192)
HALF_PI = tl.constexpr(1.5707963267948966)
STEP = tl.constexpr(2.0**-32)


@triton.jit
def _find(rows, places, dtype: tl.constexpr):
    """Parameter and row of this program, pointer to the row, its length, and where energies are."""
    program = tl.program_id(0)
    parameter = tl.load(rows + 3 * program)
    row = tl.load(rows + 3 * program + 1)
    place = places + parameter * COLUMNS
    length = tl.load(place + 1)
    pointer = tl.load(place).to(tl.pointer_type(dtype)) + row * length
    energy = tl.load(place + 2) + row
    return parameter, row, pointer, length.to(tl.int32), energy, tl.load(place + 3).to(tl.int32)


@triton.jit
def _piece(rows, length):
    """Number of this program's piece, its first column, and the one behind its last."""
    piece = tl.load(rows + 3 * tl.program_id(0) + 2)
    return piece, piece * PIECE, tl.minimum((piece + 1) * PIECE, length)


@triton.jit
def _sum_of_squares(pointer, begin, end):
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(pointer + column, mask=column < end, other=0.0).to(tl.float32)
        sums += x * x
    return tl.sum(sums, 0)


@triton.jit
def _sum_of_row(pointer, length, piece, sums, split: tl.constexpr):
    """Sum of squares of a whole row; of a long one, from the sums of its pieces."""
    total = 0.0
    if split and length > PIECE:
        first = sums + tl.program_id(0) - piece
        for number in range(0, tl.cdiv(length, PIECE)):
            total += tl.load(first + number)
    else:
        total += _sum_of_squares(pointer, 0, length)
    return total


@triton.jit
def sum_pieces(rows, places, sums, dtype: tl.constexpr):
    """``sums[program] = |x|^2`` of each piece of the long rows."""
    _, _, pointer, length, _, _ = _find(rows, places, dtype)
    _, begin, end = _piece(rows, length)
    tl.store(sums + tl.program_id(0), _sum_of_squares(pointer, begin, end))


@triton.jit
def _normal_pair(first, second):
    """Box and Muller's transform of two random words.

    The angle is some quarter turns and at most an eighth, for which Cephes' polynomials of sine and
    cosine do; the general functions would take longer than all the rest of the kernel.
    """
    u = first.to(tl.float32) * STEP + 0.5 * STEP
    x = (second << 2).to(tl.int32, bitcast=True).to(tl.float32) * (HALF_PI * STEP)
    z = x * x
    sine = ((z * -1.9515295891e-4 + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x
    cosine = ((z * 2.443315711809948e-5 - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z
    cosine = cosine - 0.5 * z + 1.0
    turns = second >> 30
    odd = (turns & 1) != 0
    radius = tl.sqrt(-2.0 * tl.log(u))
    a = tl.where(odd, sine, cosine) * tl.where((turns == 1) | (turns == 2), -radius, radius)
    b = tl.where(odd, cosine, sine) * tl.where(turns >= 2, -radius, radius)
    return a, b


@triton.jit
def _divisor(energy, eta, power):
    return tl.exp2(power * tl.log2(1.0 + eta * energy))


@triton.jit
def _move(
    pointer, target, lane, left, group: tl.constexpr, noise, energies, by_element, eta, power,
    by_size: tl.constexpr, adaptive: tl.constexpr,
):  # fmt: skip
    """Add ``noise`` to one of the groups of neighbouring elements that ``left`` are left of."""
    at = group * LANES + lane
    inside = at < left
    weight = tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)
    if by_size:
        noise *= tl.abs(weight)
    if adaptive:  # noqa: SIM102  (known when it is compiled, so that nothing is left of it)
        if by_element != 0:
            energy = tl.load(energies + at, mask=inside, other=0.0)
            noise = noise / _divisor(energy, eta, power)
    tl.store(target + at, (weight + noise).to(target.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["key_low", "key_high"])
def perturb_rows(
    rows, places, sums, sizes, energies, key_low, key_high, sigma, eta, power,
    scale: tl.constexpr, adaptive: tl.constexpr, split: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Write every row with noise added, in place or elsewhere.

    Args:
        rows, places: see above.
        sums: what ``sum_pieces`` wrote, if there are long rows.
        sizes: root mean square of each parameter, ``[parameters]``, for ``scale: tensor``.
        energies: F of each filter, if adaptive.
        key_low, key_high: halves of the noise's key, as signed integers.
        sigma: noise level.
        eta, power: the noise is divided by ``(1 + eta F)^power``, if adaptive.
        scale: ``filter``, ``rms``, ``tensor`` or ``element``.
        adaptive: whether there are energies.
        split: whether there are sums.
        dtype: of the weights.
    """
    parameter, row, pointer, length, energy, by_element = _find(rows, places, dtype)
    piece, begin, end = _piece(rows, length)
    place = places + parameter * COLUMNS
    index = tl.load(place + 4)
    target = tl.load(place + 5).to(tl.pointer_type(dtype)) + row.to(tl.int64) * length
    by_size: tl.constexpr = scale == "element"
    if scale == "filter":
        std = sigma * tl.sqrt(_sum_of_row(pointer, length, piece, sums, split))
    elif scale == "rms":
        std = sigma * tl.sqrt(_sum_of_row(pointer, length, piece, sums, split) / length)
    elif scale == "tensor":
        std = sigma * tl.load(sizes + parameter)
    else:
        std = sigma * 1.0
    if adaptive:  # noqa: SIM102
        if by_element == 0:
            std = std / _divisor(tl.load(energies + energy), eta, power)
    lane = tl.arange(0, LANES)
    zero = tl.zeros([LANES], tl.uint32)
    k0 = key_low.to(tl.uint32, bitcast=True)
    k1 = key_high.to(tl.uint32, bitcast=True)
    c1, c2 = zero + row.to(tl.uint32), zero + index.to(tl.uint32)
    # Pointers move and the rest of the row shrinks, so that the loop computes no addresses.
    pointer += begin
    target += begin
    energies = energies + energy + begin if adaptive else pointer
    left = end - begin
    c0 = (begin // 4 + lane).to(tl.uint32)
    while left > 0:
        w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, zero, k0, k1)
        a, b = _normal_pair(w0, w1)
        c, d = _normal_pair(w2, w3)
        _move(
            pointer,
            target,
            lane,
            left,
            0,
            a * std,
            energies,
            by_element,
            eta,
            power,
            by_size,
            adaptive,
        )
        _move(
            pointer,
            target,
            lane,
            left,
            1,
            b * std,
            energies,
            by_element,
            eta,
            power,
            by_size,
            adaptive,
        )
        _move(
            pointer,
            target,
            lane,
            left,
            2,
            c * std,
            energies,
            by_element,
            eta,
            power,
            by_size,
            adaptive,
        )
        _move(
            pointer,
            target,
            lane,
            left,
            3,
            d * std,
            energies,
            by_element,
            eta,
            power,
            by_size,
            adaptive,
        )
        pointer += 4 * LANES
        target += 4 * LANES
        energies += 4 * LANES
        c0 += LANES
        left -= 4 * LANES


@triton.jit
def add_energy_rows(
    rows, places, sums, energies, factor, split: tl.constexpr, dtype: tl.constexpr
):  # fmt: skip
    """``energies += factor |g|^2`` for every row of gradients, or ``g^2`` for every element."""
    _, _, pointer, length, energy, by_element = _find(rows, places, dtype)
    piece, begin, end = _piece(rows, length)
    if by_element != 0:
        for start in range(begin, end, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < end
            x = tl.load(pointer + column, mask=inside, other=0.0).to(tl.float32)
            past = tl.load(energies + energy + column, mask=inside, other=0.0)
            tl.store(energies + energy + column, past + factor * x * x, mask=inside)
    elif piece == 0:
        total = factor * _sum_of_row(pointer, length, piece, sums, split)
        tl.store(energies + energy, tl.load(energies + energy) + total)


@triton.jit(do_not_specialize=["key_low", "key_high", "index"])
def fill_normals(out, length, index, key_low, key_high):
    """Write the normal values of one parameter, ``[rows, length]``.

    A program fills a piece of a row: rows are the grid's first axis, pieces its second.
    """
    row = tl.program_id(0)
    piece = tl.program_id(1)
    begin, end = piece * PIECE, tl.minimum((piece + 1) * PIECE, length)
    lane = tl.arange(0, LANES)
    zero = tl.zeros([LANES], tl.uint32)
    k0 = key_low.to(tl.uint32, bitcast=True)
    k1 = key_high.to(tl.uint32, bitcast=True)
    target = out + row.to(tl.int64) * length
    for start in range(begin, end, 4 * LANES):
        c0 = (start // 4 + lane).to(tl.uint32)
        words = tl.philox_impl(c0, zero + row.to(tl.uint32), zero + index, zero, k0, k1)
        a, b = _normal_pair(words[0], words[1])
        c, d = _normal_pair(words[2], words[3])
        at = start + lane
        tl.store(target + at, a, mask=at < end)
        tl.store(target + at + LANES, b, mask=at + LANES < end)
        tl.store(target + at + 2 * LANES, c, mask=at + 2 * LANES < end)
        tl.store(target + at + 3 * LANES, d, mask=at + 3 * LANES < end)
