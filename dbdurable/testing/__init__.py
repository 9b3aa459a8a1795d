"""For tests of applications: the fixture `durable_harness`, and faults at every point (`dbdurable.testing.crash`)."""

from dbdurable.testing.harness import Harness

__all__ = ["Harness"]
