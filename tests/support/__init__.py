"""What tests share: `wait` (the only place where a test waits), `databases` (servers and clones), `plans`."""
