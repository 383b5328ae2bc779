"""kept inside other libraries: thin and optional, each imported only when asked for by name."""
