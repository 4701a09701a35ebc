"""The object store, over S3: what edgerad asks of Ceph, MinIO, AWS or its own embedded server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from edgerad.settings import SettingsError
from edgerad.surroundings import is_loopback

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3.client import S3Client

    from edgerad.download import Download
    from edgerad.folder import FolderReader
    from edgerad.sections import StoreSettings

GONE = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound", "412", "PreconditionFailed", "NoSuchUpload"})
DENIED = frozenset(
    {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
)
FULL = frozenset({"507", "InsufficientStorage", "InsufficientCapacity", "QuotaExceeded", "XMinioStorageFull"})
MAX_SKEW_SECONDS = 15 * 60
"""What a store lets clocks differ; beyond it every request is refused."""
BUCKET_MISSING = frozenset({"NoSuchBucket"})


class StoreError(Exception):
    """The object store did not do what was asked; the text never holds an object's key."""


class ObjectGone(StoreError):
    """The object is not there, or no longer with that version or ETag; another attempt will not find it."""


class ObjectTooLarge(StoreError):
    """The object is larger than the caller's limit; nothing of it was kept."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or failed; another attempt may succeed."""


class StoreDenied(StoreUnavailable):
    """The store refuses these credentials, or the bucket is missing: an attempt succeeds once that is put right."""


class ClockSkewed(StoreDenied):
    """The store refuses every request because this machine's clock is wrong."""


class StoreFull(StoreUnavailable):
    """The store has no room, or its quota is used up."""


class Stored(NamedTuple):
    """What identifies the content just written: `etag` without quotes, `version_id` on a versioned bucket."""

    etag: str
    version_id: str | None


class Listed(NamedTuple):
    """One object of a listing; `etag` without quotes, `size` in bytes. A listing has no version ids."""

    key: str
    etag: str
    size: int
    last_modified: datetime
    version_id: str | None = None


class Head(NamedTuple):
    """An object's properties without its content; `metadata` are the user's own, with lower-case names."""

    etag: str
    size: int
    last_modified: datetime
    version_id: str | None
    content_type: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """How to reach one bucket; timeouts in seconds. `folder` is where an embedded store on this machine keeps it."""

    endpoint_url: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    ca_file: str | None = None
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    max_attempts: int = 3
    max_connections: int = 64
    folder: Path | None = None


def config_from(settings: StoreSettings) -> StoreConfig:
    """Return the configuration of a store by its settings; SettingsError names what is missing."""
    access_key, secret_key = settings.access_key.reveal(), settings.secret_key.reveal()
    if not settings.endpoint_url or not access_key or not secret_key:
        missing = "endpoint_url" if not settings.endpoint_url else "access_key" if not access_key else "secret_key"
        msg = f"setting {missing} of the object store is missing; it belongs with endpoint_url, access_key, secret_key"
        raise SettingsError(msg)
    return StoreConfig(
        endpoint_url=settings.endpoint_url,
        bucket=settings.bucket,
        access_key=access_key,
        secret_key=secret_key,
        region=settings.region,
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        folder=settings.folder,
    )


class ObjectStore:
    """One bucket. Safe to share between threads and to pickle: the client is made on first use."""

    def __init__(self, config: StoreConfig) -> None:
        """Keep the configuration; nothing is contacted."""
        self.config = config
        self._client: S3Client | None = None
        self._download: Download | None = None
        self._folder: FolderReader | None = None
        if config.folder:
            from edgerad.folder import FolderReader

            self._folder = FolderReader(config.folder, config.bucket)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[StoreConfig]]:
        """Pickle the configuration alone."""
        return (type(self), (self.config,))

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.config.bucket

    @property
    def client(self) -> S3Client:
        """The boto3 client, for what the methods here do not cover."""
        with self._lock:
            if self._client is None:
                self._client = _client(self.config)
            return self._client

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        if self._has_bucket():
            return
        location: Any = (
            {} if self.config.region == "us-east-1" else {"LocationConstraint": self.config.region}
        )  # AWS refuses us-east-1 as a constraint
        arguments: dict[str, Any] = {"CreateBucketConfiguration": location} if location else {}
        with store_errors("create the bucket", also_fine=("BucketAlreadyOwnedByYou", "BucketAlreadyExists")):
            self.client.create_bucket(Bucket=self.bucket, **arguments)

    def check(self) -> None:
        """Raise StoreUnavailable or StoreDenied unless the bucket answers."""
        if not self._has_bucket():
            msg = "object store: the bucket does not exist; create it or run `edgerad up`, which does"
            raise StoreDenied(msg)

    def put(
        self,
        key: str,
        data: bytes | BinaryIO,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        """Write an object in one request (at most 5 GB); it is durable when this returns.

        A file must be seekable: it is read from where it stands, and again from there when the request is retried.
        """
        with store_errors("write an object"):
            answer = self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, Metadata=dict(metadata or {})
            )
            return Stored(etag_of(answer), answer.get("VersionId"))

    def get(
        self, key: str, version_id: str | None = None, limit_bytes: int | None = None, etag: str | None = None
    ) -> bytes:
        """Return an object's bytes.

        Raises ObjectGone when it is not there or no longer has that version or ETag, ObjectTooLarge when it has more
        than `limit_bytes` (decided before anything is read), StoreUnavailable when another attempt may succeed.
        """
        if key and not version_id:
            data = self._folder.get(key, etag, limit_bytes) if self._folder else None
            if data is None:
                data = self._short_way.get(key, etag, limit_bytes)
            if data is not None:
                return data  # anything but success is asked again by boto3, which tells what is wrong
        arguments: dict[str, Any] = {"VersionId": version_id} if version_id else {}
        if etag:
            arguments["IfMatch"] = f'"{etag}"'
        with store_errors("read an object"):
            answer = self.client.get_object(Bucket=self.bucket, Key=key, **arguments)
            body = answer["Body"]
            with body:
                check_size(answer["ContentLength"], limit_bytes)
                return body.read()

    @property
    def _short_way(self) -> Download:
        if self._download is None:
            from edgerad.download import Download

            self._download = Download(self.client, self.bucket, self.config.access_key, self.config.secret_key)
        return self._download

    def get_range(self, key: str, first: int, count: int, etag: str) -> bytes:
        """Return `count` bytes from `first` on of the object while it has that ETag; errors as `get`."""
        with store_errors("read a part of an object"):
            answer = self.client.get_object(
                Bucket=self.bucket, Key=key, IfMatch=f'"{etag}"', Range=f"bytes={first}-{first + count - 1}"
            )
            with answer["Body"] as body:
                data = body.read(count + 1)
        if len(data) != count:
            msg = "object store answered with another part than was asked for"
            raise StoreUnavailable(msg)
        return data

    def head(self, key: str, version_id: str | None = None) -> Head:
        """Return an object's properties; raises ObjectGone."""
        arguments: dict[str, Any] = {"VersionId": version_id} if version_id else {}
        with store_errors("look at an object"):
            answer = self.client.head_object(Bucket=self.bucket, Key=key, **arguments)
            return Head(
                answer["ETag"].strip('"'),
                answer["ContentLength"],
                answer["LastModified"],
                answer.get("VersionId"),
                answer.get("ContentType", "application/octet-stream"),
                {name.lower(): value for name, value in answer.get("Metadata", {}).items()},
            )

    def exists(self, key: str) -> bool:
        """Return whether the object is there."""
        try:
            self.head(key)
        except ObjectGone:
            return False
        return True

    def list(self, prefix: str = "", start_after: str = "", page: int = 1000) -> Iterator[Listed]:
        """Yield the objects below a prefix in the order of their keys' UTF-8 bytes, fetched a page at a time."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, StartAfter=start_after, PaginationConfig={"PageSize": page}
        )
        with store_errors("list the bucket"):
            for answer in pages:
                for item in answer.get("Contents", ()):
                    yield Listed(item["Key"], item["ETag"].strip('"'), item["Size"], item["LastModified"])

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        with store_errors("delete an object"):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def copy(self, source: str, target: str) -> Stored:
        """Copy an object with its metadata inside the bucket, without its bytes passing through here."""
        with store_errors("copy an object"):
            answer = self.client.copy_object(
                Bucket=self.bucket, Key=target, CopySource={"Bucket": self.bucket, "Key": source}
            )
            return Stored(answer["CopyObjectResult"]["ETag"].strip('"'), answer.get("VersionId"))

    def _has_bucket(self) -> bool:
        try:
            with store_errors("look at the bucket"):
                self.client.head_bucket(Bucket=self.bucket)
        except ObjectGone:
            return False
        return True


def _client(config: StoreConfig) -> S3Client:
    import boto3
    from botocore.config import Config

    # A session of its own: boto3's default one must not be used from several threads.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=config.endpoint_url,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        verify=config.ca_file,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            retries={"mode": "standard", "total_max_attempts": config.max_attempts},
            max_pool_connections=config.max_connections,
            # None: as the environment says. No entry of `no_proxy` exempts [::1] for urllib and is right for httpx.
            proxies={} if is_loopback(config.endpoint_url) else None,
            # Newer boto3 adds CRC trailers that Ceph 16 and other older servers refuse or store as content.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def check_size(size: int, limit_bytes: int | None) -> None:
    """Raise ObjectTooLarge if an object has more bytes than are allowed."""
    if limit_bytes is not None and size > limit_bytes:
        msg = f"object has {size} bytes, the limit is {limit_bytes}"
        raise ObjectTooLarge(msg)


def etag_of(answer: Mapping[str, Any]) -> str:
    """Return the ETag of an answer, without quotes."""
    return str(answer["ETag"]).strip('"')


def _skew(answer: Mapping[str, Any]) -> float:
    """Return how far this machine's clock is ahead of the store's by the answer's Date header, seconds."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError):
        return 0.0


@contextmanager
def store_errors(doing: str, also_fine: tuple[str, ...] = (), suppress: bool = False) -> Iterator[None]:
    """Turn botocore's errors into the kernel's; their own texts can hold the key, so they are not chained."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ParamValidationError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    failure: StoreError
    try:
        yield
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code", "")) in also_fine:
            return
        failure = _refusal(error.response, doing)
    except ParamValidationError:
        failure = ObjectGone(f"object store: no object can have that key, version or metadata (to {doing})")
    except (BotoCoreError, HTTPClientError, HTTPError, OSError) as error:
        failure = StoreUnavailable(f"object store cannot be reached to {doing} ({type(error).__name__})")
    except (ResponseParserError, KeyError) as error:  # a proxy's page, or an answer that was cut off
        failure = StoreUnavailable(f"object store answers unlike one, asked to {doing} ({type(error).__name__})")
    else:
        return
    if not suppress:
        raise failure from None


def _refusal(answer: Mapping[str, Any], doing: str) -> StoreError:
    """Return what an error answer of the store means."""
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in GONE:
        return ObjectGone("object store: the object is not there (any more, or not with that version)")
    if code in BUCKET_MISSING:
        return StoreDenied("object store: the bucket does not exist; create it or run `edgerad up`")
    if code in FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StoreFull(f"object store has no room to {doing} ({code}); make room or raise its quota")
    if code in DENIED:
        skew = _skew(answer)
        if code == "RequestTimeTooSkewed" or abs(skew) > MAX_SKEW_SECONDS:
            return ClockSkewed(
                f"object store refused to {doing}: this machine's clock differs from the store's ({skew / 60:+.0f} "
                "min by its answer); set it right (NTP), nothing is lost meanwhile"
            )
        return StoreDenied(f"object store refused to {doing} ({code}); check access_key, secret_key and rights")
    return StoreUnavailable(f"object store failed to {doing} (status {status}, {code})")
