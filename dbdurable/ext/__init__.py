"""Doors to other libraries; nothing inside imports them."""
