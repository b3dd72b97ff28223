"""What `make demo` shows: a catalogue that the project renders itself, and the story told with it."""
