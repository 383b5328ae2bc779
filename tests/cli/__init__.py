"""The command line, in this process where that shows as much as in another."""
