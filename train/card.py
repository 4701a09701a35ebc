"""The model card: everything a hospital may ask of a bundle, written out of the bundle alone, figures included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from serve.bundle import Bundle

WATTS_PER_CORE = 15
TITLES = {
    "validation": "validation: other patients of the training hospital",
    "test": "test: never trained, tuned or selected on",
    "phantom-standard": "phantoms, standard device",
    "phantom-portable": "phantoms, portable device",
    "phantom-legacy-cr": "phantoms, a device never seen in training",
}
FIGURES = ("auroc", "accuracy", "sensitivity", "specificity", "ece")
GOALS = {"auroc": 0.985, "accuracy": 0.945, "sensitivity": 0.95, "specificity": 0.92}
"""What was set out for the test set, at the bundle's operating point."""
MIN_CAUGHT, MAX_UNKNOWN = 0.6, 0.15
MAX_CORRELATION, MAX_FRAME_AUROC, MAX_MEDIAN, MAX_FLIPS = 0.15, 0.65, 0.02, 0.02


def model_card(bundle: Bundle) -> str:
    """Return the card of a bundle as Markdown; the same bundle always gives the same text."""
    return "\n".join(line for section in _sections(bundle) for line in (*section, "")).rstrip() + "\n"


def _sections(bundle: Bundle) -> Iterator[list[str]]:
    manifest = bundle.manifest
    yield [
        f"# Model card: {manifest.finding}",
        "",
        "Written by `edgerad models card` out of the bundle; do not edit it.",
        "",
        "**Not a medical device. Trained on children's chest X-rays of one hospital, and on synthetic ones.**",
    ]
    yield _identity(bundle)
    yield _use(bundle)
    yield _data(bundle)
    yield _figures(bundle)
    yield _thresholds(bundle)
    yield _subgroups(bundle)
    yield _shortcuts(bundle)
    yield _runtimes(bundle)
    yield _effort(bundle)
    if manifest.training.tried:
        yield ["## What was tried", "", *(f"- {line}" for line in manifest.training.tried)]
    yield [
        "## Limits",
        "",
        "- Children of one hospital: what it says of adults, other hospitals and other devices is not known.",
        "- It knows one finding. Everything else that a radiograph can show is outside of it, however grave.",
        "- Labels are of the image as a whole, made by readers of the published set; some are wrong.",
        "- A probability is calibrated for where it was measured: review 100 of your own and look at the trends.",
        "- The activation map shows where evidence was found, not why, and is as coarse as its cells.",
    ]


def _identity(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    calibration, thresholds = manifest.calibration, manifest.thresholds
    size = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    return [
        "## The bundle",
        "",
        f"- digest `{bundle.digest}`, made {manifest.created}, {size:.1f} MB",
        f"- architecture {manifest.architecture}, one grey channel, {manifest.input_size} pixels a side",
        f"- preprocessing {manifest.preprocessing_version}",
        f"- calibration {calibration.version}: p = sigmoid({calibration.a:g} logit + {calibration.b:g})",
        f"- thresholds {thresholds.version}: high above {thresholds.high:g}, low below {thresholds.low:g}",
        f"- parent {f'`{manifest.parent}`' if manifest.parent else 'none'}",
    ]


def _use(bundle: Bundle) -> list[str]:
    return [
        "## Intended use",
        "",
        f"Putting frontal chest X-rays in the order in which people should read them, by the risk of"
        f" {bundle.manifest.finding}; a person reads every one of them. Not for diagnosis, not for ruling out.",
    ]


def _data(bundle: Bundle) -> list[str]:
    training = bundle.manifest.training
    return [
        "## Training data",
        "",
        f"{training.cases} images, set `{training.manifest_digest[:16]}`:",
        "",
        *(f"- {count} of {name}" for name, count in sorted(training.sources.items())),
        "",
        "Licences and attribution:",
        "",
        *(f"- {line}" for line in training.attribution),
    ]


def _figures(bundle: Bundle) -> list[str]:
    lines = [
        "## Figures",
        "",
        "With 95 % intervals: AUROC by DeLong, shares by Wilson, calibration error (ECE, 10 bins) by bootstrap. The"
        " operating point is a calibrated probability of 0.5.",
        "",
        "| set | cases | AUROC | accuracy | sensitivity | specificity | ECE |",
        "|---|---|---|---|---|---|---|",
    ]
    metrics = bundle.manifest.metrics
    for name in _ordered(metrics):
        cells = " | ".join(_interval(metrics[name][figure]) for figure in FIGURES)
        lines.append(f"| {TITLES.get(name, name)} | {metrics[name]['cases']} | {cells} |")
    if "test" in metrics:
        lines += ["", "Against what was set out for the test set:", ""]
        for figure, goal in GOALS.items():
            value = metrics["test"][figure]["value"]
            lines.append(f"- {figure} at least {goal:g}: {value:.3f}, **{'met' if value >= goal else 'not met'}**")
    return lines


def _thresholds(bundle: Bundle) -> list[str]:
    measured = {name: probe["thresholds"] for name, probe in bundle.manifest.probes.items() if probe.get("thresholds")}
    if not measured:
        return ["## Thresholds", "", "Not measured for this bundle."]
    used = bundle.thresholds
    lines = [
        "## Thresholds",
        "",
        "What is unknown is asked of a person, so an error there does no harm. An error is a call at 0.5 that the label"
        f" contradicts. Set out for the test set: at least {MIN_CAUGHT:.0%} of the errors unknown, at most"
        f" {MAX_UNKNOWN:.0%} of the images. The bundle's thresholds (bold) were chosen on the validation set alone. To"
        " choose others, `edgerad calibrate --show` measures these pairs on a site's own readings; another pair is"
        " another bundle.",
    ]
    for name in _ordered(measured):
        lines += [
            "",
            f"### On {TITLES.get(name, name)}",
            "",
            "| low below | high above | unknown | of the errors | low, but positive | high, but negative | |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in measured[name]:
            shares = (row["unknown"], row["caught"], row["low_wrong"], row["high_wrong"])
            cells = ["–" if share is None else f"{share:.1%}" for share in shares]
            met = _met((row["caught"] or 0) >= MIN_CAUGHT and row["unknown"] <= MAX_UNKNOWN)
            mark = "**" if (row["low"], row["high"]) == (used.low, used.high) else ""
            ends = f"{mark}{row['low']:.2f}{mark} | {mark}{row['high']:.2f}{mark}"
            lines.append(f"| {ends} | {' | '.join(cells)} | {met} |")
    return lines


def _subgroups(bundle: Bundle) -> list[str]:
    groups = {name: probe["subgroups"] for name, probe in bundle.manifest.probes.items() if probe.get("subgroups")}
    if not groups:
        return ["## Subgroups", "", "None were measured: the data name neither age, sex nor device."]
    lines = [
        "## Subgroups",
        "",
        "The data name neither age nor sex. By what the file names tell of the abnormal, and by the image's width:",
        "",
        "| set | group | cases | called right |",
        "|---|---|---|---|",
    ]
    for name, found in groups.items():
        lines += [f"| {name} | {group} | {row['cases']} | {_interval(row['right'])} |" for group, row in found.items()]
    return lines


def _shortcuts(bundle: Bundle) -> list[str]:
    lines = ["## Shortcuts", ""]
    probes = bundle.manifest.probes
    if not probes:
        return [*lines, "Not measured for this bundle."]
    for name in _ordered(probes):
        found = probes[name]
        lines += [f"### On {TITLES.get(name, name)}", ""]
        frame = found["frame_only"]["auroc"]
        met = _met(frame <= MAX_FRAME_AUROC)
        lines.append(f"- Frame alone, the middle filled: AUROC {frame:.3f} (at most {MAX_FRAME_AUROC}: {met})")
        for what, values in found["correlations"].items():
            both = ", ".join(f"{label} {value:+.2f}" for label, value in values.items())
            worst = max(abs(value) for value in values.values())
            bound = f" (at most {MAX_CORRELATION} in size: {_met(worst <= MAX_CORRELATION)})" if what == "width" else ""
            lines.append(f"- Rank correlation of the logit with {what} within a class: {both}{bound}")
        if alone := found.get("width_alone"):
            lines += _width_alone(alone)
        lines += [
            "",
            f"A change should move a probability by no more than {MAX_MEDIAN} in the median, and flip no more than"
            f" {MAX_FLIPS:.0%} of the triage classes:",
            "",
            "| change | median | 95th percentile | classes flipped | |",
            "|---|---|---|---|---|",
        ]
        for change, row in found["invariances"].items():
            met = _met(row["median"] <= MAX_MEDIAN and row["flips"] <= MAX_FLIPS)
            lines.append(f"| {change} | {row['median']:.3f} | {row['p95']:.3f} | {row['flips']:.1%} | {met} |")
        lines.append("")
    return lines[:-1]


def _width_alone(alone: Mapping[str, Any]) -> list[str]:
    equal, drawn = alone["equal"], alone["drawn"]
    least, most = alone["widths"]
    return [
        f"- Of that, what hangs on resolution: with every image given a width drawn from the set's own ({least} to"
        f" {most} pixels), the correlation with the width given is normal {drawn['normal']:+.2f}, abnormal"
        f" {drawn['abnormal']:+.2f}; a probability moves by {drawn['shift']['median']:.3f} in the median, and"
        f" {drawn['shift']['flips']:.1%} of the classes flip",
        f"- Of that, what hangs on content: with every image at {alone['columns']} pixels a row, none sharper than"
        f" another, the correlation with the width that it had is normal {equal['normal']:+.2f}, abnormal"
        f" {equal['abnormal']:+.2f}. What is left is of what the images show: age, build, collimation or severity may"
        " go with width; the data do not name them",
    ]


def _runtimes(bundle: Bundle) -> list[str]:
    parity, kind = bundle.manifest.parity, bundle.manifest.training.config.get("litert", "float16")
    return [
        "## Runtimes",
        "",
        f"LiteRT on CPUs ({kind}), whose figures all of these are, TensorFlow on GPUs (in floats), from the same"
        f" weights. Over {parity.cases} cases the largest difference"
        f" of a probability was {parity.max_difference:.4f} (at most {parity.tolerance:g} allowed), and"
        f" {parity.triage_flips} triage classes differed. Each start proves the runtime on"
        f" {len(bundle.manifest.golden.probabilities)} golden cases, probabilities and maps.",
    ]


def _effort(bundle: Bundle) -> list[str]:
    training = bundle.manifest.training
    lines = ["## Time and energy of training", "", f"{training.seconds / 60:.0f} minutes"]
    if training.cpu_seconds is not None:
        hours = training.cpu_seconds / 3600
        lines[-1] += (
            f", at most {hours:.2f} core hours; about {hours * WATTS_PER_CORE:.0f} Wh if a busy core draws"
            f" {WATTS_PER_CORE} W (an assumption: no meter was there)"
        )
    lines[-1] += ". Settings:"
    return [*lines, "", *(f"- {name}: {_setting(value)}" for name, value in training.config.items())]


def _ordered(sets: Iterable[str]) -> list[str]:
    """The sets' names in the order of their titles, those without one last."""
    titled = list(TITLES)
    return sorted(sets, key=lambda name: titled.index(name) if name in titled else len(titled))


def _interval(figure: Mapping[str, Any]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})"


def _setting(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(
        f"{name} ({_setting(part)})" if isinstance(part, Mapping) else f"{name} {part}" for name, part in value.items()
    )


def _met(condition: bool) -> str:
    return "met" if condition else "**not met**"
