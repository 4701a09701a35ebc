"""`edgerad deidentify`: clean copies of files and folders, without Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ship.deidentify import Options
    from ship.keys import SiteKey


def deidentify(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A DICOM, JPEG or PNG file, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder that the clean copies go into.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a file.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the text engines.")] = 1,
) -> None:
    """De-identify files: each gets a verified clean copy under a new name, or is quarantined (no copy) with the reason.

    The exit status is 0 only when every file was written or quarantined. Input files are never touched.
    """
    from edgerad.settings import load_settings
    from ship.deidentify import Options
    from ship.keys import KeyMissing, site_key

    source, target = source.resolve(), target.resolve()
    if not source.exists():
        _stop(f"{source} does not exist")
    if target.exists() and not target.is_dir():
        _stop(f"{target} is a file; name a folder that the clean copies go into")
    settings = load_settings()
    try:
        key = site_key(settings)
    except KeyMissing as error:
        _stop(str(error))
    target.mkdir(parents=True, exist_ok=True)
    failed, options = 0, Options(threads=threads, keep_characteristics=settings.ship.keep_patient_characteristics)
    for path in _files(source, target):
        line = _one(path, target, key, options)
        failed += "error" in line
        typer.echo(json.dumps(line) if as_json else _plain(line))
    raise typer.Exit(1 if failed else 0)


def _stop(message: str) -> None:
    typer.echo(f"edgerad deidentify: {message}", err=True)
    sys.exit(2)


def _files(source: Path, target: Path) -> Iterator[Path]:
    """Every regular file, in order; a target inside the source is not read again, and no link is followed."""
    if source.is_file():
        yield source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.is_relative_to(target):
            yield path


def _one(path: Path, target: Path, key: SiteKey, options: Options) -> dict[str, Any]:
    from ship.deidentify import DICOM, Quarantined, deidentify

    line: dict[str, Any] = {"source": str(path)}
    try:
        data = path.read_bytes()
    except OSError as error:
        return line | {"error": f"cannot be read ({type(error).__name__}): check that it exists and may be read"}
    result = deidentify(data, key, options, hints=[path.stem])
    if isinstance(result, Quarantined):
        boxes = [box.as_list() for box in result.boxes]
        return line | {
            "quarantined": True,
            "reason": result.reason.value,
            "detail": result.detail,
            "boxes": boxes,
            "verified": False,
        }
    # The name is made of the keyed digest of the source: file names carry names of patients.
    name = result.record["source"][:32] + (".dcm" if result.media_type == DICOM else ".png")
    output = target / name
    try:
        _write(output, result.data)
    except OSError as error:
        return line | {"error": f"the copy cannot be written ({type(error).__name__}): check space and rights of DST"}
    return line | {"output": str(output), "boxes": result.record["boxes"], "verified": True}


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all; the same file from an earlier run stays as it is."""
    if path.exists() and path.read_bytes() == data:
        return
    draft = path.with_name(f".{path.name}.part")
    with draft.open("xb") as file:
        file.write(data)
    try:
        draft.rename(path)
    except OSError:
        draft.unlink()
        raise


def _plain(line: dict[str, Any]) -> str:
    if "output" in line:
        return f"clean        {line['source']} -> {line['output']} ({len(line['boxes'])} boxes)"
    if "quarantined" in line:
        return f"quarantined  {line['source']}: {line['reason']}: {line['detail']}"
    return f"error        {line['source']}: {line['error']}"
