"""An edge's forwarder in a process of its own, to be killed: FOLDER EDGE_URL CORE_URL PART_BYTES, EDGE_KEY (PEM)."""

import os
import sys
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgerad.database import Database
from edgerad.records import now
from edgerad.sections import ShipSettings
from edgerad.store import ObjectStore, StoreConfig
from ship.forward import Forwarder, Keys

if __name__ == "__main__":
    folder, edge_url, core_url, part_bytes = sys.argv[1:]
    key = cast("Ed25519PrivateKey", load_pem_private_key(os.environ["EDGE_KEY"].encode(), None))
    keys = Keys(key.public_key().public_bytes_raw(), (), "")
    outbox = ObjectStore(StoreConfig(edge_url, "xray-outbox", "ak", "sk"))
    core = ObjectStore(StoreConfig(core_url, "core", "ak", "sk", max_attempts=1))
    settings = ShipSettings().model_copy(update={"part_bytes": int(part_bytes)})
    Forwarder(Database(f"sqlite:///{folder}/edgerad.db"), outbox, core, settings, keys).send(now())
