"""A training job around verl: its overrides, checks, identity, watchdog and records."""
