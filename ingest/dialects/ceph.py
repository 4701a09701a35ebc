"""Ceph's RADOS gateway (Ceph documentation, "Bucket notifications"): keys are not encoded."""

from ingest.dialects.s3 import S3Dialect, as_it_is

DIALECT = S3Dialect("ceph", "ceph:s3", as_it_is)
