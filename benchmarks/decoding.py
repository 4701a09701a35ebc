"""Reading DICOM: speed of the decoders in each transfer syntax, and memory for any input.

`python -m benchmarks.decoding`. The speed of each reader is a ratio to that of `imaging` (imagecodecs) in the same run;
GDCM and OpenJPEG by pylibjpeg come with the `dev` extra; what is not installed is named. The memory of each input is
the peak above idle in a process of its own; `--inputs DIR` adds files, for example hostile ones.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate

LIMIT_MIB = 300
"""What reading any input may take above idle."""
SIDE = 2400
LARGE = 7990
"""Pixels a side of the largest image that is read, 64 megapixels."""
Reader = Callable[[bytes], npt.NDArray[Any]]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels a side for speed")
    parser.add_argument("--large", type=int, default=LARGE, help="pixels a side for memory")
    parser.add_argument("--inputs", type=Path, help="a folder of files whose memory is measured as well")
    parser.add_argument("--measure", nargs=2, metavar=("READER", "FILE"), help="(inner use) memory of one file")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    speeds = compare(files(options.side), options.repeats)
    with tempfile.TemporaryDirectory() as name:
        for kind, data in files(options.large).items():
            (Path(name) / kind).write_bytes(data)
        inputs = [*sorted(Path(name).iterdir()), *(sorted(options.inputs.iterdir()) if options.inputs else [])]
        memory = {path.name: {reader: in_process(reader, path) for reader in ("score", "show")} for path in inputs}
    worst = max(row["mib"] for rows in memory.values() for row in rows.values())
    print(json.dumps({"speed": speeds, "memory": memory, "worst_share_of_limit": worst / LIMIT_MIB}, indent=1))


def files(side: int) -> dict[str, bytes]:
    """Return one radiograph of 12 bits in each transfer syntax."""
    import imagecodecs

    from edgerad.phantom import random_spec, render

    small = render(random_spec(10, finding="normal", size=min(side, SIDE))).pixels.astype(float)
    unit = (small - small.min()) / (small.max() - small.min())
    tiles = [-(-side // length) for length in unit.shape]
    pixels = np.ascontiguousarray(np.tile(np.rint(unit * 4095).astype(np.uint16), tiles)[:side, :side])
    frames = {
        uid.JPEGLosslessSV1: imagecodecs.jpeg_encode(pixels, lossless=True, predictor=1, bitspersample=12),
        uid.JPEGExtended12Bit: imagecodecs.jpeg_encode(pixels, level=95, bitspersample=12),
        uid.JPEGLSLossless: imagecodecs.jpegls_encode(pixels),
        uid.JPEG2000Lossless: imagecodecs.jpeg2k_encode(
            pixels, level=0, codecformat="j2k", reversible=True, bitspersample=12
        ),
    }
    made = {"native": _written(_dataset(pixels))}
    left = _dataset(pixels << 4)
    left.HighBit = 15
    made["native, left-justified"] = _written(left)
    padded = _dataset((pixels.astype(np.int16) - 2048).view(np.uint16))
    padded.PixelRepresentation, padded.PhotometricInterpretation = 1, "MONOCHROME1"
    padded.add_new("PixelPaddingValue", "SS", -2048)
    made["native, signed, padded"] = _written(padded)
    run_lengths = _dataset(pixels)
    run_lengths.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    made[uid.RLELossless.name] = _written(run_lengths)
    for syntax, frame in frames.items():
        dataset = _dataset(pixels)
        dataset.PixelData = encapsulate([bytes(frame)])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = syntax
        made[syntax.name.partition(",")[0].partition(" (")[0]] = _written(dataset)
    return made


def _dataset(pixels: npt.NDArray[Any]) -> Dataset:
    from pydicom.dataset import FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid.UID("2.25.1")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _written(dataset: Dataset) -> bytes:
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def ours(data: bytes) -> npt.NDArray[Any]:
    """Read the stored values as edgerad does."""
    from imaging.limits import DEFAULT_LIMITS
    from imaging.part10 import read_dicom
    from imaging.stored import stored_pixels

    cells = stored_pixels(read_dicom(data), DEFAULT_LIMITS).cells
    assert cells is not None
    return np.asarray(cells.values)


def by_plugin(plugin: str) -> Reader:
    """Return a reader by one of pydicom's decoding plug-ins."""

    def read(data: bytes) -> npt.NDArray[Any]:
        from pydicom.pixels.decoders.base import get_decoder

        dataset = dcmread(io.BytesIO(data))
        syntax = dataset.file_meta.TransferSyntaxUID
        chosen = plugin if syntax.is_encapsulated else ""
        return np.asarray(get_decoder(syntax).as_array(dataset, index=0, decoding_plugin=chosen)[0])

    return read


READERS: dict[str, Reader] = {"imaging": ours, "GDCM": by_plugin("gdcm"), "pylibjpeg": by_plugin("pylibjpeg")}


def compare(made: dict[str, bytes], repeats: int) -> dict[str, Any]:
    """Return, for each file, milliseconds of `imaging` and the time of the others as a multiple of it."""
    table: dict[str, Any] = {}
    for kind, data in made.items():
        times: dict[str, list[float]] = {name: [] for name in READERS}
        left_out: dict[str, str] = {}
        for _ in range(repeats):
            for name, read in READERS.items():
                started = time.perf_counter()
                try:
                    read(data)
                except Exception as error:  # noqa: BLE001 - not installed, or not for this syntax
                    left_out[name] = type(error).__name__
                    continue
                times[name].append(time.perf_counter() - started)
        shares = {
            name: median(one / own for one, own in zip(times[name], times["imaging"], strict=True))
            for name in READERS
            if name != "imaging" and name not in left_out
        }
        table[kind] = {"ms": 1000 * median(times["imaging"]), **shares, "left_out": left_out}
    return table


def in_process(reader: str, path: Path) -> dict[str, Any]:
    """Measure one file in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.decoding", "--measure", reader, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(reader: str, name: str) -> dict[str, Any]:
    """Return the peak of memory above idle, in MiB, of scoring's or the page's way to read a file, and its outcome."""
    from imaging.display import NotDisplayable, picture
    from imaging.refusal import Unreadable
    from serve.decode import decode

    read: Callable[[bytes], object] = decode if reader == "score" else picture
    for data in files(256).values():  # loads what is loaded when first used
        decode(data), picture(data)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew (proc(5))
    idle = _status("VmRSS")
    try:
        read(Path(name).read_bytes())
        outcome = "read"
    except Unreadable as refusal:
        outcome = refusal.reason
    except NotDisplayable:
        outcome = "refused"
    return {"mib": (_status("VmHWM") - idle) / 1024, "outcome": outcome}


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found.group(1)) if found else 0


if __name__ == "__main__":
    main()
