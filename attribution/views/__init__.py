"""How a result is shown. A view reads the plain dict of a result and nothing else of the library."""
