"""Tools for tests of durable code."""
