"""Stable identities of work: a redelivered record yields the same ids, so repeating it changes nothing."""

import hashlib


def digest(*parts: str) -> str:
    """Return 32 hex digits of SHA-256 over the parts, each prefixed by its length so that no two lists collide."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()[:32]


def image_id(bucket: str, key: str, etag: str) -> str:
    """Return the id of one content of an object.

    The ETag, not the version id, tells contents apart: a listing (the sweep) has no version ids, and an event and
    the sweep must agree on the id, or an image would be assessed twice.
    """
    return digest("image", bucket, key, etag.strip('"'))


def assessment_id(image: str, model_digest: str) -> str:
    """Return the id of one model's assessment of one image."""
    return digest("assessment", image, model_digest)


def study_key(key: str) -> str:
    """Return the Kafka key of an object: the digest of its folder, which holds one study, so that a study stays on
    one partition and no name reaches a broker's log."""
    return digest("study", key.rpartition("/")[0] or key)


def share(identity: str, purpose: str) -> float:
    """Return a number in [0, 1) that is uniform over identities and always the same for one: a repeatable sample."""
    return int(digest("share", purpose, identity)[:13], 16) / 16**13
