"""`edgerad replay`: put dead letters back into the flow when their cause is mended."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def replay(
    reason: Annotated[list[str] | None, typer.Option(help="Only those with this reason; may be repeated.")] = None,
    identity: Annotated[list[str] | None, typer.Option("--id", help="Only this one; may be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line each.")] = False,
) -> None:
    """Replay dead letters; without options list what waits. Exit status 1 when Kafka does not take them."""
    from kafka.errors import KafkaError

    from edgerad import bus
    from edgerad.database import Database
    from edgerad.settings import load_settings
    from ingest import replay as back

    settings = load_settings()
    database = Database(settings.database_url)
    letters = back.waiting(database, reason or (), identity or ())
    if not (reason or identity or everything):
        for letter in letters:
            line = {"id": letter.dead_letter_id, "reason": letter.reason, "detail": letter.detail,
                    "attempts": letter.attempts, "at": letter.created_at.isoformat()}  # fmt: skip
            typer.echo(json.dumps(line) if as_json else f"{line['id']}  {line['reason']:<20} {line['detail']}")
        return
    requeue = None
    try:
        if settings.kafka.bootstrap_servers:
            producer = bus.producer(settings.kafka)
            requeue = lambda record: producer.send(settings.kafka.topic_uploaded, record.encode()).get(10)  # noqa: E731
        done = back.replay(database, letters, requeue)
    except KafkaError as error:
        typer.echo(
            f"edgerad: Kafka does not take the records ({type(error).__name__}); nothing is lost, try again", err=True
        )
        raise typer.Exit(1) from None
    for item in done:
        line = {"id": item.dead_letter_id, "image_id": item.image_id, "reason": item.reason}
        typer.echo(json.dumps(line) if as_json else f"replayed {item.dead_letter_id} ({item.reason})")
