"""Who executes the denoiser: torch here; other runtimes speak the same protocol."""
