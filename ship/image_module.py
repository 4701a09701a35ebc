"""The attributes that say how pixels are read and shown, written anew from what was read: nothing else rides along.

Image Pixel (PS3.3 C.7.6.3), Modality LUT (C.11.1), VOI LUT (C.11.2), Softcopy Presentation LUT (C.11.6).
"""

from __future__ import annotations

from pydicom import Dataset
from pydicom.sequence import Sequence

from imaging.attributes import code, text, unusable
from imaging.greyscale import Window
from imaging.tables import Table
from ship.decimals import decimal
from ship.pixels import Pixels, Source

_UNITS = frozenset(("HU", "US", "OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"))
"""Defined terms of ModalityLUTType (0028,3004), C.11.1.1.2; US is unspecified."""


def attach(dataset: Dataset, pixels: Pixels, source: Source, original: Dataset) -> None:
    """Put uncompressed pixels into `dataset`, with all that decides how they are read and shown.

    `source` is what was read, `original` the data set that it was read from: of that only coded values of a closed list
    are taken. Raises Unreadable for a number that cannot be written.
    """
    colour = pixels.ndim == 3
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = source.photometric
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = source.bits, source.bits - 1
    dataset.PixelRepresentation = int(source.signed)
    if not colour:
        _write_padding(dataset, source)
        _write_tone(dataset, source, original)
    data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    dataset.PixelData = data + b"\0" if len(data) % 2 else data
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"


def _write_padding(dataset: Dataset, source: Source) -> None:
    if source.tone.padding is None:
        return
    first, last = source.tone.padding
    vr = "SS" if source.signed else "US"
    dataset.add_new("PixelPaddingValue", vr, first)
    if last != first:
        dataset.add_new("PixelPaddingRangeLimit", vr, last)


def _write_tone(dataset: Dataset, source: Source, original: Dataset) -> None:
    """Write the steps that apply: of several tables or windows the first, of table and window the table."""
    pipeline = source.tone.pipeline
    if pipeline.modality is not None:
        unit = text(original.ModalityLUTSequence[0], "ModalityLUTType")
        dataset.ModalityLUTSequence = Sequence([_item(pipeline.modality)])
        dataset.ModalityLUTSequence[0].ModalityLUTType = unit if unit in _UNITS else "US"
    elif not pipeline.rescaled_is_plain or text(original, "RescaleSlope") or text(original, "RescaleIntercept"):
        _write(dataset, "RescaleIntercept", pipeline.intercept)
        _write(dataset, "RescaleSlope", pipeline.slope)
    voi = pipeline.declared_voi
    if isinstance(voi, Table):
        dataset.VOILUTSequence = Sequence([_item(voi)])
    elif isinstance(voi, Window):
        _write(dataset, "WindowCenter", voi.center)
        _write(dataset, "WindowWidth", voi.width)
        if voi.function != "LINEAR" or text(original, "VOILUTFunction"):
            dataset.VOILUTFunction = voi.function
    if (shape := code(original, "PresentationLUTShape")) in ("IDENTITY", "INVERSE"):
        dataset.PresentationLUTShape = shape


def _write(dataset: Dataset, keyword: str, number: float) -> None:
    try:
        setattr(dataset, keyword, decimal(number))
    except ValueError:
        raise unusable(keyword, "is no measurement") from None


def _item(table: Table) -> Dataset:
    """Return a table with one entry a word: nothing before, between or behind the entries."""
    item = Dataset()
    count = len(table.entries) % (1 << 16)  # 0 stands for 65,536; never negative, whatever the VR
    item.add_new("LUTDescriptor", "SS" if table.first < 0 else "US", [count, table.first, table.bits])
    item.add_new("LUTData", "OW", table.entries.astype("<u2").tobytes())
    return item
