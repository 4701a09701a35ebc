"""The line to the core breaks in every way: nothing is lost, nothing sent twice, and it goes on where it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from botocore import auth
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgerad.records import now
from edgerad.store import ClockSkewed, ObjectStore
from edgerad.upload import abort_uploads
from ship import forward
from ship.forward import Forwarder
from tests.ship.conftest import SETTINGS, SMALL_PARTS, World
from tests.ship.line import How

pytestmark = pytest.mark.usefixtures("deidentified_once")

SENDER = str(Path(__file__).parent / "sender.py")
LATER = timedelta(seconds=2)


class Dies(BaseException):
    """The end of the process, as far as one can have it inside of one."""


def is_received(world: World, at: datetime) -> None:
    """See a shipment through to its end; there is one case of it."""
    world.step(at)
    assert world.shipment.state == "sent"
    taken = world.core_takes()
    assert (taken.accepted, taken.refused, taken.stuck) == (1, 0, 0)
    world.step(at)
    assert world.shipment.state == "received"
    assert len(world.cases) == 1
    assert list(world.outbox.list()) == []


@pytest.mark.parametrize(
    ("how", "part"),
    [
        *((how, "sealed") for how in ("refused", "cut", "lost answer", "500", "503", "507", "garbage", "404 page")),
        *((how, "waybill") for how in ("refused", "lost answer", "garbage")),
    ],
)
def test_a_transfer_that_fails_is_repeated_after_a_pause(world: World, xray: bytes, how: How, part: str) -> None:
    at = now()
    world.arrive(xray)
    world.line.breaks(how, lambda method, path: method == "PUT" and part in path)
    world.step(at)
    shipment = world.shipment
    assert (shipment.state, shipment.attempts) == ("sealed", 1)
    assert world.forwarder.trouble == ("StoreFull" if how == "507" else "StoreUnavailable")
    assert shipment.next_attempt_at is not None
    assert at < shipment.next_attempt_at <= at + LATER
    before = len(world.line.asked)
    world.step(at)
    assert len(world.line.asked) == before, "not before its time"
    world.line.mend()
    is_received(world, at + LATER)
    assert not world.forwarder.trouble
    waybills = world.line.requests("PUT", "waybill")
    assert len(waybills) == 1, "a waybill that arrived is not sent again, even if its answer was lost"
    puts = [path for method, path in world.line.asked if method == "PUT"]
    assert puts[-1] == waybills[0], "the waybill commits, so it is last"


@pytest.mark.parametrize("how", ["truncated", "garbage", "500", "refused", "404 page"])
def test_receipts_that_cannot_be_read_close_nothing(world: World, xray: bytes, how: How) -> None:
    at = now()
    world.arrive(xray)
    world.step(at)
    world.core_takes()
    world.line.breaks(how, lambda method, path: "receipts" in path)
    world.step(at)
    assert world.shipment.state == "sent"
    world.line.mend()
    world.step(at)
    assert world.shipment.state == "received"


def test_a_core_that_never_answers_delays_for_its_timeout_and_no_longer(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)
    world.shipper.seal(at)
    slow = ObjectStore(replace(world.core.config, read_timeout=0.2))
    world.line.breaks("silent")
    Forwarder(world.database, world.outbox, slow, SETTINGS, world.secrets.public).send(at)
    assert (world.shipment.state, world.shipment.attempts) == ("sealed", 1)
    world.line.mend()
    is_received(world, at + LATER)


@pytest.mark.parametrize("how", ["truncated", "500", "refused", "lost answer"])
def test_a_list_of_uploads_or_parts_that_is_cut_off_is_not_taken_for_an_empty_one(
    world: World, xray: bytes, how: How
) -> None:
    world.restart(part_bytes=SMALL_PARTS)
    at = now()
    world.arrive(xray)
    world.line.breaks("refused", lambda method, path: "partNumber=4" in path)
    world.step(at)
    sent = len(world.line.requests("PUT", "partNumber"))
    assert sent == 3
    world.line.mend()
    world.line.breaks(how, lambda method, path: method == "GET" and "upload" in path)
    world.step(at + LATER)
    assert len(world.line.requests("PUT", "partNumber")) == sent
    world.line.mend()
    is_received(world, at + 4 * LATER)
    assert len(world.line.requests("POST", "uploads")) == 1, "the upload that was begun went on"


@pytest.mark.parametrize("how", ["refused", "cut", "lost answer", "500", "garbage"])
def test_an_upload_in_parts_goes_on_with_the_part_that_failed(world: World, xray: bytes, how: How) -> None:
    world.restart(part_bytes=SMALL_PARTS)
    at = now()
    world.arrive(xray)
    world.line.breaks(how, lambda method, path: "partNumber=4" in path)
    world.step(at)
    world.line.mend()
    is_received(world, at + LATER)
    parts = [path.partition("partNumber=")[2].partition("&")[0] for path in world.line.requests("PUT", "partNumber")]
    assert parts == [str(number) for number in range(1, len(parts) + 1)], "no part was sent twice, however it failed"
    assert len(world.line.requests("POST", "uploads")) == 1


def test_a_restarted_edge_goes_on_with_its_upload_and_aborts_those_that_nobody_waits_for(
    world: World, xray: bytes
) -> None:
    world.restart(part_bytes=SMALL_PARTS)
    at = now()
    world.arrive(xray)
    world.line.breaks("refused", lambda method, path: "partNumber=4" in path)
    world.step(at)
    world.line.mend()
    client = world.inside.client
    strays = ("inbox/edge/" + "f" * 32 + "/sealed", "inbox/edge2/" + "f" * 32 + "/sealed")
    for key in strays:
        client.create_multipart_upload(Bucket="core", Key=key)
    world.restart()
    is_received(world, at + LATER)
    left = [item["Key"] for item in client.list_multipart_uploads(Bucket="core").get("Uploads", [])]
    assert left == [strays[1]], "another edge's uploads are its own"
    assert len(world.line.requests("POST", "uploads")) == 1


def test_a_parcel_that_was_sealed_anew_does_not_go_on_with_the_parts_of_the_old_one(world: World, xray: bytes) -> None:
    world.restart(part_bytes=SMALL_PARTS)
    at = now()
    world.arrive(xray)
    world.line.breaks("refused", lambda method, path: "partNumber=4" in path)
    world.step(at)
    world.line.mend()
    world.outbox.delete(f"{world.shipment.parcel_id}/sealed")
    world.step(at + LATER)
    assert (world.shipment.state, world.shipment.reason) == ("queued", "outbox-changed")
    is_received(world, at + 4 * LATER)


def test_an_edge_that_is_killed_in_the_middle_of_an_upload_goes_on_with_it(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)
    world.shipper.seal(at)
    pem = world.secrets.edge.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    sender = subprocess.Popen(
        [sys.executable, SENDER, str(world.folder), world.edge.config.endpoint_url, world.line.url, str(SMALL_PARTS)],
        env={**os.environ, "EDGE_KEY": pem},
    )
    world.line.breaks(
        "cut", lambda method, path: "partNumber=3" in path, 1, lambda: os.kill(sender.pid, signal.SIGKILL)
    )
    assert sender.wait() == -signal.SIGKILL
    assert len(world.line.requests("PUT", "partNumber")) == 2
    assert world.shipment.state == "sealed"
    world.restart(part_bytes=SMALL_PARTS)
    is_received(world, at)
    parts = world.line.requests("PUT", "partNumber")
    assert len(parts) == len(set(parts)), "no part was sent twice"


def test_an_edge_that_dies_between_any_two_requests_sends_one_parcel(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)
    world.shipper.seal(at)

    for alive in range(1, 100):  # requests that it lives for
        left = iter(range(alive - 1))

        def dies(**_: object) -> None:
            if next(left, None) is None:  # noqa: B023 - used in this turn only
                raise Dies

        world.restart()
        events = world.core.client.meta.events
        events.register("after-call.s3", dies)
        try:
            world.forwarder.send(at)
        except Dies:
            continue
        finally:
            events.unregister("after-call.s3", dies)
        break
    assert alive > 3
    assert world.shipment.state == "sent"
    assert len(world.line.requests("PUT", "waybill")) == 1
    is_received(world, at)


def test_outside_the_time_window_nothing_is_uploaded_and_receipts_still_close(world: World, xray: bytes) -> None:
    night = datetime(2026, 1, 2, 23, 30).astimezone()
    clock = [night]
    world.restart(window="22:00-06:00", part_bytes=SMALL_PARTS)
    world.forwarder = Forwarder(
        world.database, world.outbox, world.core, world.settings, world.secrets.public, lambda: clock[0]
    )
    at = now()
    world.arrive(xray)
    world.shipper.seal(at)
    clock[0] = night + timedelta(hours=12)
    assert world.forwarder.send(at) == 0
    assert world.line.asked == []
    assert world.forwarder.trouble == "outside the time window"
    clock[0] = night

    def morning() -> None:
        clock[0] = night + timedelta(hours=12)

    world.line.breaks("not at all", lambda method, path: "partNumber=2" in path, 1, morning)
    assert world.forwarder.send(at) == 0
    assert len(world.line.requests("PUT", "partNumber")) == 2, "the morning came in the middle of the upload"
    assert (world.shipment.attempts, world.forwarder.trouble) == (0, "outside the time window")
    clock[0] = night + timedelta(days=1)
    assert world.forwarder.send(at) == 1
    assert len(world.line.requests("POST", "uploads")) == 1
    clock[0] = night + timedelta(hours=12)
    world.core_takes()
    assert world.forwarder.collect(at + LATER) == 1
    assert world.shipment.state == "received"


def test_a_wrong_clock_is_named_and_loses_nothing(world: World, xray: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    at = now()
    world.arrive(xray)
    world.shipper.seal(at)
    real: Callable[[], datetime] = vars(auth)["get_current_datetime"]
    of_the_core = [False]

    def clock() -> datetime:
        """Three hours ahead where the core is asked; the edge's own store has the edge's own clock."""
        return real() + timedelta(hours=3 if of_the_core.pop() else 0)

    with monkeypatch.context() as patched:
        patched.setattr(auth, "get_current_datetime", clock)
        events = {store: store.client.meta.events for store in (world.core, world.outbox)}
        for store, emitter in events.items():
            emitter.register("before-sign.s3", lambda at_core=store is world.core, **_: of_the_core.append(at_core))
        ahead = at + timedelta(hours=3)
        world.forwarder.send(ahead)
        assert (world.shipment.state, world.shipment.next_attempt_at) == ("sealed", None)
        assert world.forwarder.trouble == "ClockSkewed"
        with pytest.raises(ClockSkewed, match="clock differs from the store's"):
            world.core.put("k", b"content")
    is_received(world, at)


def test_an_edge_that_may_not_list_uploads_sends_all_the_same(world: World, xray: bytes) -> None:
    world.line.breaks("403", lambda method, path: method == "GET" and "uploads" in path)
    world.arrive(xray)
    is_received(world, now())


def test_abort_uploads_keeps_what_it_is_told_to(world: World) -> None:
    client = world.inside.client
    for name in ("a", "b"):
        client.create_multipart_upload(Bucket="core", Key=f"inbox/edge/{name}")
    assert abort_uploads(world.inside, "inbox/edge/", lambda key: key.endswith("a")) == 1
    assert [item["Key"] for item in client.list_multipart_uploads(Bucket="core")["Uploads"]] == ["inbox/edge/a"]


def test_pauses_grow_and_are_capped() -> None:
    pauses = [forward.retry_after(n, SETTINGS, jitter=1.0).total_seconds() for n in (1, 2, 3, 30, 1000)]
    assert pauses == [1.0, 2.0, 4.0, 60.0, 60.0]
