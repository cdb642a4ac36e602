"""`anwen rehearse outage`: three zones under load, one of them killed, hung, cut off, and what callers see of it."""
