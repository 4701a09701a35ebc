"""Where records come from: the protocol that every event source keeps, and Kafka.

The loop (loop.py) knows only the protocol: it does the same for Kafka and for the sweep (sweep.py).
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from edgerad import bus
from edgerad.telemetry import get_logger
from ingest.offsets import Watermark

if TYPE_CHECKING:
    from kafka import KafkaConsumer, TopicPartition

    from edgerad.sections import KafkaSettings

COMMIT_SECONDS = 0.25
"""Shortest time between two commits: under load one commit covers many batches."""
LAG_SECONDS = 0.1
ASK_SECONDS = 5.0
ANSWER_MS = 3000
"""How often a broker is asked for the ends of the partitions, and how long its answer may take."""
FETCH_BYTES = 4 * 2**20
"""Most bytes that the client fetches ahead: some thousand events, however long the backlog."""
CONNECT_MS = 5000
RETRY_SECONDS = 2.0
STUCK_SESSIONS = 4
"""Session timeouts after which trouble that does not end by itself is met by connecting anew."""

Position: TypeAlias = object
"""Where a record stands in its source; hashable, `str()` of it goes into a dead letter."""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A record as it came, with its position."""

    position: Position
    body: bytes


class EventSource(Protocol):
    """A source of S3 events. A record that was polled and never committed comes again, to this reader or another."""

    name: str
    """kafka or sweep: what images and dead letters are marked with."""

    @property
    def trouble(self) -> str | None:
        """What keeps records from coming, a short code for people; None when all is well."""

    async def poll(self, max_records: int, timeout: float) -> list[SourceRecord]:
        """Return at most `max_records` records; none when nothing came within `timeout` seconds or while paused.

        To be called every few seconds also while paused: it keeps the source's other duties alive. Does not raise
        when the source is down: it says so in `trouble`, waits and returns nothing.
        """

    async def commit(self, done: Sequence[Position]) -> None:
        """Note that the results of these records are durable; what follows from it (offsets) may take a while."""

    def lag(self) -> int | None:
        """Return how many records wait or are under way, as far as known; None when it is not known."""

    def pause(self) -> None:
        """Have `poll` return nothing and fetch nothing, until `resume`."""

    def resume(self) -> None:
        """End a pause."""

    async def close(self) -> None:
        """Give up the source, committing what is done."""


class Stuck(Exception):
    """A rebalance or an outage does not end; every reader polls, so each has joined within a session timeout."""


class KafkaPosition(NamedTuple):
    """A record's place in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """Return topic/partition/offset."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class KafkaSource:
    """`xray.uploaded`, read in the ingest group; an offset is committed once all before it is durable.

    One thread owns the consumer, which is not safe to share. Heartbeats have the client's own thread, so a long call
    to Serve costs no membership. When partitions are taken away, what is done is committed before they are given up,
    and what is under way in them is forgotten here: it comes again to their new reader, and the ledger makes that
    change nothing.
    """

    name = "kafka"

    def __init__(self, settings: KafkaSettings) -> None:
        """Keep the settings; the first `poll` connects, and connects again whenever it must."""
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka")
        self._lock = threading.Lock()
        self._marks: dict[TopicPartition, Watermark] = {}
        self._given_up: set[TopicPartition] = set()
        self._consumer: KafkaConsumer | None = None
        self._paused = False
        self._trouble: str | None = "connecting"
        self._lag: int | None = None
        self._lag_at = self._asked_at = self._committed_at = self._retry_at = self._settled_at = 0.0
        self._log = get_logger("kafka")

    @property
    def trouble(self) -> str | None:
        """connecting, kafka (it does not answer) or rebalancing; None when partitions are read."""
        return self._trouble

    def lag(self) -> int | None:
        """Return the records of the own partitions that are not done, up to a quarter of a second old."""
        return self._lag

    def pause(self) -> None:
        """Fetch nothing; the membership is kept by polling on."""
        self._paused = True

    def resume(self) -> None:
        """Fetch again."""
        self._paused = False

    async def poll(self, max_records: int, timeout: float) -> list[SourceRecord]:
        """Return records; see EventSource."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._poll, max_records, timeout)

    async def commit(self, done: Sequence[Position]) -> None:
        """Note what is durable; the next `poll` commits it."""
        from kafka import TopicPartition

        with self._lock:
            for position in done:
                if isinstance(position, KafkaPosition):
                    mark = self._marks.get(TopicPartition(position.topic, position.partition))
                    if mark is not None:
                        mark.done(position.offset)

    async def close(self) -> None:
        """Commit what is done and leave the group."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._leave)
        self._thread.shutdown(wait=False)

    def _poll(self, max_records: int, timeout: float) -> list[SourceRecord]:
        if (wait := self._retry_at - time.monotonic()) > 0:
            time.sleep(min(wait, max(timeout, 0.1)))
            return []
        try:
            consumer = self._consumer or self._connect()
            self._apply_pause(consumer)
            if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
                self._commit(consumer)
            bus.keep_join(consumer)
            polled = consumer.poll(timeout_ms=int(timeout * 1000), max_records=max_records)
            records = self._receive(polled)
            self._measure(consumer)
        except Exception as error:  # noqa: BLE001 - the client's errors have no common base; all end in a new one
            self._log.warning("Kafka failed; connecting again", error=error, retry_in=RETRY_SECONDS)
            self._trouble = "kafka"
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._disconnect()
            gc.collect()  # sockets that did not connect, which kafka-python leaves in reference cycles
            return []
        return records

    def _connect(self) -> KafkaConsumer:
        from kafka import TopicPartition

        consumer = bus.consumer(
            self._settings,
            fetch_max_bytes=FETCH_BYTES,
            bootstrap_timeout_ms=CONNECT_MS,
        )
        self._consumer = consumer
        topic = self._settings.topic_uploaded
        consumer.subscribe([topic], listener=_listener(self))
        # The group is joined once the partitions are known. kafka-python 3.0 would join without, again as soon as it
        # knows them, and when a poll ends in the middle of that, never end it.
        consumer.end_offsets([TopicPartition(topic, 0)], timeout_ms=CONNECT_MS)
        self._settled_at = time.monotonic()
        return consumer

    def _leave(self) -> None:
        if self._consumer is not None:
            self._commit(self._consumer)
        self._disconnect()

    def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None  # the listener, told of the end, must not commit once more
        self._lag = None
        if consumer is not None:
            try:
                consumer.close(autocommit=False, timeout_ms=CONNECT_MS)
            except Exception as error:  # noqa: BLE001 - it is given up in any case
                self._log.warning("Kafka consumer did not close", error=error)
        with self._lock:
            self._marks.clear()
            self._given_up.clear()

    def _apply_pause(self, consumer: KafkaConsumer) -> None:
        assigned, paused = consumer.assignment(), consumer.paused()
        if self._paused:
            consumer.pause(*(assigned - paused))
        else:
            consumer.resume(*(paused & assigned))

    def _receive(self, polled: dict[TopicPartition, list[Any]]) -> list[SourceRecord]:
        received = []
        with self._lock:
            for partition, records in polled.items():
                mark = self._marks.setdefault(partition, Watermark())
                for record in records:
                    mark.received(record.offset)
                    position = KafkaPosition(partition.topic, partition.partition, record.offset)
                    received.append(SourceRecord(position, record.value or b""))
        return received

    def _due(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, Any]:
        """Return what may be committed of these partitions, by default of all."""
        from kafka.structs import OffsetAndMetadata

        with self._lock:
            wanted = self._marks if partitions is None else [item for item in partitions if item in self._marks]
            due = {partition: self._marks[partition].to_commit() for partition in wanted}
        return {partition: OffsetAndMetadata(at, "", -1) for partition, at in due.items() if at is not None}

    def _committed(self, offsets: dict[TopicPartition, Any]) -> None:
        with self._lock:
            for partition, offset in offsets.items():
                if partition in self._marks:
                    self._marks[partition].committed(offset.offset)

    def _commit(self, consumer: KafkaConsumer) -> None:
        from kafka.errors import KafkaError

        if not (offsets := self._due()):
            return
        self._committed_at = time.monotonic()
        try:
            consumer.commit(offsets, timeout_ms=CONNECT_MS)
        except KafkaError as error:  # a rebalance, or no broker: the next poll settles which
            self._log.info("offsets not committed; trying again", error=error)
        else:
            self._committed(offsets)

    async def revoked(self, partitions: set[TopicPartition]) -> None:
        """Commit what is done of partitions that may be given up; `assigned` tells which of them stay."""
        offsets = self._due(partitions)
        try:
            if offsets and self._consumer is not None:
                await self._consumer.commit_async(offsets)
                self._committed(offsets)
        except Exception as error:  # noqa: BLE001 - their new reader repeats what could not be committed
            self._log.info("offsets not committed before a rebalance", error=error)
        with self._lock:
            self._given_up |= partitions
        self._lag = None

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions that another reader may have already."""
        with self._lock:
            for partition in partitions:
                self._marks.pop(partition, None)
        self._lag = None

    def assigned(self, partitions: set[TopicPartition]) -> None:
        """Begin with partitions, paused if the source is; those that stay go on where they are.

        The client fetches on from its position in a partition that stays, so what is under way there must not be
        forgotten: the offset would pass it.
        """
        with self._lock:
            for partition in self._given_up - partitions:
                self._marks.pop(partition, None)
            self._given_up.clear()
            for partition in partitions:
                self._marks.setdefault(partition, Watermark())
        if self._paused and self._consumer is not None:
            self._consumer.pause(*partitions)

    def _measure(self, consumer: KafkaConsumer) -> None:
        """Tell lag and trouble now and then; raise Stuck when trouble does not end by itself."""
        at = time.monotonic()
        if at - self._lag_at < LAG_SECONDS:
            return
        self._lag, self._trouble = self._look(consumer)
        self._lag_at = time.monotonic()
        if self._trouble is None:
            self._settled_at = at
        elif at - self._settled_at > STUCK_SESSIONS * self._settings.session_timeout:
            raise Stuck

    def _look(self, consumer: KafkaConsumer) -> tuple[int | None, str | None]:
        """Return lag and trouble. The client hides a dead broker, so that one is asked every few seconds.

        A reader that joined and was assigned nothing, because there are more readers than partitions, has a lag of 0.
        One that has no partition while it joins knows nothing: it may be assigned a backlog.
        """
        from kafka import TopicPartition
        from kafka.errors import KafkaError
        from kafka.structs import MemberState

        assigned = consumer.assignment()
        ends = {partition: consumer.highwater(partition) for partition in assigned}
        with self._lock:
            under_way = {partition: mark.open for partition, mark in self._marks.items()}
        begins = not self._lag and any(under_way.values())
        total = 0
        try:
            # A paused partition learns nothing new, and of a backlog that begins the first fetch tells one partition's.
            if (
                self._paused
                or begins
                or self._trouble
                or None in ends.values()
                or time.monotonic() - self._asked_at > ASK_SECONDS
            ):
                whom = list(assigned) or [TopicPartition(self._settings.topic_uploaded, 0)]
                ends = consumer.end_offsets(whom, timeout_ms=ANSWER_MS)
                self._asked_at = time.monotonic()
            for partition in assigned:
                position = consumer.position(partition, timeout_ms=ANSWER_MS)
                total += max((ends[partition] or 0) - (position or 0), 0) + under_way.get(partition, 0)
        except KafkaError:
            return None, "kafka"
        if consumer.group_metadata().state == MemberState.STABLE:
            return total, None
        return total if assigned else None, "rebalancing"


def _listener(source: KafkaSource) -> Any:
    """Return a listener that tells the source of rebalances; the client awaits it on its own event loop."""
    from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener

    class Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
            await source.revoked(revoked)

        async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
            source.assigned(assigned)

        async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
            source.lost(lost)

    return Listener()
