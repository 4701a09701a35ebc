"""A running embedded S3 server, boto3's client as users make it, and requests by hand."""

import hashlib
import http.client
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from edgerad.s3server import S3Server

ACCESS, SECRET = "access", "secret/with+odd"
CLIENTS: list[Any] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server."""
    with S3Server(tmp_path_factory.mktemp("s3"), ACCESS, SECRET) as found:
        yield found


def client_of(server: S3Server | str, secret: str = SECRET, access: str = ACCESS, **config: Any) -> Any:
    """Return boto3's client as users make it: its own defaults, checksums included. It is closed after the test."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server if isinstance(server, str) else server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config),
    )
    CLIENTS.append(client)
    return client


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    """Close what a test opened."""
    yield
    while CLIENTS:
        CLIENTS.pop().close()


@pytest.fixture
def s3(server: S3Server) -> Any:
    """A client, with an empty bucket `box`."""
    client = client_of(server)
    client.create_bucket(Bucket="box")
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="box"):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket="box", Key=item["Key"])
    client.delete_bucket(Bucket="box")


def code(error: Any) -> tuple[int, str]:
    """Return status and code of a refusal."""
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def send(server: S3Server, method: str, path: str, body: bytes = b"", **changes: Any) -> tuple[int, bytes]:
    """Send one signed request over a bare connection; `changes`: at (time of signature), spoil (headers after it)."""
    request = AWSRequest(method, f"{server.endpoint_url}{path}", data=body)
    at = changes.get("at", datetime.now(UTC))
    request.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signature = signer.signature(text, request)
    signer._inject_signature_to_request(request, signature)  # type: ignore[attr-defined]
    headers = {**dict(request.headers.items()), "Host": f"127.0.0.1:{server.port}", **changes.get("spoil", {})}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
