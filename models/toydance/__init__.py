"""ToyDance: small networks of the real classes, and the commands that fit them to the world of `datasets.toydance`."""
