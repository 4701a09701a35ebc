"""The embedded S3 server: one process, one folder, 127.0.0.1; for a laptop, a demo and tests (see its ADR)."""

from edgerad.s3server.server import S3Server

__all__ = ["S3Server"]
