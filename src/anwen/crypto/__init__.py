"""Keys, pseudo-random functions, envelopes, blind index, Merkle trees and grants. Pure: randomness and time come in."""
