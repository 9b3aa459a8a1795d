"""Services of an executor: claim, heartbeat, recover, wake. They run on threads that never run user code."""
