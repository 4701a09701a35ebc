"""The page docs/oracle.md, made from the combinations and the plan: `python -m tests.oracle.table > docs/oracle.md`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from tests.oracle.combinations import (
    DEPTHS,
    MAY_BE_LEFT,
    Combination,
    Modality,
    Photometric,
    Shape,
    Syntax,
    Voi,
    depth_why_not,
)
from tests.oracle.combinations import chosen as choose
from tests.oracle.plan import FAULTS, LOSSY_LEVELS, READERS, why_not_compared

INTRODUCTION = """# The pixels against other readers

One synthetic chest is written in {count} ways. edgerad's stored and rescaled values must equal those of two independent
readers, dcmtk (its programs) and GDCM (`python-gdcm`), and what it displays must equal what dcmtk displays. The files
cover every transfer syntax with every depth, sign and position of the bits that it can hold, and every pair of levels
of the other factors: polarity, Presentation LUT Shape, modality transformation, VOI transformation, padding, an overlay
in the bit above High Bit.
`tests/oracle/` writes the files, reads them and makes this page; a test fails when the page is not what is compared.
Run it with `.venv/bin/python -m pytest tests/oracle` (needs dcmtk).

Lossless values must be equal, to each reader and to what was written. Lossy ones may differ by {lossy} stored value
between decoders. Rescaled values may differ by .02. Displayed values may differ by 2/65535 from dcmtk's 16 bits, after
a table of n bits by 1/2^n more (dcmtk 3.6 scales its entries by 2^16/2^n, where white is (2^16-1)/(2^n-1)), after a
rescale with fractions by 1.5 units of the window more (dcmtk keeps whole numbers). Zero is the darkest pixel compared;
without window and table white is the brightest.

edgerad decodes with imagecodecs. GDCM has its own builds of OpenJPEG and CharLS, which imagecodecs uses, too; dcmtk's
JPEG-LS decoder is a fork of CharLS. Files are encoded by dcmtk (RLE, JPEG-LS, byte orders, deflate), libjpeg-turbo,
OpenJPEG and OpenJPH. What went in is known, so that a fault of a shared decoder shows in the lossless syntaxes.
"""
OTHERWISE = """## What dcmtk is told

dcmtk displays by the attributes of the file, but for two things:

- It does not know the function LINEAR_EXACT (PS3.3 C.11.2.1.3.2). It gets the LINEAR window of the same line: center
  +0.5, width +1.
- Where MONOCHROME1 and Presentation LUT Shape IDENTITY stand together, it follows the shape and inverts nothing; it is
  told to invert. Such a header contradicts PS3.3 C.8.11.3. edgerad follows Photometric Interpretation: the minimum is
  displayed as white (C.7.6.3.1.2).

Padding is not compared where it is displayed: dcmtk shows it as values, edgerad as background (PS3.3 C.7.5.1.1.2).

## What is not written

- Bits Allocated other than 8 and 16: edgerad refuses them (`unsupported`; a test writes 32).
- JPEG spectral selection, progressive and hierarchical JPEG (retired), JPEG XL, encapsulated uncompressed: edgerad
  refuses them (`unsupported`).
- HTJ2K lossy and in RPCL order, JPEG 2000 part 2: edgerad decodes them, but no encoder here writes every depth.
- Colour, palettes and several frames: they are no grey radiographs of one frame.
- Headers that contradict the pixels: no reader is right about them.
"""


def page() -> str:
    """Return the page."""
    chosen = choose()
    introduction = INTRODUCTION.format(count=len(chosen), lossy=LOSSY_LEVELS)
    sections = [introduction, stored(chosen), rescaled(chosen), displayed(chosen), faults(), OTHERWISE]
    return "\n".join(sections)


def stored(chosen: Sequence[Combination]) -> str:
    """Return the tables of stored values."""
    columns = [(depth, signed) for depth in DEPTHS for signed in (False, True)]
    heads = [f"{allocated}/{bits} {'s' if signed else 'u'}" for (allocated, bits), signed in columns]
    reasons: dict[str, str] = {}
    parts = ["## Stored values\n"]
    for left, title in ((False, "Right-justified"), (True, "Left-justified")):
        rows = []
        for syntax in get_args(Syntax):
            if left and syntax not in MAY_BE_LEFT:
                continue
            cells = [
                _stored_cell(
                    [one for one in chosen if _has(one, syntax=syntax, depth=depth, signed=signed, left=left)],
                    depth_why_not({"syntax": syntax, "depth": depth, "signed": signed, "left": left}),
                    reasons,
                )
                for depth, signed in columns
            ]
            rows.append([syntax, *cells])
        parts += [f"{title}:\n", _table(["", *heads], rows)]
    legend = "\n".join(f"- ({letter}) {reason}" for reason, letter in reasons.items())
    parts.append(
        "Columns are Bits Allocated/Bits Stored, unsigned or signed. W: what was written, D: dcmtk, G: GDCM. A reader "
        f"that is missing is explained below. Cells that cannot be:\n\n{legend}\n"
    )
    return "\n".join(parts)


def _stored_cell(files: Sequence[Combination], why_not: str | None, reasons: dict[str, str]) -> str:
    if why_not is not None:
        return f"({reasons.setdefault(why_not, chr(ord('a') + len(reasons)))})"
    readers = [reader[0].upper() for reader in READERS if any(not why_not_compared(x, "stored", reader) for x in files)]
    return "".join(["W" if files and not files[0].lossy else "", *readers]) or "-"


def rescaled(chosen: Sequence[Combination]) -> str:
    """Return the table of values after the modality transformation: how many files are compared with each reader."""
    rows = []
    for modality in get_args(Modality):
        files = [one for one in chosen if one.modality == modality]
        rows.append([modality, *(_count(files, "rescaled", reader) for reader in READERS)])
    return f"## Rescaled values\n\nNumbers of files.\n\n{_table(['', *READERS], rows)}"


def displayed(chosen: Sequence[Combination]) -> str:
    """Return the table of displayed values: how many files are compared with dcmtk."""
    columns = [(photometric, shape) for photometric in get_args(Photometric) for shape in get_args(Shape)]
    rows = []
    for voi in get_args(Voi):
        cells = [
            _count([one for one in chosen if _has(one, voi=voi, photometric=kind, shape=shape)], "displayed", "dcmtk")
            for kind, shape in columns
        ]
        rows.append([voi, *cells])
    heads = [f"{photometric}, {shape}" for photometric, shape in columns]
    return (
        "## Displayed values\n\nNumbers of files compared with dcmtk, by polarity and Presentation LUT Shape.\n\n"
        + _table(["", *heads], rows)
    )


def faults() -> str:
    """Return why readers are not asked for the rest, and how many files that takes."""
    counts: Counter[str] = Counter()
    for combination in choose():
        for what in ("stored", "rescaled", "displayed"):
            for reader in READERS:
                counts[why_not_compared(combination, what, reader) or ""] += 1
    lines = [f"- {text} ({counts[key]} comparisons)" for key, text in FAULTS.items()]
    return "## Where a reader is not asked\n\n" + "\n".join(lines) + "\n"


def _count(files: Sequence[Combination], what: Any, reader: Any) -> str:
    return str(sum(not why_not_compared(one, what, reader) for one in files) or "-")


def _has(combination: Combination, **levels: Any) -> bool:
    return all(getattr(combination, name) == level for name, level in levels.items())


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
