"""`edgerad models` and `edgerad evaluation` as an operator types them: what goes wrong is one line, changes nothing."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from typer.testing import CliRunner, Result

from edgerad import keyring, registry, runfile
from edgerad.audit import verify
from edgerad.cli import app
from edgerad.commands import reach
from edgerad.database import Database
from edgerad.records import Audit, now
from edgerad.s3server import S3Server
from edgerad.settings import SettingsError
from edgerad.store import ObjectStore, StoreConfig
from serve.bundle import bundled_model, digest_of, public_bytes, sign
from serve.shelf import bundled_digest
from train.core import open_core

FINDING = "pneumonia"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
WHO = ("--person", "Dr. Who", "--reason", "a better one")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The embedded object store."""
    server = S3Server(tmp_path_factory.mktemp("s3"), "access", "secretsecret")
    server.start()
    yield server
    server.stop()


class Operator:
    """Types commands at a core and looks at what they changed."""

    def __init__(self, data_dir: Path, store: ObjectStore) -> None:
        self.data_dir, self.store = data_dir, store
        self.database = Database(f"sqlite:///{data_dir / 'edgerad.db'}")

    def types(self, *words: str) -> Result:
        """Run a command."""
        return CliRunner().invoke(app, words)

    def refused(self, *words: str) -> str:
        """Run a command that must end with exit status 1 and one line; return the line. Nothing may change."""
        before = self.state()
        done = self.types(*words)
        assert done.exit_code == 1, done.output
        assert self.state() == before
        (line,) = done.stderr.splitlines()
        assert line.startswith("edgerad: ")
        return line

    def state(self) -> tuple[Any, ...]:
        """What is in service, where the pointer leads, and the audit."""
        with self.database.read() as session:
            audit = [(row.actor, row.action, row.subject) for row in session.scalars(select(Audit))]
        return (registry.current(self.store, FINDING), *audit)


@pytest.fixture
def operator(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """An operator at a core that has started once."""
    bucket = tmp_path.name.replace("_", "-").lower()[-40:].strip("-")
    for name, value in {
        "DATA_DIR": str(tmp_path / "data"),
        "CORE__STORE__ENDPOINT_URL": s3.endpoint_url,
        "CORE__STORE__BUCKET": bucket,
        "CORE__STORE__ACCESS_KEY__VALUE": "access",
        "CORE__STORE__SECRET_KEY__VALUE": "secretsecret",
        "CORE__TRUSTED_KEYS": json.dumps([base64.b64encode(public_bytes(KEY)).decode()]),
    }.items():
        monkeypatch.setenv(f"EDGERAD_{name}", value)
    store = ObjectStore(StoreConfig(s3.endpoint_url, bucket, "access", "secretsecret"))
    store.ensure_bucket()
    made = Operator(tmp_path / "data", store)
    made.database.upgrade()
    open_core(reach.core_settings()).prepare()
    return made


def another(folder: Path, key: Ed25519PrivateKey | None = KEY) -> tuple[Path, str]:
    """Write the shipped model with another calibration, and so another digest; signed, or not at all."""
    shutil.copytree(bundled_model(), folder)
    document = json.loads((folder / "bundle.json").read_bytes())
    document["manifest"]["calibration"] = {"version": "platt/test", "a": 1.1, "b": 0.0}
    document["digest"] = digest_of(document["manifest"])
    document["signature"] = sign(document["digest"], key) if key else None
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder, str(document["digest"])


def test_a_model_is_added_promoted_and_rolled_back_by_name(operator: Operator, tmp_path: Path) -> None:
    shipped = bundled_digest(FINDING)
    folder, digest = another(tmp_path / "other")
    assert operator.types("models", "add", str(folder), *WHO).stdout == f"added: {digest}\n"
    assert operator.types("models", "add", str(folder), *WHO).stdout == f"known before: {digest}\n"
    assert registry.current(operator.store, FINDING) == shipped, "adding alone serves nothing"
    assert operator.types("models", "promote", digest[:8], *WHO).stdout == f"in service: {digest}\n"
    assert registry.current(operator.store, FINDING) == digest
    listed = json.loads(operator.types("models", "list", "--json").stdout)
    assert [(row["model"], row["state"]) for row in listed] == [(digest, "promoted"), (shipped, "retired")]
    assert (
        json.loads(operator.types("models", "show", digest[:12]).stdout)["reason"] == "promoted by hand: a better one"
    )
    assert operator.types("models", "rollback", *WHO).stdout == f"in service: {shipped}\n"
    assert registry.current(operator.store, FINDING) == shipped
    assert "nothing to go back to" in operator.refused("models", "rollback", *WHO)
    assert operator.state()[2:] == (
        ("person:Dr. Who", "model-added", digest),
        ("person:Dr. Who", "model-promoted", digest),
        ("person:Dr. Who", "model-promoted", shipped),
        ("person:Dr. Who", "model-rejected", digest),
    )
    assert verify(operator.database)[1] is None


@pytest.mark.parametrize(("key", "said"), [(None, "is not signed"), (STRANGER, "which is not trusted here")])
def test_a_bundle_that_nobody_trusted_signed_is_not_added(
    operator: Operator, tmp_path: Path, key: Ed25519PrivateKey | None, said: str
) -> None:
    folder, digest = another(tmp_path / "other", key)
    assert said in operator.refused("models", "add", str(folder), *WHO)
    assert not registry.is_published(operator.store, FINDING, digest)


def test_a_bundle_that_was_damaged_in_the_registry_does_not_come_into_service(
    operator: Operator, tmp_path: Path
) -> None:
    folder, digest = another(tmp_path / "other")
    operator.types("models", "add", str(folder), *WHO)
    prefix = f"registry/{FINDING}/{digest}/"
    good = operator.store.get(prefix + "model.tflite")
    operator.store.put(prefix + "model.tflite", b"damaged")
    assert "is corrupted" in operator.refused("models", "promote", digest, *WHO)
    operator.store.delete(prefix + "model.tflite")
    assert "has lost a file" in operator.refused("models", "promote", digest, *WHO)
    operator.store.delete(prefix + "bundle.json")
    assert "its bundle is not in the registry" in operator.refused("models", "promote", digest, *WHO)
    assert operator.types("models", "add", str(folder), *WHO).exit_code == 0, "which completes it"
    assert operator.types("models", "promote", digest, *WHO).exit_code == 0
    assert operator.store.get(prefix + "model.tflite") == good


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("promote", "f00", *WHO), "no model for pneumonia begins with 'f00'"),
        (("promote", "", *WHO), "begin with ''"),
        (("show", "f00"), "no model for pneumonia begins"),
        (("rollback", "--person", " ", "--reason", "x"), "nothing to go back to"),
    ],
)
def test_what_is_not_there_is_said(operator: Operator, words: tuple[str, ...], said: str) -> None:
    assert said in operator.refused("models", *words)


def test_the_model_in_service_needs_no_promotion_and_a_decision_needs_a_name(operator: Operator) -> None:
    shipped = bundled_digest(FINDING)
    assert "in service already" in operator.refused("models", "promote", shipped, *WHO)
    assert "say who you are" in operator.refused("models", "promote", shipped, "--person", "", "--reason", "x")
    assert operator.types("models", "promote", shipped).exit_code == 2, "an option is missing"


def test_a_store_that_does_not_answer_is_one_line(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGERAD_CORE__STORE__ENDPOINT_URL", "http://127.0.0.1:9")
    for words in (("models", "promote", bundled_digest(FINDING), *WHO), ("evaluation", "show")):
        assert "object store cannot be reached" in operator.refused(*words)


def test_the_embedded_store_is_reached_where_edgerad_runs_and_missed_where_it_does_not(
    operator: Operator, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGERAD_CORE__STORE__ENDPOINT_URL")
    done = operator.types("evaluation", "show")
    assert isinstance(done.exception, SettingsError)
    assert "start `edgerad up`" in str(done.exception)
    for name, secret in (("s3-access-key", "access"), ("s3-secret-key", "secretsecret")):
        (operator.data_dir / "keys" / name).write_text(secret)
    with runfile.claim(operator.data_dir):
        runfile.RunFile("core", os.getpid(), now().isoformat(), {"s3": s3.endpoint_url}).write(operator.data_dir)
        done = operator.types("evaluation", "show")
    assert done.stdout == "evaluation: none is frozen\nrehearsal: none is frozen\n"


def test_sets_are_frozen_once_and_apart(operator: Operator, tmp_path: Path) -> None:
    for number, label in enumerate(("NORMAL", "PNEUMONIA")):
        (tmp_path / "set" / label).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)
        cv2.imwrite(str(tmp_path / "set" / label / "1.png"), pixels)
    frozen = json.loads(operator.types("evaluation", "freeze", str(tmp_path / "set")).stdout)
    assert (frozen["cases"], frozen["positives"]) == (2, 1)
    shown = json.loads(operator.types("evaluation", "show", "--json").stdout)
    assert shown["rehearsal"] is None
    assert shown["evaluation"]["version"] == frozen["version"]
    again = operator.refused("evaluation", "freeze", "--rehearsal", str(tmp_path / "set"))
    assert "2 of these radiographs are in the set at datasets/evaluation/ too" in again
    assert operator.types("evaluation", "freeze", str(tmp_path / "nowhere")).exit_code == 2


def test_the_public_key_is_that_of_the_key_that_signs(operator: Operator) -> None:
    printed = operator.types("models", "public-key").stdout.strip()
    assert printed == keyring.public_key((operator.data_dir / "keys" / "signing-key.pem").read_text())
    assert operator.types("models", "public-key").stdout.strip() == printed


def test_before_anything_ran_the_list_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["models", "list"])
    assert (done.exit_code, done.stdout[:24]) == (0, "no models for pneumonia ")
    assert json.loads(CliRunner().invoke(app, ["models", "show"]).stdout)["digest"] == bundled_digest(FINDING)
