"""The core: intake of shipments, labels, training, evaluation, registry and rollout."""
