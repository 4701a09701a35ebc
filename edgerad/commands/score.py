"""`edgerad score`: judge files offline, by the same code as the Serve replica, without Ray and TensorFlow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgerad.settings import load_settings

if TYPE_CHECKING:
    from serve.score import Scorer

BATCH = 16
NO_IMAGES = frozenset({".csv", ".json", ".jsonl", ".log", ".md", ".toml", ".txt", ".xml", ".html"})
EXIT_UNJUDGED = 3


def score(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders that are searched to any depth.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line and file.")] = False,
    model: Annotated[Path | None, typer.Option(help="Bundle directory; else the model that ships.")] = None,
) -> None:
    """Score chest radiographs (DICOM, JPEG, PNG) for pneumonia.

    In folders, hidden files and tables or texts (.csv, .json, .txt …) are passed over; a file named on the command line
    is always judged. Exit status: 0 if every file was judged, 3 if some were not (each has an `error`), 2 if nothing
    could be done (no such path, no files, a model that must not be used).
    """
    from serve.bundle import BundleError, bundled_keys, parse_trusted_keys
    from serve.score import open_scorer

    files = list(find_files(paths))
    if not files:
        _stop("there are no files in what was named")
    try:
        keys = {**bundled_keys(), **parse_trusted_keys(load_settings().core.trusted_keys)}
        scorer = open_scorer(model, trusted_keys=keys)
    except BundleError as error:
        _stop(str(error))
    rows = score_files(scorer, files)
    failed = _print_json(rows) if as_json else _print_table(rows, len(files))
    raise typer.Exit(EXIT_UNJUDGED if failed else 0)


def find_files(paths: list[Path]) -> Iterator[Path]:
    """Yield the named files, and the images in the named folders in name order; a missing path is yielded too."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for found in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
            if found.is_file() and not hidden and found.suffix.lower() not in NO_IMAGES:
                yield found


def score_files(scorer: Scorer, files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield one row a file, in order: `file`, then a score or an `error`; decoding runs one batch ahead."""
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        ahead = [pool.submit(_prepare, scorer, file) for file in batches[0]]
        for number, batch in enumerate(batches):
            prepared = [future.result() for future in ahead]
            following = batches[number + 1] if number + 1 < len(batches) else []
            ahead = [pool.submit(_prepare, scorer, file) for file in following]
            for file, result in zip(batch, scorer.score_prepared(prepared), strict=True):
                yield {"file": str(file), **_row(result)}


def _prepare(scorer: Scorer, file: Path) -> Any:
    from imaging.refusal import Unreadable

    try:
        if (size := file.stat().st_size) > scorer.limits.max_bytes:
            return Unreadable("too-large", f"{size} bytes, the limit is {scorer.limits.max_bytes}")
        data = file.read_bytes()
    except OSError as error:
        return Unreadable("not-found", f"the file cannot be read ({error.strerror})")
    return scorer.prepare(data)


def _row(result: Any) -> dict[str, Any]:
    from edgerad.reasons import REASONS
    from imaging.refusal import Unreadable

    if isinstance(result, Unreadable):
        return {"error": str(result), "reason": result.reason, "advice": REASONS[result.reason]}
    return {
        "finding": result.finding,
        "probability": round(result.probability, 6),
        "triage": result.triage,
        "model": result.model_digest,
        "calibration": result.calibration_version,
        "thresholds": result.threshold_version,
    }


def _print_json(rows: Iterator[dict[str, Any]]) -> int:
    failed = 0
    for row in rows:
        failed += "error" in row
        typer.echo(json.dumps(row, ensure_ascii=False))
    return failed


def _print_table(rows: Iterator[dict[str, Any]], count: int) -> int:
    failed = 0
    models = set()
    for row in rows:
        if "error" in row:
            failed += 1
            typer.echo(f"   –    not judged  {row['file']}: {row['error']}. {row['advice']}")
        else:
            models.add(f"{row['finding']}, model {row['model'][:12]}")
            typer.echo(f"{row['probability']:7.1%}  {row['triage']:<10}  {row['file']}")
    typer.echo(f"{count - failed} of {count} files judged" + "".join(f" ({text})" for text in sorted(models)))
    return failed


def _stop(message: str) -> NoReturn:
    typer.echo(f"edgerad: {message}", err=True)
    raise typer.Exit(2)
