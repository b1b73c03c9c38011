"""The programs that the sides run, each under its own interpreter."""
