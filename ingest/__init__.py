"""Everything that lets an X-ray in, up to the hand-off to Serve."""
