"""What tests share: `wait` (the only place where a test waits) and `databases` (servers and clones)."""
