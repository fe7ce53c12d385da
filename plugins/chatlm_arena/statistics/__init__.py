"""Statistics of votes beyond plain ratings; each module says what it assumes."""
