"""CubeFS's object node, after its public source (cubefs/cubefs, objectnode/notification_event.go); untried.

Keys are URL-encoded as in a form, slashes too. Fields without a value are left out, so an empty object has no size.
"""

from ingest.dialects.s3 import S3Dialect, form_decoded

DIALECT = S3Dialect("cubefs", "cubefs:s3", form_decoded)
