"""Every statement that executors run, as constants. Functions for outsiders are in migrations/."""
