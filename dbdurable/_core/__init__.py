"""The pure rules of dbdurable: no I/O, no threads, no clock, no database driver."""
