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
    """Replay dead letters; without options list what waits. Exit status 1 when one that was asked for stays."""
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
    if identity and (missing := set(identity) - {letter.dead_letter_id for letter in letters}):
        typer.echo(f"edgerad: no dead letter that waits has the id {', '.join(sorted(missing))}", err=True)
        raise typer.Exit(1)
    producer = None
    done: list[back.Replayed] = []
    try:
        if settings.kafka.bootstrap_servers and letters:
            producer = bus.producer(settings.kafka)
        for letter in letters:
            done += back.replay(database, [letter], bus.sender(producer, settings.kafka) if producer else None)
    except KafkaError as error:
        typer.echo(f"edgerad: Kafka does not take a record ({type(error).__name__}); try again", err=True)
    finally:
        if producer is not None:
            producer.close(timeout=5)
    for item in done:
        line = {"id": item.dead_letter_id, "image_id": item.image_id, "reason": item.reason}
        typer.echo(json.dumps(line) if as_json else f"replayed {item.dead_letter_id} ({item.reason})")
    if stay := back.waiting(database, identities=[letter.dead_letter_id for letter in letters]) if letters else []:
        why = "" if settings.kafka.bootstrap_servers else ": a record that came by Kafka needs kafka.bootstrap_servers"
        typer.echo(f"edgerad: {len(stay)} of {len(letters)} stay dead letters{why}", err=True)
        raise typer.Exit(1)
