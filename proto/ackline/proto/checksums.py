"""CRC-32C of bytes, and of concatenations whose bytes are gone.

CRC-32C (Castagnoli) is the one checksum of the protocol: of a frame, of a chunk, of an
object and of the acknowledged prefix that a resume proves. The last two are composed
from the CRCs of their parts, because a second pass over a terabyte to get its digest
would cost more than sending it.

The algebra: a CRC is linear. Followed by `n` bytes, the CRC of what came before is
multiplied by x^(8n) modulo the polynomial, and the CRC of those bytes is added:

    CRC(A + B) = CRC(A) * x^(8 len(B)) + CRC(B)        + is XOR

The initial value and the final inversion, both 0xFFFFFFFF, cancel out of this equation.
Bits are reflected: bit 31 of a word is the coefficient of x^0, bit 0 that of x^31.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

__all__ = ["HARDWARE", "Checksum", "combine", "composed", "crc32c", "subtract"]


class Checksum(Protocol):
    """A function that computes a CRC incrementally."""

    def __call__(self, data: Buffer, value: int = 0, /) -> int:
        """Return the CRC of `data` preceded by bytes whose CRC is `value`."""
        ...


def _library() -> Any:
    """Return the extension module of the package crc32c, or None.

    It is loaded without the package around it, which imports a command line for itself,
    `argparse` and `importlib.metadata`: 15 to 20 ms of every start of a client.
    """
    package = find_spec("crc32c")
    if package is None:  # a platform without a wheel and without a compiler
        return None
    extension = PathFinder.find_spec(
        "crc32c._crc32c", package.submodule_search_locations
    )
    if extension is None or extension.loader is None:  # another release's layout
        return import_module("crc32c")
    module = module_from_spec(extension)
    extension.loader.exec_module(module)
    return module


_package = _library()

#: Whether the processor's CRC instruction is used: some 16 GB/s instead of 0.4.
HARDWARE: bool = _package is not None and bool(_package.hardware_based)

#: The CRC-32C of some bytes. It is the library's own function, not a wrapper: a frame
#: header is 20 bytes, and a Python call around them would cost as much as their CRC.
crc32c: Checksum = (
    import_module("crcmod.predefined").mkPredefinedCrcFun("crc-32c")
    if _package is None
    else _package.crc32c
)

#: 0x1EDC6F41 with its bits reflected.
_POLYNOMIAL = 0x82F63B78

#: The polynomial 1, reflected.
_ONE = 0x80000000

#: The polynomial x^8, reflected: what one byte multiplies by.
_BYTE = 0x00800000

#: Lengths are 64 bits on the wire.
_LENGTH_BITS = 64

#: Operators kept, at some 40 KB each. A stream needs one for its chunk size and one for
#: each fragment size, and fragment sizes are few; 64 serve many streams in 2.5 MB.
_OPERATORS = 64


def combine(first: int, second: int, second_length: int) -> int:
    """Return the CRC of A + B from the CRCs of A and B.

    Costs about 0.3 us for a length used recently, below 0.1 ms for another one.

    Args:
        first: CRC of A.
        second: CRC of B.
        second_length: Length of B in bytes, below 2**64.

    Raises:
        ValueError: The length is negative or does not fit 64 bits.
    """
    lowest, low, high, highest = _operator(second_length)
    return (
        lowest[first & 0xFF]
        ^ low[first >> 8 & 0xFF]
        ^ high[first >> 16 & 0xFF]
        ^ highest[first >> 24]
        ^ second
    )


def subtract(whole: int, first: int, second_length: int) -> int:
    """Return the CRC of B from the CRCs of A + B and A.

    Args:
        whole: CRC of A + B.
        first: CRC of A.
        second_length: Length of B in bytes, below 2**64.

    Raises:
        ValueError: The length is negative or does not fit 64 bits.
    """
    # Addition is XOR, so subtracting what A contributes is adding it once more.
    return combine(first, whole, second_length)


def composed(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC of a concatenation from the (CRC, length) of each part in order.

    Raises:
        ValueError: A length is negative or does not fit 64 bits.
    """
    crc = 0
    for part, length in parts:
        crc = combine(crc, part, length)
    return crc


def _product(left: int, right: int) -> int:
    """Multiply two reflected polynomials modulo the CRC polynomial."""
    product = 0
    for bit in range(31, -1, -1):
        if right >> bit & 1:
            product ^= left
        left = left >> 1 ^ (_POLYNOMIAL if left & 1 else 0)
    return product


def _digit_powers() -> tuple[tuple[int, ...], ...]:
    """Return x^(8 * d * 16^i) for each hexadecimal digit d at each place i of a length.

    A length then costs one product a digit. Bytes as digits would halve that, but
    their 2,040 products would add 8 ms to every import; these 240 add one.
    """
    powers: list[tuple[int, ...]] = []
    base = _BYTE
    for _ in range(0, _LENGTH_BITS, 4):
        row = [_ONE]
        for _ in range(15):
            row.append(_product(row[-1], base))
        powers.append(tuple(row))
        base = _product(row[-1], base)
    return tuple(powers)


_DIGIT_POWERS = _digit_powers()


@lru_cache(maxsize=_OPERATORS)
def _operator(length: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return multiplication by x^(8 * length), as one table for each byte of a CRC.

    Raises:
        ValueError: The length is negative or does not fit 64 bits.
    """
    if length < 0 or length >> _LENGTH_BITS:
        raise ValueError(f"length {length} is not an unsigned 64-bit number")
    image = _ONE
    place = 0
    while length:
        image = _product(_DIGIT_POWERS[place][length & 0xF], image)
        length >>= 4
        place += 1
    images = [0] * 32
    for bit in range(31, -1, -1):  # from x^0 upwards: each image is x times the last
        images[bit] = image
        image = image >> 1 ^ (_POLYNOMIAL if image & 1 else 0)
    return (
        _sums(images[0:8]),
        _sums(images[8:16]),
        _sums(images[16:24]),
        _sums(images[24:32]),
    )


def _sums(images: list[int]) -> list[int]:
    """Return, for every byte, the sum of the images of the bits set in it."""
    sums = [0]
    for image in images:
        sums += [image ^ partial for partial in sums]
    return sums
