"""De-identification, verification, and store-and-forward to the core."""
