"""Tells people what needs them: rules, readings, states, channels. `core` has no clock, no I/O."""
