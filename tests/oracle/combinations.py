"""The ways to write one radiograph that the oracle compares, and a choice of them that covers every pair.

Every transfer syntax meets every depth, sign and position of the bits that it can hold. The other factors are spread
over these files so that every two levels of two factors that can stand together do so in some file. Polarity, shape and
VOI transformation, which decide how values are displayed, meet in threes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import combinations, product
from random import Random
from typing import Any, Literal, get_args

Syntax = Literal[
    "implicit",
    "explicit",
    "big-endian",
    "deflated",
    "rle",
    "jpeg-baseline",
    "jpeg-extended",
    "jpeg-lossless",
    "jpeg-lossless-sv1",
    "jpeg-ls",
    "jpeg-ls-near",
    "jpeg-2000",
    "jpeg-2000-lossy",
    "htj2k",
]
Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
Shape = Literal["none", "IDENTITY", "INVERSE"]
Modality = Literal["none", "slope", "negative-slope", "fraction", "lut8-bytes", "lut8-words", "lut10", "lut12", "lut16"]
Voi = Literal[
    "none",
    "linear",
    "linear-exact",
    "sigmoid",
    "lut8-bytes",
    "lut8-words",
    "lut10",
    "lut12",
    "lut12-reversed",
    "lut16",
    "lut65536",
]
Padding = Literal["none", "lowest", "highest", "range"]
Overlay = Literal["none", "above"]
"""Whether a retired overlay lies in the bit above High Bit (PS3.5 8.1.2, PS3.3 C.9.2)."""

NATIVE = frozenset({"implicit", "explicit", "big-endian", "deflated"})
MAY_BE_LEFT = NATIVE | {"rle", ""}
JPEG_2000 = frozenset({"jpeg-2000", "jpeg-2000-lossy", "htj2k"})
LOSSY = frozenset({"jpeg-baseline", "jpeg-extended", "jpeg-ls-near", "jpeg-2000-lossy"})
WHOLE = frozenset({"none", "slope", "negative-slope", "lut8-bytes", "lut8-words", "lut10", "lut12", "lut16"})
"""Modality transformations of which every value is a whole number: only such values select an entry of a VOI LUT."""
DEPTHS = ((8, 8), (16, 8), (16, 10), (16, 12), (16, 14), (16, 15), (16, 16))
"""Bits Allocated and Bits Stored."""
SEED = 20261130
Pair = tuple[tuple[str, Any], tuple[str, Any]]
"""Two factors with a level of each."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One way to write the radiograph; levels are named as in this module."""

    syntax: Syntax
    depth: tuple[int, int]
    signed: bool
    left: bool
    photometric: Photometric
    shape: Shape
    modality: Modality
    voi: Voi
    padding: Padding
    overlay: Overlay = "none"

    @property
    def allocated(self) -> int:
        """Bits Allocated."""
        return self.depth[0]

    @property
    def stored(self) -> int:
        """Bits Stored."""
        return self.depth[1]

    @property
    def lossy(self) -> bool:
        """Whether the values that come out differ from those that went in."""
        return self.syntax in LOSSY

    @property
    def name(self) -> str:
        """A name for a file and for a test."""
        sign, side = "s" if self.signed else "u", "left" if self.left else "right"
        parts = (self.syntax, f"{self.allocated}-{self.stored}{sign}-{side}", self.photometric[-1], self.shape)
        overlay = () if self.overlay == "none" else ("overlay",)
        return "_".join((*parts, self.modality, self.voi, self.padding, *overlay)).lower()


LEVELS: dict[str, tuple[Any, ...]] = {
    "syntax": get_args(Syntax),
    "depth": DEPTHS,
    "signed": (False, True),
    "left": (False, True),
    "photometric": get_args(Photometric),
    "shape": get_args(Shape),
    "modality": get_args(Modality),
    "voi": get_args(Voi),
    "padding": get_args(Padding),
    "overlay": get_args(Overlay),
}
OTHERS = [syntax for syntax in get_args(Syntax) if syntax not in JPEG_2000]
FACTORS = tuple(field.name for field in fields(Combination))


def why_not(levels: dict[str, Any]) -> str | None:
    """Return why levels cannot stand together, None when they can; `levels` may name only some of the factors."""
    return depth_why_not(levels) or _values_why_not(levels)


def depth_why_not(levels: dict[str, Any]) -> str | None:
    """Return why a transfer syntax cannot hold a depth, a sign or a position of the bits, None when it can."""
    syntax, depth = levels.get("syntax", ""), levels.get("depth")
    signed, left = levels.get("signed", False), levels.get("left", False)
    overlay = levels.get("overlay", "none") != "none"
    reasons = {
        "PS3.5 8.2.1: process 1 has 8 bits in 8": syntax == "jpeg-baseline" and depth not in {None, (8, 8)},
        "PS3.5 8.2.1: process 4 has 8 bits in 8 or 12 bits in 16": (
            syntax == "jpeg-extended" and depth not in {None, (8, 8), (16, 12)}
        ),
        "PS3.5 8.2.1: a lossy JPEG holds no signed values": syntax in {"jpeg-baseline", "jpeg-extended"} and signed,
        "the codestream says how many bits it has: nothing is left to shift": left and syntax not in MAY_BE_LEFT,
        "no bit is free": (left or overlay) and depth in {(8, 8), (16, 16)},
        "PS3.5 8.1.2: only an uncompressed word has bits of an overlay": overlay and syntax not in MAY_BE_LEFT,
        "the bits above are the value's": overlay and left,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _values_why_not(levels: dict[str, Any]) -> str | None:
    if levels.get("voi", "none").startswith("lut") and levels.get("modality", "none") not in WHOLE:
        return "PS3.3 C.11.2.1.1: only a whole number selects an entry"
    if levels.get("padding", "none") != "none" and levels.get("syntax") in LOSSY:
        return "PS3.3 C.7.5.1.1.2: a lossy codec changes the padding"
    return None


def chosen() -> list[Combination]:
    """Return the combinations to compare: the same in every process."""
    random = Random(SEED)
    found: list[Combination] = []
    uncovered = dict.fromkeys(_valid_pairs())  # a dict keeps its order, and with it the choice, the same
    every = ("syntax", "depth", "signed", "left")
    for levels in product(*(LEVELS[name] for name in every)):
        fixed = dict(zip(every, levels, strict=True))
        if why_not(fixed) is None:
            found.append(_best(fixed, uncovered, random))
    while uncovered:
        found.append(_best(dict(next(iter(uncovered))), uncovered, random))
    together = ("photometric", "shape", "voi")
    shown = {(one.photometric, one.shape, one.voi) for one in found if one.syntax not in JPEG_2000}
    for three in product(*(LEVELS[name] for name in together)):
        if three not in shown:
            fixed = {"syntax": random.choice(OTHERS), **dict(zip(together, three, strict=True))}
            found.append(_best(fixed, uncovered, random))
    return found


def _valid_pairs() -> Iterator[Pair]:
    for (one, levels), (other, others) in combinations(LEVELS.items(), 2):
        for pair in product(levels, others):
            if why_not({one: pair[0], other: pair[1]}) is None and _completed({one: pair[0], other: pair[1]}):
                yield (one, pair[0]), (other, pair[1])


def _completed(fixed: dict[str, Any]) -> bool:
    """Return whether the plainest levels of the other factors, or other depths, make a pair a whole file."""
    plain = {"syntax": "explicit", "depth": (16, 12), "signed": False, "left": False, "padding": "none"}
    rest = {"photometric": "MONOCHROME2", "shape": "none", "modality": "none", "voi": "none"}
    return any(why_not({**plain, **rest, "depth": depth, **fixed}) is None for depth in DEPTHS)


def _best(fixed: dict[str, Any], uncovered: dict[Pair, None], random: Random) -> Combination:
    """Return a valid combination with the fixed levels that covers many uncovered pairs, and strike them out."""
    best: dict[str, Any] = {}
    best_pairs: list[Pair] = []
    tried = 0
    while tried < 60 or not best:
        levels = {name: fixed[name] if name in fixed else random.choice(LEVELS[name]) for name in FACTORS}
        if why_not(levels) is not None:
            continue
        tried += 1
        pairs = [pair for pair in combinations(levels.items(), 2) if pair in uncovered]
        if not best or len(pairs) > len(best_pairs):
            best, best_pairs = levels, pairs
    for pair in best_pairs:
        del uncovered[pair]
    return Combination(**best)
