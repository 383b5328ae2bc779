"""Laws that every cache keeps, whatever its kind."""
