"""What the core retrains on: labelled cases of the training split, and the rehearsal set, as references to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select

from edgerad.records import CoreCase, Label, TrainingRun
from serve.decode import decode
from serve.preprocess import GRID
from serve.reasons import Unreadable
from train import evaluation_set
from train.dataset import Cases, grid_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgerad.database import Database
    from edgerad.settings import Settings
    from edgerad.store import ObjectStore


@dataclass(frozen=True)
class Reference:
    """One radiograph to train on, by its key in the core's store; `label` 1 is positive."""

    key: str
    label: int
    group: str
    source: str


def labelled(database: Database, finding: str) -> tuple[list[Reference], int]:
    """Return the labelled training cases (the newest label counts, unsure ones do not) and the last label's id."""
    newest = select(func.max(Label.label_id)).group_by(Label.case_id)
    query = (
        select(CoreCase, Label)
        .join(Label, Label.case_id == CoreCase.case_id)
        .where(
            Label.label_id.in_(newest),
            Label.label.in_(("positive", "negative")),
            CoreCase.finding == finding,
            CoreCase.split == "train",
        )
        .order_by(CoreCase.case_id)
    )
    with database.read() as session:
        rows = list(session.execute(query))
        last = session.scalar(select(func.max(Label.label_id))) or 0
    found = [Reference(case.object_key, int(label.label == "positive"), case.patient, "cases") for case, label in rows]
    return found, int(last)


def new_labels(database: Database, finding: str) -> int:
    """Return how many usable labels have come since the last run began.

    A run that failed counts too: the same labels would make it fail again, and again.
    """
    with database.read() as session:
        since = session.scalar(select(func.max(TrainingRun.last_label_id)).where(TrainingRun.finding == finding))
        newest = select(func.max(Label.label_id)).group_by(Label.case_id)
        query = (
            select(func.count())
            .select_from(Label)
            .join(CoreCase, CoreCase.case_id == Label.case_id)
            .where(
                Label.label_id > (since or 0),
                Label.label_id.in_(newest),
                Label.label.in_(("positive", "negative")),
                CoreCase.finding == finding,
                CoreCase.split == "train",
            )
        )
        return int(session.scalar(query) or 0)


def rehearsal(store: ObjectStore, prefix: str) -> list[Reference]:
    """Return the rehearsal set's items, or none where no set is frozen."""
    frozen = evaluation_set.read(store, prefix)
    if frozen is None:
        return []
    return [Reference(item.key, item.label, item.sha256, "rehearsal") for item in frozen.items]


class Reader:
    """One actor of the Ray Data pool: fetches and decodes; an unreadable row comes out marked, not as an exception."""

    def __init__(self, settings: Settings) -> None:
        """Open the core's store."""
        from edgerad.store import ObjectStore, config_from

        self._store = ObjectStore(config_from(settings.core.store))

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Add `grid` (uint8 [GRID, GRID]) and `readable` to rows of key, label, group, source."""
        from edgerad.store import ObjectGone

        grids, readable = np.zeros((len(batch["key"]), GRID, GRID), np.uint8), []
        for index, key in enumerate(batch["key"]):
            try:
                grids[index] = grid_of(decode(self._store.get(str(key))).pixels)
            except (Unreadable, ObjectGone):
                readable.append(False)
            else:
                readable.append(True)
        return {**batch, "grid": grids, "readable": np.array(readable)}


def rows_of(references: Sequence[Reference]) -> list[dict[str, Any]]:
    """Return references as rows for Ray Data."""
    return [asdict(reference) for reference in references]


def cases_of(batches: Sequence[dict[str, npt.NDArray[Any]]]) -> Cases:
    """Build the cases of a worker out of the rows of its shard that are readable. Raises ValueError for none."""
    kept = [(batch, np.flatnonzero(batch["readable"])) for batch in batches]
    if not any(len(indices) for _, indices in kept):
        msg = "no case of this shard can be read; look at the core's store"
        raise ValueError(msg)
    return Cases(
        np.concatenate([batch["grid"][indices] for batch, indices in kept]),
        np.concatenate([batch["label"][indices] for batch, indices in kept]).astype(np.int8),
        tuple(str(batch["group"][index]) for batch, indices in kept for index in indices),
        tuple(str(batch["source"][index]) for batch, indices in kept for index in indices),
    )
