"""Signatures are those that Amazon's documentation gives, and those that botocore computes."""

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from edgerad.sigv4 import EMPTY, signature

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # the documentation's


def test_the_example_of_the_documentation() -> None:
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": "20130524T000000Z",
    }
    scope = "20130524/us-east-1/s3/aws4_request"
    found = signature(SECRET, scope, headers["x-amz-date"], "GET", "/test.txt", "", headers)
    assert found == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_botocore_signs_the_same() -> None:
    request = AWSRequest(
        "PUT", "http://store:7480/b/a%20%C3%A4/k?partNumber=1&uploadId=x%2Fy", {"x-amz-meta-a": " b   c "}
    )
    S3SigV4Auth(Credentials("access", SECRET), "s3", "eu-central-1").add_auth(request)
    at = request.headers["X-Amz-Date"]
    headers = {
        "host": "store:7480",
        "x-amz-content-sha256": request.headers["X-Amz-Content-SHA256"],
        "x-amz-date": at,
        "x-amz-meta-a": " b   c ",
    }
    scope = f"{at[:8]}/eu-central-1/s3/aws4_request"
    query = "partNumber=1&uploadId=x%2Fy"
    found = signature(SECRET, scope, at, "PUT", "/b/a%20%C3%A4/k", query, headers)
    assert request.headers["Authorization"].endswith(f"Signature={found}")
