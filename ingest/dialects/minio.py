"""MinIO (MinIO documentation, "Bucket notifications"): keys are URL-encoded, slashes too."""

from ingest.dialects.s3 import S3Dialect, form_decoded

DIALECT = S3Dialect("minio", "minio:s3", form_decoded)
