"""The cluster that development, the demo and the tests run on: ``python -m dev.cluster up|down|status``."""
