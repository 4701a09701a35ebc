"""Structured logs that cannot carry patient data."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    from edgerad.sections import TelemetrySettings

SAFE_FIELDS = frozenset({
    "actor", "address", "alert_id", "alerts", "assessed", "assessment_id", "attempt", "attempts", "backlog",
    "batch", "bytes", "cases", "channel", "component", "count", "edge_id", "error", "finding", "host", "image_id",
    "lag", "model_digest", "parcel_id", "partition", "pid", "port", "quarantined", "reason", "replicas",
    "retry_in", "role", "seconds", "shipment_id", "shipments", "state", "status", "topic", "training_run_id",
    "url", "workers",
})  # fmt: skip
"""Fields that a log line may carry. Any other is dropped and named: a patient's name cannot slip in by a new field."""


def _drop_unsafe(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    always = {"event", "level", "logger", "timestamp"}
    unsafe = sorted(set(event) - SAFE_FIELDS - always)
    for name in unsafe:
        del event[name]
    # An exception's text can quote its input; its type tells what went wrong without.
    if isinstance(event.get("error"), BaseException):
        event["error"] = type(event["error"]).__name__
    if unsafe:
        event["dropped_fields"] = unsafe
    return event


class _StandardError:
    """Standard error as it is when something is written: it can be redirected after logging was configured."""

    def write(self, text: str) -> int:
        """Write to the standard error of now."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush the standard error of now."""
        sys.stderr.flush()


def configure_logging(settings: TelemetrySettings) -> None:
    """Send logs to standard error as JSON or for people; quiet the libraries that log patient data."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _drop_unsafe,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _StandardError())),
        cache_logger_on_first_use=False,
    )
    for library in ("botocore", "boto3", "urllib3", "kafka", "httpx", "uvicorn.access"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for library in ("pydicom", "pynetdicom"):  # their errors quote what they could not read
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - the signature is that of warnings.showwarning
    line: str | None = None,  # noqa: ARG001
) -> None:
    # pydicom warns of values by quoting them: where a warning comes from says enough.
    del message
    get_logger("python").warning("a library warns", reason=f"{Path(filename).name}:{lineno}", error=category.__name__)


def get_logger(component: str) -> Any:
    """Return the logger of a component; log `image_id`, never a key, a name or a header value."""
    return structlog.get_logger().bind(component=component)
