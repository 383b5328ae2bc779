"""kept held against transformers, on tiny random checkpoints saved to disk and loaded by kept."""
