"""Fake patients and studies: names, numbers and dates that look real and belong to nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from edgerad.phantom.spec import PhantomSpec

UID_ROOT = "2.25."
"""UUID-derived UIDs (PS3.5 section B.2) need no registered root."""

_FEMALE = "Anna Maria Grace Priya Chloe Leila Sofia Ingrid Amara Hannah Beatriz Yasmin Nora Elif Ruth Camille"
_MALE = "James Omar Lucas Ivan Kofi Mateo Henrik Rohan Daniel Pavel Tariq Hugo Samuel Emre Nils Victor"
_FAMILY = (
    "Okafor Lindqvist Marsh Petrov Haddad Fernandes Novak Whitfield Rao Castellano Brandt Osei Moreau Yilmaz "
    "Sandoval Kowalski Thorne Abernathy Iversen Delgado Pryce Mbeki Rasmussen Vandermeer"
)
# PersonName as it stands in the header, the same in Latin letters, SpecificCharacterSet (0008,0005)
_FOREIGN: tuple[tuple[str, str, str, str], ...] = (
    ("Müller^Jörg", "Mueller^Joerg", "M", "ISO_IR 100"),
    ("Sørensen^Åse", "Sorensen^Ase", "F", "ISO_IR 100"),
    ("Řezníčková^Zdeňka", "Reznickova^Zdenka", "F", "ISO_IR 101"),
    ("Кузнецова^Ольга", "Kuznetsova^Olga", "F", "ISO_IR 144"),
    ("Παπαδόπουλος^Νίκος", "Papadopoulos^Nikos", "M", "ISO_IR 126"),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou", "M", "\\ISO 2022 IR 87"),
    ("Hong^Gildong=洪^吉洞=홍^길동", "Hong^Gildong", "M", "\\ISO 2022 IR 149"),
    ("Wang^XiaoDong=王^小东", "Wang^XiaoDong", "M", "GB18030"),
    ("Nguyễn^Thị Hoa", "Nguyen^Thi Hoa", "F", "ISO_IR 192"),
    ("الخطيب^ليلى", "Al-Khatib^Layla", "F", "ISO_IR 192"),
)
_LAST_YEAR = datetime(2024, 12, 31)  # noqa: DTZ001 - adults come in this year, older than 24
_HOSPITALS = ("Northfield Children's Hospital", "St. Alban General", "Riverside Clinic", "Harbour District Hospital")
_DOCTORS = ("Ellery^Judith^^Dr", "Quist^Anders^^Dr", "Balogun^Femi^^Dr", "Tanaka^Yui^^Dr", "Reinholt^Karl^^Dr")
_OPERATORS = ("Sato^M", "Green^Pat", "Dubois^L", "Ortiz^R")


@dataclass(frozen=True, slots=True)
class Patient:
    """A person who does not exist."""

    name: str
    """PatientName (0010,0010)."""
    roman: str
    """Given and family name in Latin letters, as a device burns them in."""
    charset: str
    patient_id: str
    birth_date: date
    sex: str


@dataclass(frozen=True, slots=True)
class Visit:
    """One study of a patient."""

    when: datetime
    accession: str
    referrer: str
    operator: str
    institution: str
    station: str
    study_uid: str
    series_uid: str
    instance_uid: str
    age: str
    """PatientAge (0010,1010), as AS: 003D, 007M, 041Y."""


def identity(spec: PhantomSpec) -> tuple[Patient, Visit]:
    """Return who was X-rayed and when; the patient depends on the spec's patient number and body alone."""
    person = _patient(spec)
    rng = np.random.default_rng((spec.patient, spec.study, 0x5747))
    image = np.random.default_rng((spec.patient, spec.study, spec.seed, 0x1A6E))
    born = datetime(person.birth_date.year, person.birth_date.month, person.birth_date.day)  # noqa: DTZ001
    days = int(rng.integers(20, 6 * 365) if spec.body == "child" else (_LAST_YEAR - born).days - rng.integers(365))
    when = born + timedelta(days=days, seconds=int(rng.integers(6 * 3600, 22 * 3600)))
    site = int(rng.integers(len(_HOSPITALS)))
    visit = Visit(
        when=when,
        accession=f"A{rng.integers(10**6, 10**7)}",
        referrer=str(rng.choice(_DOCTORS)),
        operator=str(rng.choice(_OPERATORS)),
        institution=_HOSPITALS[site],
        station=f"XR{site + 1}-{spec.scanner[:6].upper()}"[:16],
        study_uid=_uid(rng),
        series_uid=_uid(image),
        instance_uid=_uid(image),
        age=_age(days),
    )
    return person, visit


def _patient(spec: PhantomSpec) -> Patient:
    rng = np.random.default_rng((spec.patient, spec.body == "child", 0x9A7))
    year = int(rng.integers(2010, 2018) if spec.body == "child" else rng.integers(1938, 2000))
    born = date(year, 1, 1) + timedelta(days=int(rng.integers(365)))
    patient_id = f"{rng.integers(10**5, 10**7)}"
    if rng.random() < 0.3:
        name, latin, sex, charset = _FOREIGN[int(rng.integers(len(_FOREIGN)))]
        family, given = latin.split("^")
        return Patient(name, f"{given} {family}", charset, patient_id, born, sex)
    sex = "F" if spec.patient % 2 else "M"
    given = str(rng.choice((_FEMALE if sex == "F" else _MALE).split()))
    family = str(rng.choice(_FAMILY.split()))
    return Patient(f"{family}^{given}", f"{given} {family}", "ISO_IR 100", patient_id, born, sex)


def _age(days: int) -> str:
    if days < 31:
        return f"{days:03d}D"
    return f"{days // 30:03d}M" if days < 730 else f"{int(days / 365.25):03d}Y"


def _uid(rng: np.random.Generator) -> str:
    """Return a version 4 UUID as a UID, PS3.5 section B.2."""
    value = int.from_bytes(rng.bytes(16), "big")
    value = (value & ~(0xF << 76)) | (0x4 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return f"{UID_ROOT}{value}"
