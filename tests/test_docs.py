"""The docs name everything a user can set, call, subscribe to or scrape, and no link in them is broken."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from edgerad.cli import app
from edgerad.database import Database
from edgerad.events import AssessedEvent
from edgerad.metrics import DatabaseCollector
from edgerad.sections import KafkaSettings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def page(name: str) -> str:
    """Return a page of the docs."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_event_field_is_documented() -> None:
    text = page("events.md")
    assert [name for name in AssessedEvent.model_fields if f"`{name}`" not in text] == []


def test_every_topic_is_documented() -> None:
    text = page("events.md")
    topics = [field.default for name, field in KafkaSettings.model_fields.items() if name.startswith("topic_")]
    assert len(topics) == 3
    assert [topic for topic in topics if f"`{topic}`" not in text] == []


def test_every_metric_is_documented(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    database.upgrade()
    names = {metric.name for metric in DatabaseCollector(database).collect()}
    assert len(names) > 8
    text = page("metrics.md")
    assert sorted(name for name in names if f"`{name}" not in text) == []


def test_every_command_and_option_is_documented() -> None:
    text = page("commands.md")
    missing = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for spoken, child in getattr(command, "commands", {"": command}).items():
            title = f"edgerad {name} {spoken}".strip()
            if f"`{title}" not in text:
                missing.append(title)
            for parameter in child.params:
                options = [option for option in parameter.opts if option.startswith("--") and option != "--help"]
                missing += [f"{title} {option}" for option in options if f"`{option}" not in text]
    assert missing == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_decision_record_has_its_parts() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert records
    for record in records:
        text = record.read_text(encoding="utf-8")
        for part in ("## Context", "## Decision", "## Measured", "## Consequences"):
            assert part in text, f"{record.name} lacks {part}"


def test_every_reason_is_on_the_page_of_images_word_for_word() -> None:
    from edgerad.reasons import REASONS

    text = page("images.md")
    assert [reason for reason, advice in REASONS.items() if f"| `{reason}` | {advice} |" not in text] == []
