"""The events that edgerad's own sweep writes for the objects that it found."""

from ingest.dialects.s3 import S3Dialect, as_it_is

SWEEP = "edgerad:sweep"
DIALECT = S3Dialect("sweep", SWEEP, as_it_is)
