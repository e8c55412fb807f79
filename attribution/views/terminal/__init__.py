"""How findings are shown in a terminal. A view reads the plain dict of a finding and nothing else of the library."""
