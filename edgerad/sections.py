"""The sections of the settings file: typed, documented tables; edgerad/settings.py loads them."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Seconds = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?"
"""A host name or an address (IPv6 in brackets), and a port where there is one: what a Host header may hold."""


class Section(BaseModel):
    """A table of the settings file; an unknown key in it is an error, so that a typing mistake is never silent."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EmptySecret(ValueError):
    """A secret is set, and it holds nothing or white space."""


class Secret(Section):
    """A secret given by the environment (`value`) or by a file that holds nothing else (`file`)."""

    value: SecretStr | None = Field(None, description="The secret itself; only by environment variable.")
    file: Path | None = Field(None, description="File that holds the secret and nothing else.")

    @model_validator(mode="after")
    def _is_not_empty(self) -> Secret:
        with suppress(OSError, UnicodeDecodeError):  # a file that cannot be read is told of where it is needed
            self.reveal()
        return self

    def reveal(self) -> str | None:
        """Return the secret, or None when none is set.

        OSError when the file cannot be read, EmptySecret when a secret is set and holds nothing: nobody means a secret
        that everybody knows.
        """
        if self.value is not None:
            secret = self.value.get_secret_value()
        elif self.file is not None:
            secret = self.file.read_text(encoding="utf-8").strip()
        else:
            return None
        if not secret.strip():
            what = "the secret" if self.file is None or self.value is not None else f"the file {self.file}"
            raise EmptySecret(f"{what} is empty; put the secret there, or drop the setting")
        return secret


class StoreSettings(Section):
    """An S3 object store. Without `endpoint_url` the embedded one in this process is used."""

    endpoint_url: str | None = Field(None, description="S3 endpoint; empty: the embedded server.")
    region: str = Field("us-east-1", description="S3 region.")
    access_key: Secret = Field(Secret(), description="S3 access key id.")
    secret_key: Secret = Field(Secret(), description="S3 secret access key.")
    bucket: str = Field("xray", description="Bucket that X-rays land in (edge) or that shipments land in (core).")
    ca_file: Path | None = Field(None, description="CA certificates to verify the endpoint's TLS certificate with.")
    connect_timeout: Seconds = Field(5.0, description="Seconds to wait for a connection.")
    read_timeout: Seconds = Field(30.0, description="Seconds to wait for an answer.")
    folder: Path | None = Field(
        None, description="Set by edgerad where this is the embedded store: its folder, to read objects as files."
    )


class EmbeddedStoreSettings(Section):
    """The S3 server inside this process, for one laptop or a demo; it listens on 127.0.0.1 only."""

    port: Port = Field(0, description="Port; 0 takes a free one.")
    directory: Path | None = Field(None, description="Where objects are kept; empty: `s3` in `data_dir`.")


class KafkaSettings(Section):
    """Apache Kafka. Without `bootstrap_servers` the sweep is the event source and the database holds the outbox."""

    bootstrap_servers: str | None = Field(None, description="HOST:PORT[,HOST:PORT…]; empty: no Kafka.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol to talk to the brokers."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism with the SASL protocols."
    )
    sasl_username: str | None = Field(None, description="SASL user name.")
    sasl_password: Secret = Field(Secret(), description="SASL password.")
    ssl_cafile: Path | None = Field(None, description="CA certificates to verify the brokers with.")
    ssl_certfile: Path | None = Field(None, description="Client certificate (mutual TLS).")
    ssl_keyfile: Path | None = Field(None, description="Key of the client certificate.")
    group: str = Field("edgerad-ingest", description="Consumer group of the ingest actors.")
    topic_uploaded: str = Field("xray.uploaded", description="Topic of S3 events.")
    topic_assessed: str = Field("xray.assessed", description="Topic of assessments.")
    topic_deadletter: str = Field("xray.deadletter", description="Topic of records that could not be processed.")
    partitions: int = Field(4, ge=1, description="Partitions of a topic that edgerad creates.")
    replication_factor: int = Field(1, ge=1, description="Replicas of a topic that edgerad creates; 3 on a cluster.")
    session_timeout: Seconds = Field(15.0, description="Seconds without heartbeat after which a consumer is out.")

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> KafkaSettings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.sasl_username):
            msg = "SASL needs sasl_mechanism and sasl_username"
            raise ValueError(msg)
        return self


class DatabaseSettings(Section):
    """The database of records: SQLite by default, PostgreSQL by its URL."""

    url: Secret = Field(
        Secret(), description="SQLAlchemy URL (holds a password, so a secret); empty: SQLite in `data_dir`."
    )
    pool_size: int = Field(5, ge=1, description="Connections kept open by a process (PostgreSQL).")


class IngestSettings(Section):
    """The ingest actors and the sweep."""

    actors: int = Field(1, ge=1, description="Ingest actors; with Kafka each takes a share of the partitions.")
    batch_size: int = Field(32, ge=1, le=64, description="Images in one call to Serve.")
    linger: Seconds = Field(0.02, description="Seconds that a batch may wait to fill while others are scored.")
    calls_in_flight: int = Field(4, ge=1, description="Calls to Serve that an actor keeps under way.")
    max_attempts: int = Field(8, ge=1, description="Attempts on what may pass before it becomes a dead letter.")
    backoff_initial: Seconds = Field(0.25, description="First pause before another attempt; doubles, with jitter.")
    backoff_max: Seconds = Field(30.0, description="Longest pause before another attempt.")
    sweep_interval: Seconds = Field(300.0, description="Seconds between sweeps where Kafka is the event source.")
    embedded_sweep_interval: Seconds = Field(1.0, description="Seconds between sweeps that are the event source.")
    sweep_prefix: str = Field("", description="Only objects below this prefix are swept.")
    sweep_grace: Seconds = Field(
        60.0, description="With Kafka, an object younger than this is left to its notification."
    )


class ReceiverSettings(Section):
    """The DICOM receiver (C-ECHO, C-STORE)."""

    enabled: bool = Field(True, description="Whether the receiver listens.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(11112, description="Port; 0 takes a free one.")
    ae_title: str = Field("EDGERAD", min_length=1, max_length=16, description="Own AE title.")
    require_called_ae_title: bool = Field(True, description="Refuse associations that call another AE title.")
    calling_ae_titles: tuple[str, ...] = Field((), description="AE titles that may connect; empty: all.")
    addresses: tuple[str, ...] = Field((), description="IP addresses or networks that may connect; empty: all.")
    max_associations: int = Field(64, ge=1, description="Associations at a time.")
    network_timeout: Seconds = Field(60.0, gt=0, description="Seconds of silence after which an association ends.")
    max_object_bytes: int = Field(512 * 2**20, ge=1, description="Largest data set accepted, bytes.")

    @field_validator("addresses")
    @classmethod
    def _are_addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            ip_network(address, strict=False)  # a ValueError that names it
        return addresses


class GatewaySettings(Section):
    """The HTTP gateway: S3 events, STOW-RS, health and metrics."""

    enabled: bool = Field(True, description="Whether the gateway listens.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8042, description="Port; 0 takes a free one.")
    token: Secret = Field(Secret(), description="Bearer token (also accepted as Basic password). Generated if none.")
    max_event_bytes: int = Field(1 * 2**20, ge=1, description="Largest S3 event body, bytes.")
    max_stow_bytes: int = Field(1024 * 2**20, ge=1, description="Largest STOW-RS request, bytes.")
    max_stow_parts: int = Field(1000, ge=1, description="Most instances in one STOW-RS request.")
    allowed_hosts: tuple[Annotated[str, Field(pattern=f"^{HOST}$")], ...] = Field(
        (),
        description="Host names (NAME or NAME:PORT) that the gateway answers to besides its own address and localhost; "
        "a store that sends events to a name needs it here.",
    )
    sns_topics: tuple[str, ...] = Field((), description="SNS topic ARNs whose messages are taken.")
    kafka_timeout: Seconds = Field(10.0, description="Seconds to wait until a record is durable in Kafka.")


class ServeSettings(Section):
    """The Ray Serve application."""

    runtime: Literal["auto", "litert", "tensorflow"] = Field(
        "auto", description="Model runtime; auto: tensorflow with a GPU, litert without."
    )
    num_cpus: float = Field(1.0, gt=0, description="CPUs of a replica.")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of a replica; a fraction lets replicas share one.")
    threads: int = Field(1, ge=1, description="Threads of the CPU runtime in a replica.")
    decode_threads: int = Field(4, ge=1, description="Images a replica computes at a time; it fetches as many more.")
    min_replicas: int = Field(1, ge=1, description="Warm minimum.")
    max_replicas: int = Field(4, ge=1, description="Most replicas.")
    target_images_per_replica: int = Field(
        192, ge=1, description="Backlog and ongoing images (full calls) that one replica is for; scaling divides by it."
    )
    downscale_delay: Seconds = Field(30.0, description="Seconds of low load before a replica goes.")
    max_queued_requests: int = Field(64, ge=1, description="Calls that wait in a router before it pushes back.")
    max_object_bytes: int = Field(160 * 2**20, ge=1, description="Largest object that is fetched to be scored.")
    max_pixels: int = Field(64_000_000, ge=1, description="Most pixels of an image that is decoded.")
    view_threshold: float = Field(
        0.25, ge=-9, le=1, description="Least likeness to a frontal chest, about -1 to 1, to be scored; -9 scores all."
    )
    calibrate: bool = Field(True, description="Refit the calibration to this site's readings when it is better.")
    calibrate_readings: int = Field(100, ge=50, description="Readings of a model that a refit needs.")
    call_timeout: Seconds = Field(120.0, description="Seconds after which a call to Serve is tried again.")


class NotifySettings(Section):
    """Alerts and the outbox relay."""

    webhook_url: str | None = Field(None, description="URL that alerts are posted to; empty: dashboard only.")
    webhook_secret: Secret = Field(Secret(), description="Key that webhooks are signed with (Standard Webhooks).")
    poll_interval: Seconds = Field(1.0, description="Seconds between looks for new alerts and outbox events.")
    retry_initial: Seconds = Field(5.0, description="First pause after a failed webhook; doubles, with jitter.")
    retry_max: Seconds = Field(300.0, description="Longest pause after a failed webhook.")
    escalate_after: Seconds = Field(900.0, description="Seconds an alert may stay open before it is sent again.")


class ShipSettings(Section):
    """De-identification and shipping to the core."""

    enabled: bool = Field(True, description="Whether cases are shipped at all.")
    edge_id: str = Field("edge", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="Name of this edge at the core.")
    site_secret: Secret = Field(
        Secret(),
        description="256-bit key of the pseudonyms, base64; never leaves the hospital. Generated if none.",
    )
    keep_patient_characteristics: bool = Field(
        False, description="Whether sex, age (to 90 years), size, weight, smoking and pregnancy status go along."
    )
    keep_device_identity: bool = Field(
        False, description="Whether make, model, serial numbers and station name of the device go along."
    )
    random_share: Fraction = Field(0.02, description="Share of the certain cases that is shipped as a sample.")
    batch_size: int = Field(32, ge=1, description="Cases in one de-identification job.")
    batch_age: Seconds = Field(300.0, description="Oldest a queued case may get before a job starts with fewer.")
    actors: int = Field(1, ge=1, description="De-identification actors of a job.")
    niceness: int = Field(10, ge=0, le=19, description="Niceness of de-identification; that of scoring is 5.")
    image_timeout: Seconds = Field(900.0, description="Seconds that de-identifying one image may take.")
    poll_interval: Seconds = Field(5.0, description="Seconds between looks at the queue and for receipts.")
    retry_initial: Seconds = Field(5.0, description="First pause after a failed transfer; doubles, with jitter.")
    retry_max: Seconds = Field(900.0, description="Longest pause after a failed transfer.")
    signing_key: Secret = Field(
        Secret(), description="Ed25519 private key (PEM) that parcels are signed with. Generated if none."
    )
    part_bytes: int = Field(
        8 * 2**20, ge=5 * 2**20, description="A larger parcel is uploaded in parts of so many bytes, and resumed."
    )
    bytes_per_second: int = Field(0, ge=0, description="Bandwidth that uploads to the core may take; 0: all there is.")
    window: str = Field(
        "",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$",
        description="When parcels are uploaded, HH:MM-HH:MM by this machine's clock; empty: at any time.",
    )
    warn_backlog: int = Field(1000, ge=1, description="Open shipments beyond which the operations page warns.")
    warn_age: Seconds = Field(86_400.0, description="Age of the oldest open one beyond which the page warns.")


class CoreSettings(Section):
    """Where the core is (for an edge) and how it works (for a core)."""

    store: StoreSettings = Field(
        StoreSettings(bucket="edgerad-core"), description="The core's object store: shipments in, models out."
    )
    signing_key: Secret = Field(
        Secret(), description="Ed25519 private key (PEM) that bundles are signed with. Generated if none."
    )
    trusted_keys: tuple[str, ...] = Field(
        (),
        description="Ed25519 public keys (base64) of cores whose bundles this edge serves, besides the bundled, and "
        "whose receipts it believes.",
    )
    parcel_public_key: str = Field(
        "", description="X25519 public key (base64) of the core, which an edge seals parcels to."
    )
    parcel_key: Secret = Field(
        Secret(), description="X25519 private key (PEM) that the core opens parcels with. Generated if none."
    )
    parcel_key_before: Secret = Field(
        Secret(), description="The one before it, for parcels that were sealed before a change of keys."
    )
    edge_keys: tuple[str, ...] = Field(
        (), description="Edges that the core takes parcels of, EDGE_ID=KEY each, with Ed25519 public keys (base64)."
    )
    poll_interval: Seconds = Field(10.0, description="Seconds between looks for shipments, labels and models.")
    keep_receipts: Seconds = Field(
        7_776_000.0, description="Seconds that receipts are kept at the core, and longer for an edge that is off."
    )


class TrainSettings(Section):
    """Retraining at the core."""

    enabled: bool = Field(True, description="Whether the core retrains by itself.")
    min_new_labels: int = Field(100, ge=1, description="New labels that start a retraining.")
    workers: int = Field(2, ge=1, description="Ray Train workers.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of a worker.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of a worker.")
    epochs: int = Field(6, ge=1, description="Passes over the labelled cases and the rehearsal set.")
    batch_size: int = Field(16, ge=1, description="Images in a step of one worker.")
    learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate of AdamW.")
    seed: int = Field(20, description="Seed of everything random in training.")
    rehearsal_prefix: str = Field("datasets/rehearsal/", description="Core store prefix of the rehearsal set.")
    evaluation_prefix: str = Field("datasets/evaluation/", description="Core store prefix of the frozen set.")
    promote_confidence: Fraction = Field(0.95, description="Confidence that the candidate is better to promote it.")
    max_failures: int = Field(1, ge=0, description="Worker failures after which a run is given up.")


class DashboardSettings(Section):
    """The Streamlit dashboard."""

    enabled: bool = Field(True, description="Whether the dashboard is served.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8501, description="Port; 0 takes a free one.")
    refresh: Seconds = Field(5.0, description="Seconds between refreshes of a page's figures.")
    allowed_hosts: tuple[Annotated[str, Field(pattern=f"^{HOST}$")], ...] = Field(
        (),
        description="Host names (NAME or NAME:PORT) that the dashboard answers to besides its own address and "
        "localhost, such as the name of a reverse proxy.",
    )


class TelemetrySettings(Section):
    """Logs and metrics."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level logged.")
    log_format: Literal["json", "console"] = Field("json", description="json, or console for people.")


class RaySettings(Section):
    """The Ray cluster."""

    address: str | None = Field(None, description="Ray address; empty: a cluster of this process on this machine.")
    num_cpus: int | None = Field(None, ge=1, description="CPUs a local cluster believes to have; empty: counted.")
    object_store_bytes: int = Field(256 * 2**20, ge=80 * 2**20, description="Object store of a local cluster.")
    namespace: str = Field("edgerad", description="Ray namespace of the actors.")
