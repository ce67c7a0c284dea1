"""Assessments kept: in this process, in Redis, and once for all that wait for the same one."""
