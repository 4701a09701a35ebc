"""The model bundle: an immutable, signed directory that holds all that a probability depends on.

    bundle.json   manifest, its digest, and an Ed25519 signature of the digest
    model.tflite  the network for CPUs (LiteRT)
    keras.json    the network's structure, and
    weights.npz   its weights, for training and GPUs (Keras)
    golden.npz    model inputs whose probabilities are in the manifest, and their activation maps

The digest is SHA-256 over the canonical JSON of the manifest, which lists the SHA-256 of every other file: it names the
model everywhere. Calibration and thresholds are part of the manifest, so a change of either is another digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.calibrate import Calibration
from serve.preprocess import PREPROCESSING_VERSION
from serve.triage import Thresholds

SCHEMA_VERSION = 2
MANIFEST_FILE = "bundle.json"
SIGNATURE_CONTEXT = b"edgerad model bundle 1\n"  # so that a signature of anything else cannot be passed off as this
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
TrustedKeys = Mapping[str, bytes]
"""Key id to raw Ed25519 public key (32 bytes)."""


class BundleError(Exception):
    """A bundle that must not be used; the text says why and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    """One file of the bundle."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: int


class CalibrationEntry(_Part):
    """Platt scaling: p = sigmoid(a * logit + b)."""

    version: str
    a: Annotated[float, Field(gt=0)] = 1.0
    b: float = 0.0


class ThresholdEntry(_Part):
    """Calibrated probabilities above `high` are high, below `low` low."""

    version: str
    high: Annotated[float, Field(gt=0, lt=1)] = 0.80
    low: Annotated[float, Field(gt=0, lt=1)] = 0.20


class Parity(_Part):
    """How far the runtimes' probabilities lie apart, measured on `cases` inputs when the bundle was made."""

    cases: int
    max_difference: float
    triage_flips: int
    tolerance: Annotated[float, Field(gt=0, le=0.05)] = 0.01


class Golden(_Part):
    """Inputs in `golden.npz`, and what every runtime must give for them.

    `probabilities` are calibrated; the activation maps are in `golden.npz`, and `map_tolerance` is a share of the range
    of their values, or of one logit where they range over less.
    """

    probabilities: Annotated[list[float], Field(min_length=1)]
    tolerance: Annotated[float, Field(gt=0, le=0.03)] = 0.01
    map_tolerance: Annotated[float, Field(gt=0, le=0.05)] = 0.02


class Training(_Part):
    """Where the weights come from."""

    manifest_digest: str
    cases: int
    sources: dict[str, int]
    config: dict[str, Any]
    seconds: float
    cpu_seconds: float | None = None
    attribution: list[str] = []
    tried: list[str] = []
    """What was tried on the way, and what it gave, also what failed; the model card prints it."""


class Manifest(_Part):
    """All that is known of a model; the bundle's digest is computed over it."""

    schema_version: Literal[2] = 2
    finding: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
    architecture: str
    created: str
    parent: str | None = None
    preprocessing_version: str
    input_size: Annotated[int, Field(ge=32, le=2048)]
    for_processing: bool = False
    """Whether it was validated for raw images, DX For Processing (PS3.3 C.8.11.1); others refuse them."""
    calibration: CalibrationEntry
    thresholds: ThresholdEntry
    metrics: dict[str, dict[str, Any]]
    probes: dict[str, dict[str, Any]] = {}
    """By set: what the model must not live on, as `train.probes` measures it."""
    training: Training
    parity: Parity
    golden: Golden
    files: dict[FileName, FileEntry]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files and signature were checked; reading a file checks it once more."""

    path: Path
    manifest: Manifest
    digest: str
    key_id: str | None

    @property
    def calibration(self) -> Calibration:
        """The calibration that belongs to this digest."""
        entry = self.manifest.calibration
        return Calibration(entry.version, entry.a, entry.b)

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that belong to this digest."""
        entry = self.manifest.thresholds
        return Thresholds(entry.version, entry.high, entry.low)

    def read(self, name: str) -> bytes:
        """Return a file's bytes; BundleError if they are not those that were signed."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"bundle {self.digest[:12]} has no file {name}")
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleError(
                f"bundle {self.digest[:12]}: {name} cannot be read ({error.strerror}); fetch it again"
            ) from None
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"bundle {self.digest[:12]}: {name} is corrupted (its SHA-256 differs); fetch it again")
        return data

    def golden_inputs(self) -> npt.NDArray[np.uint8]:
        """Return the golden inputs, uint8 [n, size, size, 1]."""
        with np.load(BytesIO(self.read("golden.npz")), allow_pickle=False) as archive:
            inputs = archive["inputs"]
        if inputs.dtype != np.uint8 or inputs.shape[1:] != (self.manifest.input_size, self.manifest.input_size, 1):
            raise BundleError(f"bundle {self.digest[:12]}: its golden inputs have another shape than its model's input")
        return np.asarray(inputs, np.uint8)

    def golden_maps(self) -> npt.NDArray[np.float32]:
        """Return the activation maps of the golden inputs, float32 [n, rows, columns]."""
        with np.load(BytesIO(self.read("golden.npz")), allow_pickle=False) as archive:
            return np.asarray(archive["maps"], np.float32)

    def check_golden(self, logits: npt.ArrayLike, maps: npt.ArrayLike, runtime: str) -> None:
        """Compare what a runtime gives for the golden inputs with what it must give; BundleError if one is off."""
        golden = self.manifest.golden
        got = self.calibration.apply(logits)
        if got.shape != (len(golden.probabilities),):
            raise BundleError(
                f"bundle {self.digest[:12]}: {len(golden.probabilities)} golden cases, {got.shape} results"
            )
        worst = float(np.max(np.abs(got - np.array(golden.probabilities))))
        if not worst <= golden.tolerance:  # written so that NaN fails
            raise BundleError(
                f"bundle {self.digest[:12]} fails its golden cases on {runtime}: a probability differs by {worst:.4f},"
                f" {golden.tolerance} is allowed; do not serve it, check the runtime's version"
            )
        expected, given = self.golden_maps(), np.asarray(maps)
        if given.shape != expected.shape:
            raise BundleError(
                f"bundle {self.digest[:12]}: golden maps of shape {expected.shape}, {runtime} gives {given.shape}"
            )
        off = float(np.max(np.abs(given - expected)) / max(float(np.ptp(expected)), 1.0))
        if not off <= golden.map_tolerance:
            raise BundleError(
                f"bundle {self.digest[:12]} fails its golden cases on {runtime}: a map differs by {off:.4f} of its"
                f" range, {golden.map_tolerance} is allowed; do not serve it, check the runtime's version"
            )


def load_bundle(path: Path, trusted_keys: TrustedKeys, *, verify: bool = True) -> Bundle:
    """Load a bundle directory and check schema, digest, every file, signature, preprocessing version and parity.

    `verify=False` leaves out the signature alone, for bundles that are not signed yet. Raises BundleError.
    """
    try:
        document = json.loads((path / MANIFEST_FILE).read_bytes())
    except OSError:
        raise BundleError(f"{path.name} is no model bundle: it has no readable {MANIFEST_FILE}") from None
    except ValueError:
        raise BundleError(f"{path.name}: {MANIFEST_FILE} is not JSON; fetch the bundle again") from None
    if not isinstance(document, dict) or not isinstance(document.get("manifest"), dict):
        raise BundleError(f"{path.name}: {MANIFEST_FILE} has no manifest; fetch the bundle again")
    raw = document["manifest"]
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            f"{path.name} has bundle schema {raw.get('schema_version')!r}, this edgerad reads {SCHEMA_VERSION};"
            " upgrade edgerad or publish the model again"
        )
    digest = digest_of(raw)
    if document.get("digest") != digest:
        raise BundleError(f"{path.name}: the manifest does not match its digest, someone changed it; fetch it again")
    key_id = _check_signature(document.get("signature"), digest, trusted_keys) if verify else None
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path.name}: the manifest is wrong at {where}: {first['msg']}") from None
    bundle = Bundle(path, manifest, digest, key_id)
    _check_content(bundle)
    return bundle


def write_bundle(
    path: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes], key: Ed25519PrivateKey | None
) -> Bundle:
    """Write a bundle directory at `path` (which must not exist) and return it; without a key it stays unsigned.

    `manifest` holds the fields of Manifest without `files` and `schema_version`. Raises FileExistsError or BundleError.
    """
    if path.exists():
        raise FileExistsError(f"{path.name} exists; bundles are immutable, write to another place")
    entries = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(files.items())
    }
    try:
        checked = Manifest.model_validate({**manifest, "schema_version": SCHEMA_VERSION, "files": entries})
    except ValidationError as error:
        raise BundleError(f"the new bundle's manifest is wrong: {error}") from None
    # A field that came later is left out where it says nothing new, so that the digests of before stay.
    raw = checked.model_dump(mode="json", exclude=None if checked.for_processing else {"for_processing"})
    digest = digest_of(raw)
    document = {"manifest": raw, "digest": digest, "signature": sign(digest, key) if key else None}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a reader sees the whole bundle or none.
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for name, data in files.items():
            (aside / name).write_bytes(data)
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (aside / MANIFEST_FILE).write_text(text, encoding="utf-8")
        aside.chmod(0o755)
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return load_bundle(path, {}, verify=False)


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return SHA-256, as 64 hex digits, over the manifest as canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sign(digest: str, key: Ed25519PrivateKey) -> dict[str, str]:
    """Return the signature block of a digest (Ed25519, RFC 8032)."""
    value = base64.b64encode(key.sign(SIGNATURE_CONTEXT + digest.encode())).decode()
    return {"algorithm": "ed25519", "key_id": key_id_of(public_bytes(key)), "value": value}


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the raw public key of a private key, 32 bytes."""
    return key.public_key().public_bytes_raw()


def key_id_of(public: bytes) -> str:
    """Return a public key's id: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def read_trusted_keys(path: Path) -> dict[str, bytes]:
    """Read `{"keys": [{"id": …, "public": base64, "use": …}]}`; BundleError if malformed or an id does not fit."""
    try:
        keys = {
            str(row["id"]): base64.b64decode(row["public"], validate=True)
            for row in json.loads(path.read_text(encoding="utf-8"))["keys"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"{path.name} is not a readable list of trusted keys") from None
    for key_id, public in keys.items():
        if len(public) != 32 or key_id != key_id_of(public):
            raise BundleError(f"{path.name}: key {key_id} does not fit its id; it must be a raw Ed25519 public key")
    return keys


def parse_trusted_keys(texts: Iterable[str]) -> dict[str, bytes]:
    """Return trusted keys given as base64 text (settings); BundleError if one is no raw Ed25519 public key."""
    keys = {}
    for text in texts:
        try:
            public = base64.b64decode(text.strip(), validate=True)
        except ValueError:
            public = b""
        if len(public) != 32:
            raise BundleError("a trusted key is not a raw Ed25519 public key in base64 (32 bytes, 44 characters)")
        keys[key_id_of(public)] = public
    return keys


def bundled_model(finding: str = "pneumonia") -> Path:
    """Return the directory of the model that ships with edgerad for a finding; BundleError if there is none."""
    path = _models() / finding
    if not (path / MANIFEST_FILE).is_file():
        raise BundleError(f"no model for {finding} ships with this edgerad; train one or give the path of a bundle")
    return path


def bundled_keys() -> dict[str, bytes]:
    """Return the keys that the shipped models are signed with."""
    return read_trusted_keys(_models() / "trusted-keys.json")


def _models() -> Path:
    return Path(__file__).resolve().parent.parent / "models"


def _check_signature(block: object, digest: str, trusted_keys: TrustedKeys) -> str:
    if not isinstance(block, dict):
        raise BundleError(f"bundle {digest[:12]} is not signed; publish it with the core's key")
    key_id = str(block.get("key_id"))
    public = trusted_keys.get(key_id)
    if public is None:
        raise BundleError(
            f"bundle {digest[:12]} is signed with key {key_id[:16]}, which is not trusted here;"
            " add the core's public key to the trusted keys if it is genuine"
        )
    try:
        value = base64.b64decode(str(block.get("value")), validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(value, SIGNATURE_CONTEXT + digest.encode())
    except (InvalidSignature, ValueError):
        raise BundleError(f"bundle {digest[:12]}: the signature is wrong; do not use it, fetch it again") from None
    return key_id


def _check_content(bundle: Bundle) -> None:
    manifest, short = bundle.manifest, bundle.digest[:12]
    if manifest.preprocessing_version != PREPROCESSING_VERSION:
        raise BundleError(
            f"bundle {short} needs preprocessing {manifest.preprocessing_version}, this edgerad has"
            f" {PREPROCESSING_VERSION}; use the edgerad release that the model was made for"
        )
    try:
        _ = bundle.thresholds
    except ValueError as error:
        raise BundleError(f"bundle {short}: {error}") from None
    parity = manifest.parity
    if not parity.max_difference <= parity.tolerance:
        raise BundleError(f"bundle {short}: its runtimes differ by {parity.max_difference}; export the model again")
    for name in ("model.tflite", "keras.json", "weights.npz", "golden.npz"):
        if name not in manifest.files:
            raise BundleError(f"bundle {short} lacks {name}; export the model again")
    for name in manifest.files:
        bundle.read(name)
