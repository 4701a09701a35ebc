"""The demo: both roles on one machine, X-rays in, and the whole loop turned once before one's eyes."""
