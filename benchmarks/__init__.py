"""Figures against the budgets. Each module here has one `main() -> None` that prints a table."""
