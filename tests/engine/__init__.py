"""The engine over a toy model with known logits."""
