"""How nothing is lost: pure deciders, and the one async driver that waits and acts."""
