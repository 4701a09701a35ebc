"""`edgerad calibrate`: fit the model's calibration to this site's readings, look at it, take it back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgerad.settings import load_settings

if TYPE_CHECKING:
    from serve.site import Proposal

EXIT_NOT_BETTER = 3


def calibrate(
    person: Annotated[str, typer.Option(help="Who decides; it is recorded. Needed to change anything.")] = "",
    show: Annotated[
        bool, typer.Option("--show", help="Only show the refit's figures and what was in service.")
    ] = False,
    revert: Annotated[str, typer.Option(help="Put this version, or `bundle`, back into service.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Put the refit into service though it is not better.")] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="Count simulated readings as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Refit the calibration of the model in service to this site's readings, and serve it if it is better.

    Better means: with 95 % confidence less log loss on readings it was not fitted to. The running edge takes it up by
    itself. Exit status: 0 if done, 3 if the refit is not better (nothing changes), 2 if it cannot be done.
    """
    from edgerad import ledger
    from edgerad.database import Database
    from serve import site
    from serve.bundle import BundleError
    from serve.shelf import Shelf, bundled_digest
    from serve.triage import measure_choices

    settings = load_settings()
    database = Database(settings.database_url)
    database.upgrade()
    digest = ledger.model_in_service(database, settings.ship.edge_id, settings.finding)
    here = site.Site(settings.ship.edge_id, settings.finding, digest or bundled_digest(settings.finding))
    actor = f"person:{person.strip()}"
    if not show and not 0 < len(person.strip()) <= 57:
        _stop("say who decides: --person NAME (1 to 57 characters), or only look: --show")
    try:
        if revert and not show:
            site.revert(database, here, None if revert == "bundle" else revert, actor, "reverted by hand")
            _print(as_json, {"in_service": revert}, f"in service: {revert}")
            return
        bundled = Shelf(settings).calibration(here.model_digest)
        now = site.current(database, here) or bundled
        read = site.readings(database, here, simulated=simulated)
        proposal = site.propose(read, now, bundled, settings.serve.calibrate_readings)
    except (site.NotPossible, BundleError) as error:
        _stop(str(error))
    facts = {
        "model": here.model_digest,
        "in_service": now.version,
        "refit": {"a": proposal.calibration.a, "b": proposal.calibration.b},
        **asdict(proposal.figures),
        "better": proposal.figures.is_better,
    }
    if show:
        facts["history"] = [
            {"version": row.version, "a": row.a, "b": row.b, "readings": row.readings, "by": row.decided_by}
            | {"at": row.at.isoformat(), "reason": row.reason}
            for row in site.history(database, here)
        ]
        choices = measure_choices(read.labels, now.apply(read.logits))
        facts["thresholds"] = [asdict(choice) for choice in choices]
    elif proposal.figures.is_better or force:
        made = site.put_into_service(database, here, proposal, actor, "forced by hand" if force else "refitted by hand")
        facts["in_service"] = made.version
    text = _explained(proposal, str(facts["in_service"]))
    _print(as_json, facts, f"{text}\n{_table(facts['thresholds'])}" if show else text)
    if not (show or force or proposal.figures.is_better):
        raise typer.Exit(EXIT_NOT_BETTER)


def _explained(proposal: Proposal, version: str) -> str:
    figures, made = proposal.figures, proposal.calibration
    verdict = "better with confidence" if figures.is_better else "not better with confidence"
    return (
        f"{figures.readings} readings, {figures.positives} positive; refit a {made.a:.3f}, b {made.b:+.3f}: {verdict}\n"
        f"log loss {figures.loss_now:.4f} now, {figures.loss_refit:.4f} refitted (gain {figures.gain:+.4f}, standard"
        f" error {figures.gain_error:.4f})\n"
        f"calibration error {figures.error_now:.4f} now, {figures.error_refit:.4f} refitted\nin service: {version}"
    )


def _table(choices: list[dict[str, Any]]) -> str:
    """What other thresholds would do to these readings, under the calibration in service."""
    rows = ["low below  high above  unknown  of the errors  low, but positive  high, but negative"]
    for choice in choices:
        shares = [choice[name] for name in ("unknown", "caught", "low_wrong", "high_wrong")]
        cells = [f"{share:.1%}" if share is not None else "-" for share in shares]
        line = f"{cells[0]:>7}  {cells[1]:>13}  {cells[2]:>17}  {cells[3]:>18}"
        rows.append(f"{choice['low']:>9.2f}  {choice['high']:>10.2f}  {line}")
    return "\n".join(rows)


def _print(as_json: bool, facts: dict[str, Any], text: str) -> None:
    typer.echo(json.dumps(facts) if as_json else text)


def _stop(message: str) -> NoReturn:
    typer.echo(f"edgerad: {message}", err=True)
    raise typer.Exit(2)
