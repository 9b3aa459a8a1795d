"""Who takes part: each module is one library, used as its documentation shows."""
