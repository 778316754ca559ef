"""The world to readings, one file per source."""
