"""Labels and archives of others become a source folder; numbers of a source."""
