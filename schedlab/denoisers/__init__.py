"""Denoisers: the contract, the transformer, exact tables for tests, loading, cost."""
