"""What a thief makes of what he took: attacks on stolen stores, with public statistics as his knowledge."""
