"""Turns features into scores. Knows no broker, no database and no clock of its own."""
