"""The limit: decode, preprocessing, view check and network in one bare process, bytes already in memory.

Run by `benchmarks.serving` as a process of its own that takes turns with the others: a line of images and threads in, a
line with seconds out. An order that names an object store has each image fetched from there, as replicas do. With as
many threads as cores each thread does whole images, with a network of its own: nothing that serves can be faster here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import images
from edgerad.store import ObjectStore, StoreConfig
from serve.score import Scorer, open_scorer

Fetch = Callable[[int], bytes]


def main() -> None:
    """Serve turns until the input ends."""
    import cv2

    cv2.setNumThreads(1)
    count = int(sys.argv[1])
    files = images.load(count).files
    scorers: list[Scorer] = []
    for line in sys.stdin:
        order = json.loads(line)
        while len(scorers) < order["threads"]:
            scorers.append(open_scorer())
            scorers[-1].score_bytes(files[:4])
        fetch: Fetch = fetched(order["store"], order["keys"]) if "store" in order else files.__getitem__
        wanted = [index % len(files) for index in range(order["images"])]
        sys.stdout.write(json.dumps(turn(fetch, wanted, scorers[: order["threads"]])) + "\n")
        sys.stdout.flush()


def fetched(store: dict[str, Any], keys: Sequence[tuple[str, str]]) -> Fetch:
    """Return what fetches the image of a number from an object store, by key and ETag."""
    objects = ObjectStore(StoreConfig(**store | {"folder": store["folder"] and Path(store["folder"])}))
    return lambda number: objects.get(keys[number][0], etag=keys[number][1])


def turn(fetch: Fetch, numbers: Sequence[int], scorers: Sequence[Scorer]) -> dict[str, Any]:
    """Score images with a thread a scorer; return the whole's seconds and the median of single images."""

    def work(scorer: Scorer, own: Sequence[int]) -> list[float]:
        times = []
        for number in own:
            started = time.perf_counter()
            scorer.score_bytes([fetch(number)])
            times.append(time.perf_counter() - started)
        return times

    started = time.perf_counter()
    with ThreadPoolExecutor(len(scorers)) as pool:
        parts = [pool.submit(work, scorer, numbers[index :: len(scorers)]) for index, scorer in enumerate(scorers)]
        times = [seconds for part in parts for seconds in part.result()]
    return {"seconds": time.perf_counter() - started, "single": median(times)}


if __name__ == "__main__":
    main()
