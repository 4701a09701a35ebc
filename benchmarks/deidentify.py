"""Headers a second of one core, and values left unchanged, beside peers: `python -m benchmarks.deidentify`.

Each reads the file's bytes, de-identifies, writes bytes. `torture` is the test's object with every attribute of PS3.15
Table E.1-1 (2026c) at depths 0 to 3; `table` has them at the top only; `usual` is a phantom's header. CPU time of this
process counts, so that others on the machine do not.
"""

from __future__ import annotations

import io
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from statistics import median

from dicognito.anonymizer import Anonymizer
from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.tag import Tag

from edgerad.phantom import random_spec, render, to_dicom
from ship import elements, headers, verify
from ship.headers import clean_header
from ship.identity import identity_of
from ship.keys import SiteKey
from tests.ship.profile import EDITION, leaves, profile, torture

KEY = SiteKey(bytes(range(32)))
Engine = Callable[[Dataset], Dataset]


def ours(dataset: Dataset) -> Dataset:
    """The header engine alone."""
    result = clean_header(dataset, KEY).dataset
    headers.stamp(result)
    result.file_meta = headers.file_meta(result)
    return result


def ours_verified(dataset: Dataset) -> Dataset:
    """The same with what `deidentify` does around it: the patient's values, a second reader, tag walk, byte scan."""
    identity = identity_of(dataset)
    result = ours(dataset)
    data = _bytes(result)
    found = list(elements.read(data))
    verify.walk(found, identity)
    verify.scan(data, b"", identity)
    return result


def dicom_anonymizer(dataset: Dataset) -> Dataset:
    """dicom-anonymizer with the table of the same edition."""
    anonymize_dataset(dataset, base_rules_gen=lambda: initialize_actions(EDITION))
    return dataset


def dicognito(dataset: Dataset) -> Dataset:
    """dicognito as it comes."""
    Anonymizer(seed="benchmark").anonymize(dataset)
    return dataset


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def usual() -> bytes:
    """A DX phantom's header without its pixels."""
    spec = next(spec for seed in range(60) if (spec := random_spec(seed, size=256)).storage == "DX")
    dataset = dcmread(io.BytesIO(to_dicom(render(spec), private=True)))
    del dataset.PixelData
    return _bytes(dataset)


def table() -> bytes:
    """Every attribute of the table at the top level; sequences with one item."""
    dataset, _ = torture()
    for keyword in ("ReferencedImageSequence", "VOILUTSequence"):
        del dataset[keyword]
    return _bytes(dataset)


def rate(engine: Engine, data: bytes, repeats: int = 9) -> float:
    """Files a second of CPU time, the median of repeats of some 0.2 s."""
    rates = []
    for _ in range(repeats):
        done, started = 0, time.process_time()
        while time.process_time() - started < 0.2:
            _bytes(engine(dcmread(io.BytesIO(data))))
            done += 1
        rates.append(done / (time.process_time() - started))
    return median(rates)


def unchanged(engine: Engine, data: bytes) -> dict[str, int]:
    """How many attributes of the table are left as they were, by depth."""
    before = {path: element.value for path, element in leaves(dcmread(io.BytesIO(data)))}
    after = engine(dcmread(io.BytesIO(data)))
    left = Counter(
        len(path) // 2
        for path, element in leaves(after)
        if Tag(path[-1]) in profile() and element.value not in (None, "") and element.value == before.get(path)
        if not str(element.value).startswith("1.2.840.10008.")
    )
    return {str(depth): left[depth] for depth in range(4)}


def main() -> None:
    """Measure all in one run."""
    warnings.simplefilter("ignore")
    source, _ = torture()
    files = {"usual": usual(), "table": table(), "torture": _bytes(source)}
    engines: list[Engine] = [ours, ours_verified, dicom_anonymizer, dicognito]
    result = {
        engine.__name__: {
            "files_per_cpu_second": {name: round(rate(engine, data), 1) for name, data in files.items()},
            "unchanged_by_depth": unchanged(engine, files["torture"]),
        }
        for engine in engines
    }
    sizes = {name: sum(1 for _ in leaves(dcmread(io.BytesIO(data)))) for name, data in files.items()}
    print(json.dumps({"elements": sizes, **result}, indent=1))


if __name__ == "__main__":
    main()
