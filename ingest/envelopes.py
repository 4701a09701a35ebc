"""What stands around events: `Records`, SNS notifications, SQS messages, a store's test event.

SNS and SQS nest: a bucket may tell SNS, which tells SQS, whose messages a program brings here, each as a text inside
the other (Amazon SNS Developer Guide, "Parsing message formats"; Amazon SQS API, "Message"; AWS Lambda Developer Guide,
"Using Lambda with Amazon SQS" and "with Amazon SNS").
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ingest.dialects import dialect_of, eventbridge, noobaa
from ingest.dialects.event import PoisonedRecord

DEPTH = 4
"""How many envelopes may stand around an event; what is deeper is no event."""
AROUND_ONE_EVENT = frozenset({"EventName", "Key", "Records"})
"""Fields of MinIO's and RustFS's messages that tell of one event: not of each of several."""


@dataclass(frozen=True, slots=True)
class Single:
    """One event: the entry, and the message that says this event and no other.

    Of what holds no event, `entry` is None and `ignored` or `poisoned` has the reason.
    """

    entry: Any
    message: Any
    ignored: str = ""
    poisoned: str = ""


def singles(body: bytes | str) -> list[Single]:
    """Return every event of a message by itself; raises PoisonedRecord when it is no message of a store at all."""
    return list(_opened(_json(body), DEPTH))


def _json(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise PoisonedRecord("not-json") from None


def _opened(message: Any, depth: int) -> Iterator[Single]:
    if message == noobaa.TEST:
        yield Single(None, message, ignored="test-event")
    elif not isinstance(message, dict) or not depth:
        raise PoisonedRecord("not-an-s3-event")
    elif eventbridge.DIALECT.owns(message):
        yield Single(message, message)
    elif isinstance(message.get("Records"), list):
        yield from _entries(message, depth)
    elif message.get("Event") == "s3:TestEvent":
        yield Single(None, message, ignored="test-event")
    elif "TopicArn" in message and message.get("Type") != "Notification":
        yield Single(None, message, ignored="sns-control")
    elif (inner := _inner(message)) is not None:
        yield from _opened(_json(inner), depth - 1)
    elif isinstance(message.get("Messages"), list):  # what SQS answers to a request for messages
        if not message["Messages"]:
            yield Single(None, message, ignored="no-records")
        for one in message["Messages"]:
            yield from _each(one, depth - 1)
    else:
        raise PoisonedRecord("not-an-s3-event")


def _entries(message: dict[str, Any], depth: int) -> Iterator[Single]:
    entries = message["Records"]
    if not entries:
        yield Single(None, message, ignored="no-records")
    rest = {name: value for name, value in message.items() if name not in AROUND_ONE_EVENT}
    for entry in entries:
        if isinstance(entry, dict) and dialect_of(entry) is None and _inner(entry) is not None:
            yield from _each(entry, depth - 1)
        else:
            yield Single(entry, message if len(entries) == 1 else {**rest, "Records": [entry]})


def _each(envelope: Any, depth: int) -> Iterator[Single]:
    """Open one of several envelopes; one without sense does not spoil the others."""
    try:
        yield from list(_opened(_json(_inner(envelope) or ""), depth))
    except PoisonedRecord as poisoned:
        yield Single(None, envelope, poisoned=poisoned.reason)


def _inner(envelope: Any) -> str | None:
    """Return the text inside an envelope of SNS or SQS, None when it is neither."""
    if not isinstance(envelope, dict):
        return None
    if "TopicArn" in envelope:
        inner = envelope.get("Message")
    elif isinstance(envelope.get("Sns"), dict):  # SNS as Lambda gets it
        inner = envelope["Sns"].get("Message")
    elif envelope.get("eventSource") == "aws:sqs":  # SQS as Lambda gets it
        inner = envelope.get("body")
    elif "ReceiptHandle" in envelope or "MD5OfBody" in envelope:
        inner = envelope.get("Body")
    else:
        return None
    return inner if isinstance(inner, str) else None
