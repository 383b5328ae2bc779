"""A short generation, step by step: what is computed, what is read again, and what can go."""
