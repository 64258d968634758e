"""A client of another company, written from SPEC.md alone."""
