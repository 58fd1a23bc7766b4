"""The paper's ablations, trained and scored at small size in the world of ToyDance."""
