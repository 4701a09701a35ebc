"""How long a scrape, a batch of results and an anti-join of the sweep take over a large SQLite database."""

from __future__ import annotations

import json
import random
import tempfile
from datetime import timedelta
from pathlib import Path

from benchmarks.timing import seconds
from edgerad import ledger, metrics
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import now
from edgerad.scoring import Outcome, Scored, Triage

IMAGES, BATCH = 100_000, 16


def fill(database: Database, first: int, count: int) -> None:
    """Register and assess images, `BATCH` a transaction as the ingest actor does."""
    classes: list[Triage] = ["high", "unknown", "low"]
    rng = random.Random(first)
    for start in range(first, first + count, BATCH):
        at = now() - timedelta(seconds=rng.uniform(0, 3600))
        images = [
            NewImage("xray", f"s/{n}.dcm", f"{n:032x}", None, 1, at, "kafka")
            for n in range(start, min(start + BATCH, first + count))
        ]
        ledger.register(database, images)
        outcomes: list[Outcome] = [
            Scored(i.image_id, "pneumonia", 0.5, 0.0, rng.choice(classes), "m", "c", "t", "litert", 0.01)
            for i in images
        ]
        letters = {image.image_id: Letter("kafka", "t/0/0", "{}") for image in images}
        ledger.record(database, outcomes, letters, ShipPolicy(True, 0.02), "xray.assessed")


def main() -> None:
    """Fill a database and time what runs over and over."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'edgerad.db'}")
        database.upgrade()
        position = 0

        def batch() -> None:
            nonlocal position
            fill(database, position, BATCH)
            position += BATCH

        empty = seconds(batch, 50)
        fill(database, position, IMAGES)
        position += IMAGES
        full = seconds(batch, 50)
        known = [f"{n:032x}" for n in range(1000)]
        result = {
            "images": position,
            "batch_ms_empty": round(empty * 1000, 2),
            "batch_ms_full": round(full * 1000, 2),
            "ratio": round(full / empty, 2),
            "scrape_ms": round(seconds(lambda: metrics.render(database)) * 1000, 1),
            "sweep_page_ms": round(seconds(lambda: ledger.states(database, known)) * 1000, 2),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
