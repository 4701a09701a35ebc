"""The ingest loop: take records in, have images scored, write the results, commit. Pure asyncio, without Ray.

What it promises: a record is committed only after the results of all its images are durable; every image of a committed
record is assessed, quarantined with a reason, deleted, or a dead letter tells of the record; and memory is bounded
whatever the backlog. A crash at any point only repeats work, and the ledger makes repeated work change nothing.

When something fails, the loop asks whose fault it is, because an outage must not turn images into dead letters, and a
bad image must not be tried for ever:

- Serve pushes back: wait, fetch nothing more, try again. Never counted.
- A whole call fails (no answer in time, a replica died, an exception): Serve is asked for an empty batch. If it does
  not answer, it is an outage: wait until it does, count nothing. If it does, the fault may lie in one of the images:
  all are tried again in halves, so that it ends up alone. Alone, it becomes a dead letter after `max_attempts`.
- An image could not be fetched: the store is asked. Down: wait, count nothing. Up: this image counts an attempt.
- The object is gone: the store is asked what the key holds now; the image is deleted or replaced, or tried again.
- The database is down: the transaction is tried until it is up. Nothing is fetched meanwhile.
- A final refusal (truncated, not a chest X-ray) quarantines the image at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from edgerad import ledger
from edgerad.ledger import Letter, NewImage
from edgerad.scoring import Outcome, Refused, Scorer
from edgerad.sections import IngestSettings
from edgerad.store import Head, StoreError
from edgerad.telemetry import get_logger
from ingest import events
from ingest.books import Books
from ingest.calls import Calls
from ingest.outside import Objects, Outside
from ingest.report import Reporter
from ingest.retry import Sleep, within
from ingest.sources import EventSource, Position, SourceRecord
from ingest.work import Figures, Receipt, Work

READY_BATCHES = 2
"""Batches that wait beside those under way, so that a call begins as soon as another ends."""
POLL_SECONDS = 1.0
PAUSED_SECONDS = 0.25
"""A paused source is polled so often: what Serve scales on, its lag, is measured then."""
GONE = "object-gone"
"""The reason by which a replica says that the object is not there, or no longer with that content."""


class IngestLoop:
    """Runs one event source until it is stopped; `bucket` is the only one whose objects are taken."""

    def __init__(
        self,
        source: EventSource,
        scorer: Scorer,
        books: Books,
        objects: Objects,
        tuning: IngestSettings,
        *,
        component: str = "ingest-0",
        on_lag: Callable[[int], None] = lambda _: None,
        blocking: Callable[..., Any] = asyncio.to_thread,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Keep the parts; nothing runs before `run`. `blocking` runs a blocking function, `sleep` pauses."""
        self.figures = Figures()
        self._source, self._books, self._objects = source, books, objects
        self._tuning = tuning
        self._outside = Outside(scorer, objects, tuning, blocking, sleep)
        self._reporter = Reporter(books.database, component, on_lag, blocking)
        self._log = get_logger(component)
        self.capacity = tuning.batch_size * (tuning.calls_in_flight + READY_BATCHES)
        self._calls = Calls(scorer, self._outside, tuning, self.figures, self._settle, component)
        self._flying: dict[str, Work] = {}
        self._done: list[Position] = []
        self._finished, self._room = asyncio.Event(), asyncio.Event()
        self._stopping = False

    @property
    def held(self) -> int:
        """How many images are in memory; at most `capacity` and those of one record more."""
        return len(self._flying)

    @property
    def trouble(self) -> str | None:
        """What the loop waits for: database, store, serve, push-back or the source's own; None when it flows."""
        return self._outside.trouble or self._source.trouble

    def stats(self) -> dict[str, Any]:
        """Return the figures of now."""
        return {
            "lag": self._source.lag(),
            "inflight": self.held,
            "paused": self._must_pause(),
            "trouble": self.trouble,
            **self.figures.counts(),
        }

    async def run(self) -> None:
        """Run until `stop`, then end what is under way and commit it. Raises what the loop cannot handle."""
        try:
            async with asyncio.TaskGroup() as group:
                chores = [self._calls.run(group), self._commit(), self._reporter.run(self.stats)]
                tasks = [group.create_task(chore) for chore in chores]
                await self._pump(group)
                for task in tasks:
                    task.cancel()
        finally:
            await self._outside.close()
            if self._done:
                await self._source.commit(self._done)
            await self._source.close()

    async def stop(self) -> None:
        """Have `run` take nothing more in and end once what is under way is done."""
        self._stopping = True
        self._room.set()

    async def _pump(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        while not (self._stopping and not self._flying):
            if self._stopping or self._must_pause():
                self._source.pause()
                self._room.clear()
                await within(PAUSED_SECONDS, self._room)
                records = await self._source.poll(1, 0.0)
            else:
                self._source.resume()
                records = await self._source.poll(self.capacity - self.held, POLL_SECONDS)
            if records:
                await self._take_alive(records)
                if len(records) < self._tuning.batch_size:
                    # Few come: those that come while others are scored are taken in by one transaction.
                    await within(min(self._tuning.linger, POLL_SECONDS), self._calls.idle)

    def _must_pause(self) -> bool:
        # Room for a batch at least: many small transactions would cost more than they gain.
        return self._outside.trouble is not None or self.held > self.capacity - self._tuning.batch_size

    async def _take_alive(self, records: Sequence[SourceRecord]) -> None:
        """Take records in; poll the paused source meanwhile: a Kafka consumer that is not polled is taken for dead."""
        taking = self._group.create_task(self._take(records))
        while not taking.done():
            await asyncio.wait({taking}, timeout=PAUSED_SECONDS)
            if not taking.done():
                self._source.pause()
                await self._source.poll(1, 0.0)
        taking.result()

    async def _take(self, records: Sequence[SourceRecord]) -> None:
        """Register what the records announce; hand on what is pending."""
        self.figures.records += len(records)
        receipts = [Receipt(record.position, record.body) for record in records]
        wanted: list[tuple[NewImage, Receipt]] = []
        removed: dict[str, None] = {}
        letters: list[tuple[Letter, str]] = []
        for receipt in receipts:
            if reasons := await self._read(receipt, wanted, removed):
                letters.append((self._letter(receipt, 1), reasons[0]))
        letters += await self._register(wanted)
        if letters:
            await self._outside.write(self._books.write_letters, letters)
            self.figures.dead_letters += len(letters)
            for _, reason in letters:
                self._log.warning("record became a dead letter", reason=reason)
        if removed:
            for key in await self._outside.write(self._books.pending_keys, self._objects.bucket, list(removed)):
                await self._look_again(key)
        for receipt in receipts:
            self._close(receipt)

    async def _read(
        self, receipt: Receipt, wanted: list[tuple[NewImage, Receipt]], removed: dict[str, None]
    ) -> list[str]:
        """Sort what a record announces; return why it must become a dead letter, if it must."""
        try:
            parsed = events.parse(receipt.body)
        except events.PoisonedRecord as poisoned:
            return [poisoned.reason]
        self.figures.ignored.update(parsed.ignored)
        ours = self._objects.bucket
        reasons = parsed.poisoned
        if ({event.bucket for event in parsed.created} | {event.bucket for event in parsed.removed}) - {ours}:
            reasons.append("foreign-bucket")
        removed.update(dict.fromkeys(event.key for event in parsed.removed if event.bucket == ours))
        for event in parsed.created:
            if event.bucket != ours:
                continue
            image = event.image(self._source.name)
            if not event.etag:
                try:
                    head = await self._outside.head(event.key)
                except StoreError:
                    reasons.append("no-etag")
                    continue
                if head is None:
                    self.figures.ignored[GONE] += 1
                    continue
                image = self._current(event.key, head)
            wanted.append((image, receipt))
        return reasons

    async def _register(self, wanted: list[tuple[NewImage, Receipt]]) -> list[tuple[Letter, str]]:
        if not wanted:
            return []
        states = await self._outside.write(self._books.register, [image for image, _ in wanted])
        refused = []
        for image, receipt in wanted:
            state = states.get(image.image_id)
            if state is None:
                refused.append((self._letter(receipt, 1), "unregistrable"))
            elif state == ledger.DELETED and await self._is_there(image):
                # Stored again with the same content after it was deleted.
                await self._outside.write(self._books.revive, image.image_id)
                self._add(image, receipt)
            elif state == ledger.PENDING:
                self._add(image, receipt)
            else:
                self.figures.repeated += 1
        return refused

    def _add(self, image: NewImage, receipt: Receipt) -> None:
        receipt.open += 1
        work = self._flying.get(image.image_id)
        if work is not None:
            work.receipts.append(receipt)
            return
        work = self._flying[image.image_id] = Work(image, [receipt])
        self._calls.add(work)

    async def _settle(self, batch: list[Work], outcomes: list[Outcome]) -> list[Work]:
        """Write what is final, look into what is not; return the images to try again."""
        final: list[tuple[Work, Outcome]] = []
        doubtful: list[tuple[Work, Refused]] = []
        gone: list[tuple[Work, Refused]] = []
        for work, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Refused) and outcome.reason == GONE:
                gone.append((work, outcome))
            elif isinstance(outcome, Refused) and outcome.retryable:
                doubtful.append((work, outcome))
            else:
                final.append((work, outcome))
        await self._finish(final)
        for work, refused in gone:
            if not await self._is_gone(work):
                doubtful.append((work, refused))
        if not doubtful:
            return []
        again: list[Work] = []
        given_up: list[tuple[Work, Outcome]] = []
        answers = await self._outside.store.works()
        for work, refused in doubtful:
            if answers and work.attempts + 1 >= self._tuning.max_attempts:
                given_up.append((work, refused))
            else:
                work.attempts += answers
                again.append(work)
        await self._finish(given_up)
        return again

    async def _finish(self, final: list[tuple[Work, Outcome]]) -> None:
        """Make outcomes durable; only then are their records done."""
        if not final:
            return
        # For all of them: an outcome that no database takes becomes a refusal.
        letters = {work.image.image_id: self._letter(work.receipts[0], work.attempts + 1) for work, _ in final}
        recorded = await self._outside.write(self._books.record, [outcome for _, outcome in final], letters)
        self.figures.assessed += recorded.assessed
        self.figures.quarantined += recorded.quarantined
        for work, _ in final:
            self._end(work)

    async def _is_gone(self, work: Work) -> bool:
        """End the work on an image whose object is gone or replaced, taking in what replaced it; else return False."""
        try:
            head = await self._look_again(work.image.key)
        except StoreError:
            return False
        if head is not None:
            if head.etag.strip('"') == work.image.etag.strip('"'):
                return False
            # Its own event may be lost, or tell an ETag that the store does not know: take it in now.
            current = self._current(work.image.key, head)
            await self._register([(current, receipt) for receipt in list(work.receipts)])
        self._end(work)
        return True

    async def _look_again(self, key: str) -> Head | None:
        """Mark those pending images of a key as deleted that it no longer holds; return what it holds."""
        head = await self._outside.head(key)
        self.figures.deleted += await self._outside.write(
            self._books.deleted, self._objects.bucket, key, head.etag if head else None
        )
        return head

    async def _is_there(self, image: NewImage) -> bool:
        try:
            head = await self._outside.head(image.key)
        except StoreError:
            return True  # a replica will find out
        return head is not None and head.etag.strip('"') == image.etag.strip('"')

    def _current(self, key: str, head: Head) -> NewImage:
        bucket, name = self._objects.bucket, self._source.name
        return NewImage(bucket, key, head.etag, head.version_id, head.size, head.last_modified, name)

    def _letter(self, receipt: Receipt, attempts: int) -> Letter:
        return Letter(self._source.name, str(receipt.position), events.to_text(receipt.body), attempts)

    def _end(self, work: Work) -> None:
        del self._flying[work.image.image_id]
        for receipt in work.receipts:
            self._close(receipt)
        self._room.set()

    def _close(self, receipt: Receipt) -> None:
        receipt.open -= 1
        if receipt.open == 0:
            self._done.append(receipt.position)
            self._finished.set()

    async def _commit(self) -> None:
        while True:
            await self._finished.wait()
            self._finished.clear()
            done, self._done = self._done, []
            await self._source.commit(done)
