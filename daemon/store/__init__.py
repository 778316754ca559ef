"""History and audit: what happened, kept for people. Nothing is controlled by it."""
