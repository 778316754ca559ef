"""The fault machine: production controllers and agents in virtual time, attacked until they hold.

One seed draws a site, the faults that exist and their rates; the same seed gives the same run to
the last bit. What it judges is true power and true temperature, never what a controller believes.
"""
