"""What the operators' commands share: where the broker is, one connection, what is known, words."""
