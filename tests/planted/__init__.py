"""Bugs planted into production logic, to prove that the fault machine finds them."""
