"""Several real processes, a nemesis and an oracle: `python -m tests.chaos --minutes 10 --seed 7`."""
