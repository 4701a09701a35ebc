"""edgerad: X-ray triage at the hospital's edge, learning at the centre. This package is the shared kernel."""

__version__ = "0.1.0"
