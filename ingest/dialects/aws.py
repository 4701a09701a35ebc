"""Amazon S3 to SQS, SNS or Lambda (Amazon S3 User Guide, "Event message structure"): keys are URL-encoded."""

from ingest.dialects.s3 import S3Dialect, form_decoded

DIALECT = S3Dialect("aws", "aws:s3", form_decoded)
