"""The review service over HTTP: who asks is known, what is asked is checked, in one transaction."""
