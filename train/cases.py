"""What the core retrains on: labelled cases of the training split, and the rehearsal set, as references to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select

from edgerad.records import CoreCase, Label, TrainingRun
from imaging.refusal import Unreadable
from serve.decode import decode
from serve.preprocess import GRID
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


def last_label(database: Database) -> int:
    """Return the id of the label that came last, 0 for none."""
    with database.read() as session:
        return int(session.scalar(select(func.max(Label.label_id))) or 0)


def labelled(database: Database, finding: str, until: int, split: str = "train") -> list[Reference]:
    """Return the labelled cases of a split by the labels up to `until`, a label's id.

    The newest label of a case counts, unsure ones do not. The same `until` always gives the same cases: labels are
    append-only and a case's split never changes.
    """
    newest = select(func.max(Label.label_id)).where(Label.label_id <= until).group_by(Label.case_id)
    query = (
        select(CoreCase, Label)
        .join(Label, Label.case_id == CoreCase.case_id)
        .where(
            Label.label_id.in_(newest),
            Label.label.in_(("positive", "negative")),
            CoreCase.finding == finding,
            CoreCase.split == split,
        )
        .order_by(CoreCase.case_id)
    )
    with database.read() as session:
        rows = list(session.execute(query))
    return [Reference(case.object_key, int(label.label == "positive"), case.patient, "cases") for case, label in rows]


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
    """One actor of the Ray Data pool: fetches and decodes; what cannot be read is left out, not raised."""

    def __init__(self, settings: Settings) -> None:
        """Open the core's store."""
        from edgerad.store import ObjectStore, config_from

        self._store = ObjectStore(config_from(settings.core.store))

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the rows (key, label, group, source) that can be read, with `grid`, uint8 [GRID, GRID]."""
        from edgerad.store import ObjectGone

        grids, kept = [], []
        for index, key in enumerate(batch["key"]):
            try:
                grids.append(grid_of(decode(self._store.get(str(key))).pixels))
            except (Unreadable, ObjectGone):
                continue
            kept.append(index)
        rows = {name: values[kept] for name, values in batch.items()}
        return {**rows, "grid": np.stack(grids) if grids else np.zeros((0, GRID, GRID), np.uint8)}


def rows_of(references: Sequence[Reference]) -> list[dict[str, Any]]:
    """Return references as rows for Ray Data."""
    return [asdict(reference) for reference in references]


def cases_of(batches: Sequence[dict[str, npt.NDArray[Any]]]) -> Cases:
    """Build the cases of a worker out of the rows of its shard."""
    return Cases(
        np.concatenate([batch["grid"] for batch in batches]),
        np.concatenate([batch["label"] for batch in batches]).astype(np.int8),
        tuple(str(group) for batch in batches for group in batch["group"]),
        tuple(str(source) for batch in batches for source in batch["source"]),
    )
