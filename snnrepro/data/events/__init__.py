"""Event cameras: files to events, events to frames, a cache of frames, and a simulated recording of images."""
