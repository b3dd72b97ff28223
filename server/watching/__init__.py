"""What the server watches of itself: recall on probes and of the index, drift of queries, and what operators ask for.

Each watch has its own thread or none, gives way to queries, and puts its figures on the registry as its own collector.
"""
