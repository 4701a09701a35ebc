"""Intake: only clean and whole parcels become cases, each once; the others are refused, loudly."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import select

from edgerad import envelope
from edgerad.database import Database
from edgerad.metrics import render
from edgerad.parcels import INBOX, RECEIPT, WAYBILL, Receipt, receipt_key, sealed_key, waybill_key
from edgerad.records import DeadLetter
from serve.decode import decode
from tests.train.conftest import CORE, EDGE, OLD_PARCELS, add_private, cases, public
from train import clean, intake


def receipt_of(store: Any, parcel: Any) -> Receipt:
    signed = store.get(receipt_key(parcel.edge_id, parcel.parcel_id))
    return Receipt.model_validate_json(envelope.verified(RECEIPT, signed, [public(CORE)]))


@pytest.mark.parametrize("picture", [False, True], ids=["dicom", "png"])
def test_a_whole_parcel_becomes_a_case_with_a_receipt(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any], picture: bool
) -> None:
    parcel = make_parcel(picture=picture)
    parcel.send(store)
    taken = intake.take_in(store, database, desk)
    assert (taken.accepted, taken.refused, taken.stuck) == (1, 0, 0)
    (case,) = cases(database)
    assert store.get(case.object_key) == parcel.data
    decode(store.get(case.object_key))
    assert case.patient == parcel.manifest["patient"]
    assert case.manifest["parcel_id"] == parcel.parcel_id
    receipt = receipt_of(store, parcel)
    assert receipt.accepted
    assert case.object_digest == parcel.manifest["object_sha256"]
    assert (receipt.reason, receipt.parcel_id) == ("received", parcel.parcel_id)
    assert list(store.list(INBOX)) == []


def test_a_parcel_without_its_waybill_is_left_alone(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]
) -> None:
    parcel = make_parcel()
    store.put(sealed_key(parcel.edge_id, parcel.parcel_id), parcel.data)
    assert intake.take_in(store, database, desk) == intake.Taken()
    assert store.exists(sealed_key(parcel.edge_id, parcel.parcel_id))


def no(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


def put(keyword: str, value: Any) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def add_nested(dataset: Dataset) -> None:
    item = Dataset()
    item.PatientName = "ROE^JANE"
    dataset.SourceImageSequence = Sequence([item])


def add_overlay(dataset: Dataset) -> None:
    dataset.add_new(0x60003000, "OW", b"\1\2")


def set_preamble(dataset: Dataset) -> None:
    dataset.preamble = b"ROE^JANE".ljust(128, b"\0")


def set_source(dataset: Dataset) -> None:
    dataset.file_meta.SourceApplicationEntityTitle = "ROE_JANE"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (no("PatientIdentityRemoved"), "not-marked-deidentified"),
        (put("PatientIdentityRemoved", "NO"), "not-marked-deidentified"),
        (put("BurnedInAnnotation", "YES"), "burned-in-annotation"),
        (put("PatientName", "ROE^JANE"), "patient-mismatch"),
        (put("PatientID", "A" * 16), "patient-mismatch"),
        (put("PatientBirthDate", "19700101"), "identifying-attribute"),
        (put("OtherPatientIDs", "4711"), "identifying-attribute"),
        (put("InstitutionName", "St. Elsewhere"), "identifying-attribute"),
        (put("StudyDescription", "chest, Jane Roe"), "identifying-attribute"),
        (put("StudyTime", "101112"), "identifying-attribute"),
        (put("SOPInstanceUID", "1.2.3.4"), "identifying-attribute"),
        (add_private, "private-attribute"),
        (add_nested, "patient-mismatch"),
        (add_overlay, "unexpected-attribute"),
        (set_preamble, "preamble-not-empty"),
        (set_source, "identifying-attribute"),
        (no("PixelData"), "undecodable"),
    ],
)
def test_what_may_still_identify_is_refused_and_not_kept(
    store: Any,
    database: Database,
    desk: intake.Desk,
    make_parcel: Callable[..., Any],
    edit: Callable[[Dataset], None],
    reason: str,
) -> None:
    parcel = make_parcel().edited(edit)
    parcel.send(store)
    taken = intake.take_in(store, database, desk)
    assert taken.refused == 1
    receipt = receipt_of(store, parcel)
    assert (receipt.accepted, receipt.reason) == (False, reason)
    assert cases(database) == []
    assert [item.key for item in store.list()] == [receipt_key(parcel.edge_id, parcel.parcel_id)]
    assert intake.refusals(database) == {reason: 1}


def bomb(data: bytes) -> bytes:
    """The file with a data set that inflates to 512 MiB."""
    dataset = dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    made, squeeze = buffer.getvalue(), zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(squeeze.compress(bytes(2**20)) for _ in range(512)) + squeeze.flush()
    return made[: 132 + 12 + struct.unpack_from("<I", made, 140)[0]] + body


def nested(data: bytes) -> bytes:
    """The file with a hundred thousand sequences, each in the one before."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item
    return data[: 132 + 12 + struct.unpack_from("<I", data, 140)[0]] + opening * 100_000


@pytest.mark.parametrize("harm", [bomb, nested])
def test_what_would_take_all_memory_is_refused_before_it_is_parsed(
    store: Any,
    database: Database,
    desk: intake.Desk,
    make_parcel: Callable[..., Any],
    harm: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parcel = make_parcel()
    changed = parcel.with_data(harm(parcel.data))
    monkeypatch.setattr(clean, "dcmread", lambda *_: pytest.fail("it was parsed"))
    changed.send(store)
    assert intake.take_in(store, database, desk).refused == 1
    assert receipt_of(store, parcel).reason == "undecodable"


def test_a_picture_with_a_text_chunk_is_refused(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]
) -> None:
    parcel = make_parcel(picture=True)
    text = b"tEXt" + b"Author\0Jane Roe"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    for data, reason in (
        (parcel.data[:33] + chunk + parcel.data[33:], "unexpected-chunk"),
        (parcel.data + b"Jane Roe", "unexpected-chunk"),
        (parcel.data[:-20], "undecodable"),
        (b"\xff\xd8\xff" + parcel.data, "media-type"),
    ):
        changed = parcel.with_data(data)
        changed.send(store)
        intake.take_in(store, database, desk)
        assert receipt_of(store, parcel).reason == reason


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "manifest-invalid"),
        (b"\xff\xfe not JSON", "manifest-invalid"),
        (b"[]", "manifest-invalid"),
        (b"x" * 100_000, "manifest-invalid"),
        ({"triage": "dunno"}, "manifest-invalid"),
        ({"patient": "ROE^JANE"}, "manifest-invalid"),
        ({"deid": {"software": "x 1", "key_id": "0" * 16, "verified": False, "counts": {}}}, "manifest-invalid"),
        ({"comment": "Jane Roe"}, "manifest-invalid"),
        ({"edge_id": "south"}, "manifest-mismatch"),
        ({"parcel_id": "f" * 32}, "manifest-mismatch"),
        ({"finding": "fracture"}, "finding-unknown"),
        ({"object_bytes": 5}, "object-mismatch"),
        ({"object_sha256": "0" * 64}, "object-mismatch"),
    ],
)
def test_a_manifest_that_is_garbage_or_does_not_fit_is_refused(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any], raw: Any, reason: str
) -> None:
    parcel = make_parcel()
    data = raw if isinstance(raw, bytes) else json.dumps({**parcel.manifest, **raw}).encode()
    parcel.send(store, raw=data)
    assert intake.take_in(store, database, desk).refused == 1
    assert receipt_of(store, parcel).reason == reason
    assert list(store.list(INBOX)) == []
    assert intake.take_in(store, database, desk) == intake.Taken()


@pytest.mark.parametrize(
    ("waybill", "reason"),
    [
        ({"parcel_id": "f" * 32}, "waybill-mismatch"),
        ({"edge_id": "south"}, "waybill-mismatch"),
        ({"comment": "Jane Roe"}, "waybill-invalid"),
        ({"schema_version": 2}, "waybill-invalid"),
        ({"core_key": "0" * 16}, "core-key-unknown"),
        ({"core_key": envelope.key_id(public(OLD_PARCELS))}, "unsealing-failed"),
        ({"sealed_bytes": 100}, "size-mismatch"),
        ({"sealed_bytes": 2**40}, "too-large"),
        ({"sealed_sha256": "0" * 64}, "digest-mismatch"),
    ],
)
def test_a_waybill_that_does_not_fit_is_refused(
    store: Any,
    database: Database,
    desk: intake.Desk,
    make_parcel: Callable[..., Any],
    waybill: dict[str, Any],
    reason: str,
) -> None:
    parcel = make_parcel()
    parcel.send(store, waybill)
    assert intake.take_in(store, database, desk).refused == 1
    assert receipt_of(store, parcel).reason == reason
    assert (cases(database), list(store.list(INBOX))) == ([], [])


def other_key(waybill: bytes) -> bytes:
    return envelope.sign(WAYBILL, waybill, CORE)


def as_a_receipt(waybill: bytes) -> bytes:
    return envelope.sign(RECEIPT, waybill, EDGE)


def changed_after_signing(waybill: bytes) -> bytes:
    signed = json.loads(envelope.sign(WAYBILL, waybill, EDGE))
    payload = {**json.loads(waybill), "sealed_bytes": 99}
    return json.dumps({**signed, "payload": base64.b64encode(json.dumps(payload).encode()).decode()}).encode()


def without_signature(waybill: bytes) -> bytes:
    return json.dumps({**json.loads(envelope.sign(WAYBILL, waybill, EDGE)), "signatures": []}).encode()


@pytest.mark.parametrize(
    "forge",
    [other_key, as_a_receipt, changed_after_signing, without_signature, lambda waybill: waybill, lambda _: b"x"],
)
def test_a_waybill_that_the_edge_has_not_signed_is_refused(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any], forge: Callable[[bytes], bytes]
) -> None:
    parcel = make_parcel()
    parcel.send(store)
    key = waybill_key(parcel.edge_id, parcel.parcel_id)
    store.put(key, forge(envelope.verified(WAYBILL, store.get(key), [public(EDGE)])))
    assert intake.take_in(store, database, desk).refused == 1
    assert receipt_of(store, parcel).reason == "signature-invalid"
    assert (cases(database), list(store.list(INBOX))) == ([], [])


def test_an_edge_may_have_two_keys_while_it_changes_them_and_a_stranger_none(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]
) -> None:
    parcel = make_parcel()
    parcel.send(store)
    assert intake.take_in(store, database, replace(desk, edges={})).refused == 1
    assert receipt_of(store, parcel).reason == "edge-unknown"
    parcel.send(store)
    both = replace(desk, edges={parcel.edge_id: (public(CORE), public(EDGE))})
    assert intake.take_in(store, database, both).accepted == 1


def test_a_refusal_is_loud_until_the_parcel_is_taken(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]
) -> None:
    parcel = make_parcel()
    for _ in range(2):
        parcel.edited(put("InstitutionName", "St. Elsewhere")).send(store)
        intake.take_in(store, database, desk)
    with database.read() as session:
        (letter,) = session.scalars(select(DeadLetter))
    assert (letter.reason, letter.source, letter.replayed_at) == ("identifying-attribute", "parcel", None)
    assert "Elsewhere" not in letter.detail + letter.record + letter.position
    page = render(database).decode()
    assert 'edgerad_parcels_refused_total{reason="identifying-attribute"} 1.0' in page
    assert 'edgerad_dead_letters{reason="identifying-attribute"} 1.0' in page
    parcel.send(store)
    assert intake.take_in(store, database, desk).accepted == 1
    page = render(database).decode()
    assert 'edgerad_dead_letters{reason="identifying-attribute"}' not in page
    assert "edgerad_parcels_received_total 1.0" in page


def test_a_waybill_without_its_parcel_is_refused(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]
) -> None:
    parcel = make_parcel()
    parcel.send(store)
    store.delete(sealed_key(parcel.edge_id, parcel.parcel_id))
    assert intake.take_in(store, database, desk).refused == 1
    assert receipt_of(store, parcel).reason == "object-missing"


def test_keys_that_are_no_parcels_are_counted_and_left(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]
) -> None:
    for key in ("readme", "north/x/waybill.json", "North/" + "a" * 32 + "/waybill.json", "north/" + "a" * 32 + "/x"):
        store.put(INBOX + key, b"{}")
    make_parcel().send(store)
    taken = intake.take_in(store, database, desk)
    assert (taken.accepted, taken.strays) == (1, 4)
    assert len(list(store.list(INBOX))) == 4


def test_one_parcel_that_breaks_the_code_holds_up_no_other(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_parcel(1), make_parcel(2)
    first.send(store)
    second.send(store)
    real = clean.check

    def breaks(data: bytes, media_type: str, patient: str) -> None:
        if data == first.data:
            raise RuntimeError("a value that must not be logged")
        real(data, media_type, patient)

    monkeypatch.setattr(clean, "check", breaks)
    taken = intake.take_in(store, database, desk)
    assert (taken.accepted, taken.stuck) == (1, 1)
    monkeypatch.setattr(clean, "check", real)
    assert intake.take_in(store, database, desk).accepted == 1
    assert len(cases(database)) == 2


def test_a_refused_parcel_may_come_again_and_an_accepted_one_stays_what_it_was(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]
) -> None:
    good = make_parcel()
    good.send(store, {"sealed_sha256": "0" * 64})
    intake.take_in(store, database, desk)
    assert not receipt_of(store, good).accepted
    good.send(store)
    intake.take_in(store, database, desk)
    assert receipt_of(store, good).accepted
    make_parcel(3).with_manifest(parcel_id=good.parcel_id).send(store)
    assert intake.take_in(store, database, desk).repeated == 1
    (case,) = cases(database)
    assert case.object_digest == good.manifest["object_sha256"]
    assert store.get(case.object_key) == good.data


def test_the_split_follows_the_patient_for_ever() -> None:
    # Changing the way of splitting moves patients from evaluation to training: these must never change.
    known = {"B" * 16: "train", "C" * 16: "train", "D" * 16: "evaluation"}
    assert {patient: intake.split_of("north", patient) for patient in known} == known
    drawn = [intake.split_of("north", f"patient-{number}") for number in range(2000)]
    assert 0.17 < drawn.count("evaluation") / len(drawn) < 0.23
    assert drawn != [intake.split_of("south", f"patient-{number}") for number in range(2000)]
