"""`edgerad deidentify`: clean copies of files and folders, without Ray; the work itself is done in another process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ship.deidentify import Clean, Quarantined

    Engine = Callable[[bytes, list[str]], Clean | Quarantined]

_LINK = ("link", "a link is not followed: give what it leads to as SRC")
_SPECIAL = ("no-file", "neither a file nor a folder")


def deidentify(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A DICOM, JPEG or PNG file, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder that the clean copies go into.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a file.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the text engines.")] = 1,
) -> None:
    """De-identify files: each gets a verified clean copy under a new name, or is quarantined (no copy) with the reason.

    A file that crashes the process twice, or takes longer than ship.image_timeout, is quarantined.
    The exit status is 0 only when every file was written or quarantined, 1 when one could not be read or written, 2
    when nothing was begun. Input files are never touched, links are not followed.
    """
    from edgerad.settings import load_settings
    from ship.apart import Apart
    from ship.deidentify import Options
    from ship.keys import KeyMissing, site_key

    source, target = source.resolve(), target.resolve()
    settings = load_settings()
    try:
        wrong = _wrong(source, target)
        if wrong is None:
            key = site_key(settings)
            target.mkdir(parents=True, exist_ok=True)
    except KeyMissing as error:
        wrong = str(error)
    except OSError as error:
        wrong = f"{target} cannot be made ({type(error).__name__})"
    if wrong is not None:
        if as_json:
            typer.echo(json.dumps({"source": str(source), "error": wrong, "verified": False}))
        typer.echo(f"edgerad deidentify: {wrong}", err=True)
        sys.exit(2)
    options = Options(
        threads=threads,
        keep_characteristics=settings.ship.keep_patient_characteristics,
        keep_device=settings.ship.keep_device_identity,
    )
    failed, apart = 0, Apart(key, options, settings.ship.image_timeout)
    try:
        for path, hindrance in _files(source, target):
            line = hindrance or _one(path, target, apart.deidentify, settings.serve.max_object_bytes)
            line = {"source": str(path), **line}
            failed += "error" in line
            typer.echo(json.dumps(line) if as_json else _plain(line))
    finally:
        apart.close()
    raise typer.Exit(1 if failed else 0)


def _wrong(source: Path, target: Path) -> str | None:
    if not source.exists():
        return f"{source} does not exist"
    if not source.is_file() and not source.is_dir():
        return f"{source} is neither a file nor a folder"
    if target.exists() and not target.is_dir():
        return f"{target} is a file; name a folder that the clean copies go into"
    if target == source:
        return "DST is SRC; name another folder, which may lie in SRC, that the clean copies go into"
    return None


def _files(source: Path, target: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Everything that is no folder, in order, each with what hinders it; a target in the source is not read again."""
    if source.is_file():
        yield source, None
        return
    try:
        entries = sorted(os.scandir(source), key=lambda entry: entry.name)
    except OSError as error:
        yield source, _error(f"cannot be listed ({type(error).__name__}): check that it may be read")
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            yield path, _kept(*_LINK)
        elif entry.is_dir(follow_symlinks=False):
            if path != target:
                yield from _files(path, target)
        else:
            yield path, None if entry.is_file(follow_symlinks=False) else _kept(*_SPECIAL)


def _kept(reason: str, detail: str, boxes: list[Any] | None = None) -> dict[str, Any]:
    return {"quarantined": True, "reason": reason, "detail": detail, "boxes": boxes or [], "verified": False}


def _error(text: str) -> dict[str, Any]:
    return {"error": text, "verified": False}


def _one(path: Path, target: Path, engine: Engine, max_bytes: int) -> dict[str, Any]:
    from ship.deidentify import DICOM, Quarantined

    try:
        if path.stat().st_size > max_bytes:
            return _kept("too-large", "larger than serve.max_object_bytes")
        data = path.read_bytes()
    except OSError as error:
        return _error(f"cannot be read ({type(error).__name__}): check that it exists and may be read")
    result = engine(data, [path.stem])
    if isinstance(result, Quarantined):
        return _kept(result.reason.value, result.detail, [box.as_list() for box in result.boxes])
    # The name is made of the keyed digest of the source: file names carry names of patients.
    name = result.record["source"][:32] + (".dcm" if result.media_type == DICOM else ".png")
    output = target / name
    try:
        _write(output, result.data)
    except OSError as error:
        return _error(f"the copy cannot be written ({type(error).__name__}): check space and rights of DST")
    return {"output": str(output), "boxes": result.record["boxes"], "verified": True}


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all; the same file from an earlier run stays as it is."""
    if path.exists() and path.read_bytes() == data:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _plain(line: dict[str, Any]) -> str:
    if "output" in line:
        return f"clean        {line['source']} -> {line['output']} ({len(line['boxes'])} boxes)"
    if "quarantined" in line:
        return f"quarantined  {line['source']}: {line['reason']}: {line['detail']}"
    return f"error        {line['source']}: {line['error']}"
