"""Oracles: the methods once more, as plain float64 loops written from the papers and not from the package.

Slow on purpose. An oracle shares no code with what it checks, spells every sum as a loop, and returns the signed raw
map of the formula: no final ReLU, no scaling. `upsampling.heat` is the one place where a raw map becomes a picture.
"""
