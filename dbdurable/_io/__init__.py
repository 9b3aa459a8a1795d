"""Colour: the only package that knows psycopg, sync and async. It performs what `_protocol` asks for."""
