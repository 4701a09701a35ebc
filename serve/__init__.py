"""The Ray Serve application: decoding, the model bundle and its runtimes, triage, hot swap."""
