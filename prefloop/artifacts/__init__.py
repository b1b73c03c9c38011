"""What each stage leaves behind: a folder with a manifest, hashes and parents, never a pickle."""
