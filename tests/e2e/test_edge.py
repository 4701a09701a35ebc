"""The edge over real parts: storescu > Ceph > HTTP notification > Kafka > Ray > PostgreSQL > dashboard."""

import json
import subprocess
from pathlib import Path

import pytest

from deploy.ceph import Ceph, client, set_notification
from deploy.kafka import Kafka
from edgerad.phantom import bad_inputs, random_spec, render, to_dicom, to_jpeg
from edgerad.records import Alert, Assessment, Image, Outbox
from tests.conftest import CHROMIUM_FLAGS
from tests.e2e.conftest import Start, kafka_variables, store_variables

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(600)]
COUNT = 12


def test_from_storescu_to_the_dashboard(
    tmp_path: Path,
    edgerad_up: Start,
    kafka_broker: Kafka,
    ceph: Ceph,
    postgres_url: str,
    dcmtk: None,
    chromium: str,
) -> None:
    edge = edgerad_up(
        "edge",
        postgres_url,
        **store_variables(ceph, "e2e-edge"),
        **kafka_variables(kafka_broker, "e2e-edge"),
        # The sweep must not help: what arrives has come by the notification.
        INGEST__SWEEP_INTERVAL="3600",
        SHIP__ENABLED="false",
    )
    endpoints = ceph.endpoints()
    keys = (endpoints["access_key"], endpoints["secret_key"])
    scheme, _, rest = edge.addresses["gateway"].partition("://")
    set_notification(endpoints["s3"], keys, "e2e-edge", f"{scheme}://edgerad:{edge.token}@{rest}/s3-events")

    files = []
    for number in range(COUNT):
        phantom = render(random_spec((77, number), positive=number % 2 == 0, severity=0.9, size=512))
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(to_dicom(phantom))
        files.append(str(path))
    host, _, port = edge.addresses["receiver"].rpartition(":")
    subprocess.run(["storescu", "-aec", "EDGERAD", host, port, *files], check=True, timeout=120)
    s3 = client(endpoints["s3"], keys)
    s3.put_object(Bucket="e2e-edge", Key="room 1/pät+1.jpg", Body=to_jpeg(render(random_spec(5, size=512))))
    for bad in bad_inputs(tmp_path / "bad"):
        if bad.file in {"truncated.dcm", "ct.dcm", "empty.dcm", "huge.jpeg"}:
            s3.put_object(Bucket="e2e-edge", Key=f"bad/{bad.file}", Body=(tmp_path / "bad" / bad.file).read_bytes())

    expected = COUNT + 1 + 4
    edge.wait(lambda: sum(edge.states().values()) == expected and "pending" not in edge.states(), "all images ended")
    assert edge.states() == {"assessed": COUNT + 1, "quarantined": 4}
    assert {row.source for row in edge.rows(Image)} == {"kafka"}
    reasons = {row.key: row.reason for row in edge.rows(Image) if row.state == "quarantined"}
    assert reasons == {
        "bad/truncated.dcm": "truncated",
        "bad/ct.dcm": "not-a-radiograph",
        "bad/empty.dcm": "empty",
        "bad/huge.jpeg": "too-large",
    }
    alerts = edge.rows(Alert)
    assert len(alerts) == sum(row.triage == "high" for row in edge.rows(Assessment)) > 0
    edge.wait(lambda: all(row.published_at for row in edge.rows(Outbox)), "the outbox is published")
    assert _assessed_events(kafka_broker) == {row.assessment_id for row in edge.rows(Assessment)}
    assert "Doe" not in edge.tail()
    _dashboard_shows(chromium, edge.addresses["dashboard"], tmp_path / "worklist.png", len(alerts))


def _assessed_events(broker: Kafka) -> set[str]:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        "e2e-edge.assessed",
        bootstrap_servers=broker.bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=5000,
        group_id=None,
    )
    found = {json.loads(record.value)["assessment_id"] for record in consumer}
    consumer.close()
    return found


def _dashboard_shows(chromium: str, address: str, picture: Path, alerts: int) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(address)
        expect(page.get_by_role("button", name="Acknowledge").first).to_be_visible(timeout=60_000)
        assert page.get_by_role("button", name="Acknowledge").count() == min(alerts, 25)
        page.screenshot(path=str(picture))
        browser.close()
