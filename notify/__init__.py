"""What follows an assessment: the outbox relay and alerts that stay open until a person acknowledges."""
