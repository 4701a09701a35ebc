"""STOW-RS: every part has its answer, the body is parsed in linear time, and nothing stays in the spool."""

from __future__ import annotations

import asyncio
import io
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from edgerad.phantom import random_spec, render, to_dicom
from edgerad.sections import GatewaySettings
from edgerad.store import ObjectStore, StoreFull, StoreUnavailable
from ingest import instance
from ingest.gateway import Doors, create_app
from ingest.multipart import MAX_HEADERS, BodyLimits, MultipartError, write_parts
from ingest.spool import Spool
from tests.ingest.test_gateway import multipart

pytestmark = pytest.mark.usefixtures("logs")
XRAYS = [to_dicom(render(random_spec((50, number), size=256))) for number in range(3)]
CANNOT_UNDERSTAND, NOT_SUPPORTED, PROCESSING_FAILURE, OUT_OF_RESOURCES = 0xC000, 0x0122, 0x0110, 0xA700
LIMITS = BodyLimits(body_bytes=50 * 2**20, parts=20, part_bytes=2**20)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool."""
    return Spool(tmp_path / "spool")


@pytest.fixture
def client(store: ObjectStore, spool: Spool) -> TestClient:
    """A client of a gateway that takes five instances of 1 MiB."""
    settings = GatewaySettings(max_stow_parts=5, max_stow_bytes=8 * 2**20)
    doors = Doors(settings, "sesame", store, spool, lambda: b"", max_object_bytes=2**20)
    return TestClient(create_app(doors), base_url="http://localhost")


def post(client: TestClient, *parts: bytes) -> tuple[int, int, list[int]]:
    """Send parts; return the status, how many were stored, and the reasons of the others."""
    body, headers = multipart(*parts)
    answer = client.post("/dicom-web/studies", content=body, headers=headers)
    content = answer.json()
    failed = [item["00081197"]["Value"][0] for item in content.get("00081198", {}).get("Value", [])]
    return answer.status_code, len(content.get("00081199", {}).get("Value", [])), failed


def edited(**attributes: Any) -> bytes:
    """Return an X-ray with other attributes."""
    dataset = pydicom.dcmread(io.BytesIO(XRAYS[0]))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def strange_vr(keyword: bytes) -> bytes:
    """Return an X-ray one of whose UIDs has a value representation that does not exist."""
    data = bytearray(XRAYS[0])
    at = data.index(keyword, 144 + int.from_bytes(data[140:144], "little")) + 4  # behind the file meta information
    data[at : at + 2] = b"ZZ"
    return bytes(data)


def test_each_part_has_its_answer_whatever_is_wrong_with_another(
    client: TestClient, store: ObjectStore, spool: Spool
) -> None:
    unknown_class = edited(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    cut = XRAYS[1][:300]
    assert post(client, XRAYS[0], b"", unknown_class, cut, XRAYS[2]) == (
        202, 2, [CANNOT_UNDERSTAND, NOT_SUPPORTED, CANNOT_UNDERSTAND],
    )  # fmt: skip
    assert len(list(store.list())) == 2
    assert list(spool.folder.iterdir()) == []


@pytest.mark.parametrize(
    "keyword", [b"\x08\x00\x18\x00", b"\x08\x00\x16\x00", b"\x20\x00\x0d\x00", b"\x08\x00\x05\x00"]
)
def test_a_value_representation_that_does_not_exist_fails_no_other_instance(client: TestClient, keyword: bytes) -> None:
    status, stored, failed = post(client, strange_vr(keyword), XRAYS[1])
    assert status in {200, 202}
    assert stored + len(failed) == 2
    assert stored >= 1


def test_a_fault_of_ours_fails_its_own_instance_alone(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    real = instance.content_digest

    def fail_once(file: Any) -> str:
        monkeypatch.setattr("ingest.stow.content_digest", real)
        raise NotImplementedError("DOE^JANE")

    monkeypatch.setattr("ingest.stow.content_digest", fail_once)
    assert post(client, XRAYS[0], XRAYS[1]) == (202, 1, [PROCESSING_FAILURE])
    assert "DOE" not in str([{**line, "error": type(line.get("error"))} for line in logs])


@pytest.mark.parametrize(
    ("error", "reason"), [(StoreUnavailable("down"), PROCESSING_FAILURE), (StoreFull("full"), OUT_OF_RESOURCES)]
)
def test_a_store_that_does_not_take_them_is_503(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, spool: Spool, error: Exception, reason: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ObjectStore, "put", fail)
    assert post(client, XRAYS[0], XRAYS[1]) == (503, 0, [reason, reason])
    assert list(spool.folder.iterdir()) == []


def test_a_disk_that_takes_no_more_is_503(client: TestClient, spool: Spool) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))  # the kernel refuses larger files
    try:
        body, headers = multipart(bytes(2**19))
        answer = client.post("/dicom-web/studies", content=body, headers=headers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert list(spool.folder.iterdir()) == []


@pytest.mark.parametrize(
    "parts",
    [[b"x"] * 6, [bytes(2**20 + 1)], [bytes(2**20)] * 5 + [b""] * 3],
    ids=["too many", "one too large", "both"],
)
def test_more_or_larger_parts_than_allowed_are_413(client: TestClient, spool: Spool, parts: list[bytes]) -> None:
    body, headers = multipart(*parts)
    assert client.post("/dicom-web/studies", content=body, headers=headers).status_code == 413
    assert list(spool.folder.iterdir()) == []


def test_a_body_above_the_limit_is_413(client: TestClient, spool: Spool) -> None:
    body, headers = multipart(*[bytes(2**20 - 100)] * 5)
    headers |= {"Transfer-Encoding": "chunked"}
    pieces = [body, *[b"epilogue" * 2**17] * 4]
    assert client.post("/dicom-web/studies", content=iter(pieces), headers=headers).status_code == 413
    assert list(spool.folder.iterdir()) == []


async def _pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


def written(folder: Path, body: bytes, boundary: bytes = b"b0und", size: int = 64 * 1024) -> list[bytes]:
    """Return the parts that are found in a body which comes in pieces."""
    for old in folder.iterdir():
        old.unlink()
    paths = asyncio.run(write_parts(_pieces(body, size), boundary, LIMITS, folder))
    return [path.read_bytes() for path in paths]


PIECES = [b"\r", b"\n", b"-", b"--", b"b0un", b"\r\n--b0un", b"d"]
part = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES)).map(b"".join)).filter(
    lambda data: b"\r\n--b0und" not in b"\r\n" + data
)


@given(st.lists(part, min_size=1, max_size=5), st.integers(1, 200), st.sampled_from([b"", b"\r\n", b"preamble\r\n"]))
def test_parts_are_found_wherever_the_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], size: int, preamble: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "parts"
    folder.mkdir(exist_ok=True)
    body, _ = multipart(*parts)
    assert written(folder, preamble + body + b"epilogue", size=size) == parts


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"--b0und--\r\n", 400),
        (b"--b0und\r\n\r\nx", 400),
        (b"--b0undX\r\n\r\nx\r\n--b0und--", 400),
        (b"--other\r\n\r\n" + bytes(20 * 2**20), 400),
        (b"--b0und\r\nno header\r\n\r\n\r\n--b0und--", 400),
        (b"--b0und\r\nA: " + b"b" * 20_000 + b"\r\n\r\n\r\n--b0und--", 400),
        (b"--b0und\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n\r\n--b0und--", 400),
        (b"--b0und\r\n\r\n\r\n" * 80_000 + b"--b0und--", 413),
        (b"--b0und\r\n\r\n" + b"\r\n--b0und-x" * 80_000 + b"\r\n--b0und--", 413),
    ],
)
def test_what_is_no_multipart_body_is_refused(tmp_path: Path, body: bytes, status: int) -> None:
    with pytest.raises(MultipartError) as refused:
        written(tmp_path, body)
    assert refused.value.status == status
    assert len(list(tmp_path.iterdir())) <= LIMITS.parts


def test_a_body_of_another_boundary_is_not_read_to_its_end(tmp_path: Path) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"--other\r\n\r\n" + bytes(64 * 1024)

    with pytest.raises(MultipartError):
        asyncio.run(write_parts(endless(), b"b0und", BodyLimits(2**40, 10, 2**40), tmp_path))
    assert taken < 40
