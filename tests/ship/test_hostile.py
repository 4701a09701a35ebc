"""Files that are made to harm: each is refused, before anything is decoded, in bounded memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from pydicom import uid

from tests.imaging.files import chest, dataset, in_fragments, written

MOST = 286 * 2**20
"""300 MB."""
MEASURE = """
import gc, json, sys
from pathlib import Path
from ship import redaction
from ship.deidentify import Clean, deidentify
from ship.keys import SiteKey
from ship.redaction import Redaction

redaction.versions = lambda threads=1: ["none"]
redaction.redact_text = lambda pixels, identity, **more: Redaction(pixels, (), 0, 1)

def memory(what):
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024

key, found = SiteKey(bytes(range(32))), {}
warm, *paths = sys.argv[1:]
assert isinstance(deidentify(Path(warm).read_bytes(), key), Clean)
for path in paths:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    idle = memory("VmRSS")
    result = deidentify(Path(path).read_bytes(), key)
    found[Path(path).stem] = [str(getattr(result, "reason", "clean")), memory("VmHWM") - idle]
    del result
print(json.dumps(found))
"""


def measured(folder: Path, paths: list[Path]) -> dict[str, tuple[str, int]]:
    """Return for each file what came of it and the bytes of memory above idle, in a process of their own."""
    warm = folder / "warm.dcm"
    warm.write_bytes(written(dataset()))
    command = [sys.executable, "-c", MEASURE, str(warm), *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return {name: (reason, memory) for name, (reason, memory) in json.loads(done.stdout).items()}


def test_the_hostile_files_are_refused_in_bounded_memory(shared: Path, tmp_path: Path) -> None:
    paths = sorted(path for path in (shared / "data" / "hostile").iterdir() if path.suffix != ".md")
    found = measured(tmp_path, paths)
    assert len(found) == len(paths) >= 7
    assert {reason for reason, _ in found.values()} <= {"unsupported", "undecodable", "unreadable"}
    assert max(memory for _, memory in found.values()) < MOST
    small = [memory for name, (_, memory) in found.items() if not name.startswith("deflate")]
    assert max(small) < 20 * 2**20, "nothing is decoded"


def deflated(body: bytes) -> bytes:
    """A file whose data set inflates to that."""
    made = dataset()
    made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    data = written(made)
    return data[: 132 + 12 + struct.unpack_from("<I", data, 140)[0]] + body


def test_variants_of_them_are_refused_as_well(tmp_path: Path) -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = b"".join(squeeze.compress(bytes(2**20)) for _ in range(512)) + squeeze.flush()
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item
    runs = struct.pack("<16I", 2, 64, 2000, *[0] * 13) + b"\x81\0" * 200_000
    huge = dataset(Rows=60_000, Columns=60_000)
    many = in_fragments(dataset(), uid.JPEG2000Lossless, b"\xff\x4f")
    fragment = struct.pack("<HHI2s", 0xFFFE, 0xE000, 2, b"\xff\x4f")
    many.PixelData = fragment * 70_000 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    files = {
        "deflated-512": deflated(zeros),
        "deflated-garbage": deflated(b"\xff" * 1000),
        "nested": written(dataset())[:400] + opening * 100_000,
        "run-lengths": written(in_fragments(dataset(np.zeros((64, 64), np.uint16)), uid.RLELossless, runs)),
        "announced": written(huge),
        "fragments": written(many),
    }
    paths = [tmp_path / f"{name}.dcm" for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    found = measured(tmp_path, paths)
    assert {reason for reason, _ in found.values()} <= {"unsupported", "undecodable", "unreadable"}
    assert max(memory for _, memory in found.values()) < MOST


def test_a_large_radiograph_is_read_and_written_in_bounded_memory(tmp_path: Path) -> None:
    """36 megapixels of 16 bits: 72 MB as a file, as values, and as the file that leaves."""
    values = np.tile(chest(16), (6000 // 183 + 1, 6000 // 240 + 1))[:6000, :6000]
    path = tmp_path / "large.dcm"
    path.write_bytes(written(dataset(np.ascontiguousarray(values), 16)))
    reason, memory = measured(tmp_path, [path])["large"]
    assert reason == "clean"
    assert memory < 5 * values.nbytes
