"""`edgerad status`: is it running, where, and how is it doing; figures from the database."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import ledger, runfile
from edgerad.database import Database
from edgerad.records import Alert, ComponentStatus, DeadLetter, Image, Outbox, Shipment, now
from edgerad.settings import Role, Settings, load_settings


def status(
    role: Annotated[str | None, typer.Option(help="Only look at this role: edge, core or both.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print how edgerad is doing; exit status 1 when it is not running, 2 when the database cannot be read."""
    overrides: dict[str, Any] = {"role": role} if role else {}
    settings = load_settings(None, **overrides)
    run = runfile.read(settings.data_dir)
    report: dict[str, Any] = {"running": run is not None, "state": run.state if run else "not running"}
    report["role"] = settings.role
    if run:
        report |= {"pid": run.pid, "started_at": run.started_at, "addresses": run.addresses}
    try:
        report |= figures(settings)
    except SQLAlchemyError as error:
        typer.echo(
            f"edgerad: the database cannot be read ({type(error).__name__}); is `edgerad up` done once?", err=True
        )
        raise typer.Exit(2) from None
    typer.echo(json.dumps(report, indent=2) if as_json else _text(report))
    raise typer.Exit(0 if run else 1)


def figures(settings: Settings) -> dict[str, Any]:
    """Return the counts that tell whether anything waits or is lost, and each component's last sign of life."""
    database = Database(settings.database_url)
    with database.read() as session:

        def by(column: Any, *where: Any) -> dict[str, int]:
            rows = session.execute(select(column, func.count()).where(*where).group_by(column))
            return {str(name): number for name, number in rows}

        found: dict[str, Any] = {
            "components": {
                row.component: {"seconds_ago": round((now() - row.at).total_seconds(), 1), **row.data}
                for row in session.scalars(select(ComponentStatus).order_by(ComponentStatus.component))
            }
        }
        role: Role = settings.role
        if role in {"edge", "both"}:
            found |= {
                "images": by(Image.state),
                "alerts": by(Alert.state),
                "shipments": by(Shipment.state),
                "dead_letters": by(DeadLetter.reason, DeadLetter.replayed_at.is_(None)),
                "outbox_pending": session.scalar(
                    select(func.count()).select_from(Outbox).where(Outbox.published_at.is_(None))
                ),
            }
    if settings.is_edge:
        rollout = found["components"].get("rollout", {})
        found["model"] = (
            rollout["model"]
            if "model" in rollout
            else ledger.model_in_service(database, settings.ship.edge_id, settings.finding)
        )
    database.close()
    return found


def _text(report: dict[str, Any]) -> str:
    lines = [f"edgerad is {report['state']} (role {report['role']})"]
    for name, value in report.items():
        if name in {"running", "state", "role"}:
            continue
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {key}: {_one_line(item)}" for key, item in value.items()] or ["  none"]
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


def _one_line(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in item.items() if value is not None)
