"""The demo: the whole system on a simulated row, through a real trace and a UPS failure."""
