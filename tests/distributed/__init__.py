"""Tests of sharded training: several gloo processes on this machine train as one process does."""
