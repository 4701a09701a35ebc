"""What the tests of scoring share: the shipped model opened once, one phantom, signed bundles to spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgerad.phantom import Phantom, random_spec, render
from serve.bundle import MANIFEST_FILE, bundled_model, digest_of, key_id_of, public_bytes, sign
from serve.score import Scorer, open_scorer

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = {key_id_of(public_bytes(KEY)): public_bytes(KEY)}


@pytest.fixture(scope="session")
def scorer() -> Scorer:
    """The shipped model on LiteRT."""
    return open_scorer()


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """A normal chest of a grown-up, 12 bit, without text or marker."""
    spec = random_spec(11, finding="normal", body="adult", size=320)
    return render(_plain(spec))


def _plain(spec: Any) -> Any:
    from dataclasses import replace

    return replace(spec, bits=12, marker=None, text=None, photometric="MONOCHROME2", storage="DX", collimation=0.0)


Spoil = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path) -> Spoil:
    """Copies the shipped bundle, changes the manifest by a function, signs it with KEY (or not at all)."""

    def copy(change: Callable[[dict[str, Any]], object] = lambda _: None, *, signed: bool = True) -> Path:
        path = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(bundled_model(), path)
        document = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        change(document["manifest"])
        document["digest"] = digest_of(document["manifest"])
        document["signature"] = sign(document["digest"], KEY) if signed else None
        (path / MANIFEST_FILE).write_text(json.dumps(document), encoding="utf-8")
        return path

    return copy
