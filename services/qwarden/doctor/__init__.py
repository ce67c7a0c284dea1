"""What `qwarden doctor` looks at: probes that ask, and pure modules that judge the answers."""
