"""What a curation tells of itself: a page, a card, one clip's story, the difference of two versions."""
