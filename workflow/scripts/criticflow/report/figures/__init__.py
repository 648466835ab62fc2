"""The figures of a report, each with its numbers."""
