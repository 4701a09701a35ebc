"""Reading images: from bytes to the grey values that the modality meant, or a refusal that keeps whose image it is.

Every reader of pixels uses this package: scoring, the dashboard, de-identification and the core.
"""
