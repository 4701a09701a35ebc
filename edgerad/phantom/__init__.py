"""Synthetic frontal chest radiographs: the demo's input and many tests' data; nobody was X-rayed for them."""

from edgerad.phantom.bad import BadInput, bad_inputs
from edgerad.phantom.dicom import SYNTAXES, Syntax, to_dicom
from edgerad.phantom.files import Record, iterate_set, to_jpeg, write_set
from edgerad.phantom.identity import identity
from edgerad.phantom.render import render
from edgerad.phantom.sample import random_spec
from edgerad.phantom.scanner import SCANNERS
from edgerad.phantom.spec import ABNORMAL, FINDINGS, Box, Finding, Label, Phantom, PhantomSpec, TextStyle

__all__ = [
    "ABNORMAL",
    "FINDINGS",
    "SCANNERS",
    "SYNTAXES",
    "BadInput",
    "Box",
    "Finding",
    "Label",
    "Phantom",
    "PhantomSpec",
    "Record",
    "Syntax",
    "TextStyle",
    "bad_inputs",
    "identity",
    "iterate_set",
    "random_spec",
    "render",
    "to_dicom",
    "to_jpeg",
    "write_set",
]
