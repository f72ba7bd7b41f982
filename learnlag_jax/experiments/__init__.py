"""The walk: real data in, runs, and a report out. May use every room; no room imports it.

`claims` holds the nouns (Claim, Figure, Table, Chapter), `data` the real inputs with their hashes, one file a
chapter derives and checks the paper's equations, `report` writes what a person reads, `cli` is the command line.
"""
