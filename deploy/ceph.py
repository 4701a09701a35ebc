"""A Ceph object store on one machine: monitor, manager, one OSD on a sparse file, gateway; and its notifications."""

from __future__ import annotations

import secrets
import shutil
import uuid
from pathlib import Path
from typing import Any

from deploy import process
from deploy.part import Part

BLOCK_BYTES = 8 * 2**30  # a sparse file: only what is written takes space
CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 0
mon data avail warn = 0
mon warn on insecure global id reclaim allowed = false
[mon.a]
mon data = {folder}/mon
[mgr.x]
mgr data = {folder}/mgr
[osd.0]
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block size = {block}
osd memory target = 939524096
[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
rgw trust forwarded https = true
"""
CAPABILITIES = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *", "mds", "allow *"],
    "mgr.x": ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"],
    "osd.0": ["mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"],
    "client.rgw.a": ["mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"],
}


class Ceph(Part):
    """A Ceph cluster of one of each, with an S3 user."""

    programs = ("mon", "mgr", "osd", "rgw")

    def __init__(self, folder: Path) -> None:
        """Choose the user's keys once."""
        super().__init__(folder)
        if "access_key" not in process.recall(self.folder):
            keys = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
            process.remember(self.folder, **keys, fsid=str(uuid.uuid4()))

    def endpoints(self) -> dict[str, str]:
        """Return the S3 endpoint and the user's keys."""
        kept = process.recall(self.folder)
        return {
            "s3": f"http://127.0.0.1:{self.port()}",
            "access_key": str(kept["access_key"]),
            "secret_key": str(kept["secret_key"]),
        }

    def _start(self) -> None:
        """Make the cluster if it is new, start its four programs, wait until the gateway answers."""
        configuration = self.folder / "ceph.conf"
        new = "made" not in process.recall(self.folder)
        if new:  # also after a first start that was cut short
            for leftover in ("mon", "mgr", "osd", "rgw"):
                shutil.rmtree(self.folder / leftover, ignore_errors=True)
                (self.folder / leftover).mkdir()
        configuration.write_text(
            CONFIGURATION.format(
                fsid=process.recall(self.folder)["fsid"],
                mon1=self.port("mon1"),
                mon2=self.port("mon2"),
                port=self.port(),
                folder=self.folder,
                block=BLOCK_BYTES,
            ),
            encoding="utf-8",
        )
        conf = ["--conf", str(configuration)]
        if new:
            self._make_keys()
            self._make_monitor(conf)
        process.spawn(self.folder, "mon", ["ceph-mon", "-i", "a", "-f", *conf])
        process.spawn(self.folder, "mgr", ["ceph-mgr", "-i", "x", "-f", *conf])
        if new:
            self._make_osd(conf)
        process.spawn(self.folder, "osd", ["ceph-osd", "-i", "0", "-f", *conf])
        user = ["radosgw-admin", *conf, "user", "create", "--uid=edgerad", "--display-name=edgerad"]
        keys = self.endpoints()
        if new:
            process.run([*user, f"--access-key={keys['access_key']}", f"--secret-key={keys['secret_key']}"])
            process.remember(self.folder, made=True)
        process.spawn(self.folder, "rgw", ["radosgw", "-n", "client.rgw.a", "-f", *conf])
        process.wait(self._answers, "Ceph's RADOS gateway", self.folder, "rgw")

    def _make_keys(self) -> None:
        keyring = str(self.folder / "keyring")
        create = "--create-keyring"
        for name, capabilities in CAPABILITIES.items():
            pairs = zip(capabilities[::2], capabilities[1::2], strict=True)
            caps = [word for kind, what in pairs for word in ("--cap", kind, what)]
            process.run(["ceph-authtool", *([create] if create else []), keyring, "--gen-key", "-n", name, *caps])
            create = ""

    def _make_monitor(self, conf: list[str]) -> None:
        monmap = str(self.folder / "monmap")
        address = f"[v2:127.0.0.1:{self.port('mon2')},v1:127.0.0.1:{self.port('mon1')}]"
        fsid = str(process.recall(self.folder)["fsid"])
        process.run(["monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, monmap])
        keyring = str(self.folder / "keyring")
        process.run(["ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring, *conf])

    def _make_osd(self, conf: list[str]) -> None:
        identity = str(uuid.uuid4())
        process.run(["ceph", *conf, "--connect-timeout", "60", "osd", "new", identity, "0"])
        process.run(["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity, *conf])

    def _answers(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        if not process.listens(self.port()):
            return False
        keys = self.endpoints()
        try:
            client(keys["s3"], (keys["access_key"], keys["secret_key"])).list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True


def client(endpoint: str, keys: tuple[str, str], service: str = "s3") -> Any:
    """Return a boto3 client of a Ceph gateway; for `sns` with the old signature, the only one it takes there."""
    import boto3
    from botocore.config import Config

    config = Config(
        signature_version="s3" if service == "sns" else "s3v4",
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 2},
    )
    access, secret = keys
    return boto3.session.Session().client(
        service,  # type: ignore[call-overload]
        endpoint_url=endpoint,
        region_name="default",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=config,
    )


def set_notification(
    endpoint: str, keys: tuple[str, str], bucket: str, push_endpoint: str, *, persistent: bool = False
) -> None:
    """Have a bucket's puts, copies, completed multipart uploads and deletions pushed to an HTTP endpoint.

    `push_endpoint` may carry `user:password@`, which the gateway sends as Basic credentials. With `persistent` the push
    is queued and tried again; without, it is part of the PUT, which waits for it.
    """
    notifier = client(endpoint, keys, "sns")
    # Ceph takes credentials for the push only over TLS. On one machine the gateway trusts this header of a TLS proxy.
    notifier.meta.events.register("before-send.sns", _as_behind_tls)
    topic = notifier.create_topic(
        Name=f"edgerad-{bucket}",
        Attributes={"push-endpoint": push_endpoint, "persistent": str(persistent).lower(), "OpaqueData": "edgerad"},
    )["TopicArn"]
    client(endpoint, keys).put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "TopicConfigurations": [
                {"Id": "edgerad", "TopicArn": topic, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
            ]
        },
    )


def _as_behind_tls(request: Any, **_: object) -> None:
    request.headers["X-Forwarded-Proto"] = "https"
